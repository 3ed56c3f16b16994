"""Data sets of a hub: which files are fetched, what they cost, and what a manifest promises."""

import shutil
from collections import namedtuple

import pytest
from hub_server import COMMIT, Hub, serving, use
from typer.testing import CliRunner

from task_arithmetic.artifacts import PipelineError, canonical_json, read_json, write_json
from task_arithmetic.cli import app
from task_arithmetic.downloads import (
    MEGABYTE,
    Cost,
    check_disk,
    cost_of,
    fetch_splits,
    read_manifest,
)
from task_arithmetic.lineage import record_path

SOURCE = {"hub": "someone/pets", "revision": "main", "splits": {"train": "train", "test": "test"}}
FILES = {
    "README.md": b"pets",
    "data/train-00000-of-00002.parquet": b"a" * 1000,
    "data/train-00001-of-00002.parquet": b"b" * 2000,
    "data/test-00000-of-00001.parquet": b"c" * 500,
    "data/noisy-00000-of-00001.parquet": b"d" * 9000,
    "small/test-00000-of-00001.parquet": b"e" * 100,
}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with serving(Hub({("datasets", "someone/pets"): dict(FILES)})) as running:
        use(running, monkeypatch)
        yield running


def named(manifest, split):
    return [entry["path"].rpartition(COMMIT + "/")[2] for entry in manifest["splits"][split]]


def test_only_the_files_of_the_wanted_splits_are_fetched(hub, tmp_path):
    manifest, files = fetch_splits("pets", SOURCE, tmp_path)
    assert named(manifest, "train") == [name for name in FILES if "train" in name]
    assert named(manifest, "test") == ["data/test-00000-of-00001.parquet"]
    assert manifest["commit"] == COMMIT
    assert sorted(path.stat().st_size for path in files) == [500, 1000, 2000]
    assert hub.requests["file"] == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"config": "small", "splits": {"test": "test"}}, "small/test-00000-of-00001.parquet"),
        ({"splits": {"test": "data/noisy-*"}}, "data/noisy-00000-of-00001.parquet"),
    ],
)
def test_a_split_is_found_in_its_configuration_or_by_a_pattern(hub, tmp_path, changes, expected):
    manifest, _ = fetch_splits("pets", SOURCE | changes, tmp_path)
    assert named(manifest, "test") == [expected]


def test_a_split_without_files_says_what_there_is(hub, tmp_path):
    with pytest.raises(PipelineError, match=r"pets: expected files data/val-\*\.parquet in some.*"):
        fetch_splits("pets", SOURCE | {"splits": {"test": "val"}}, tmp_path)


def test_a_manifest_gives_the_files_back_and_notices_a_change(hub, tmp_path):
    manifest, files = fetch_splits("pets", SOURCE, tmp_path)
    path = tmp_path / "pets.json"
    write_json(path, manifest)
    assert sorted(map(len, read_manifest(path, "pets").values())) == [1, 2]
    files[0].write_bytes(b"x" * files[0].stat().st_size)
    with pytest.raises(
        PipelineError, match=r"found another content; delete .*pets\.json and rerun"
    ):
        read_manifest(path, "pets")
    files[0].unlink()
    with pytest.raises(PipelineError, match="found no file"):
        read_manifest(path, "pets")
    with pytest.raises(PipelineError, match="expected the download of cars"):
        read_manifest(path, "cars")


def test_the_cost_is_what_is_not_here_yet(hub, tmp_path):
    assert cost_of("pets", SOURCE, tmp_path) == Cost("pets", "someone/pets", 3500, 3500)
    _, files = fetch_splits("pets", SOURCE, tmp_path)
    assert cost_of("pets", SOURCE, tmp_path).missing == 0
    files[0].unlink()
    assert cost_of("pets", SOURCE, tmp_path).missing in {500, 1000, 2000}


def test_a_stated_size_stands_in_for_a_hub_that_does_not_answer(hub, tmp_path):
    hub.listing_faults.extend([(503, {})] * 100)
    found = cost_of("pets", SOURCE | {"size_mb": 7}, tmp_path)
    assert (found.size, found.stated) == (7 * MEGABYTE, True)
    with pytest.raises(PipelineError, match="could not be fetched"):
        cost_of("pets", SOURCE, tmp_path)


def test_a_disk_without_room_is_named_before_anything_is_fetched(tmp_path, monkeypatch):
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 5 * MEGABYTE))
    costs = [Cost("a", "a/a", 9 * MEGABYTE, 3 * MEGABYTE), Cost("b", "b/b", 2 * MEGABYTE, 0)]
    check_disk(costs, tmp_path / "not" / "there")
    with pytest.raises(PipelineError, match=r"expected 6 MB of free disk .* found 5 MB"):
        check_disk([*costs, *costs], tmp_path)


def test_the_download_step_records_every_file_beside_it(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = canonical_json({"dataset": "pets", "source": SOURCE})
    command = ["download", "--settings", settings, "--folder", "downloads"]
    done = CliRunner().invoke(app, [*command, "--manifest", "results/pets.json"])
    assert done.exit_code == 0, done.output
    for entry in read_json("results/pets.json")["splits"]["train"]:
        record = read_json(record_path(entry["path"]))
        assert record["facts"] == {"commit": COMMIT}
        hashes = {output["path"]: output["sha256"] for output in record["outputs"]}
        assert hashes[entry["path"]] == entry["sha256"]
