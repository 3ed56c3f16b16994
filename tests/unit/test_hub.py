"""Files from a hub that fails in every way: nothing corrupt is accepted, and a rerun finishes."""

import random

import pytest
from hub_server import COMMIT, Hub, serving, use
from huggingface_hub import constants

from task_arithmetic import hub as client
from task_arithmetic.artifacts import PipelineError

REPO, NAME = "someone/pets", "data/train-00000-of-00001.parquet"
CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture
def waits(monkeypatch):
    """Return the waits that were asked for; none of them is waited for."""
    found = []
    monkeypatch.setattr("tenacity.nap.time.sleep", found.append)
    return found


@pytest.fixture
def hub(monkeypatch, waits):
    files = {("datasets", REPO): {NAME: CONTENT, "README.md": b"pets\n"}}
    with serving(Hub(files, small={"README.md"})) as running:
        use(running, monkeypatch)
        monkeypatch.setattr(client, "CHUNK", 1 << 14)
        yield running


def fetch(folder, name=NAME, revision="main"):
    return client.fetch_file(REPO, name, revision, "dataset", folder)


def leftovers(folder):
    return list(folder.rglob("*.partial"))


def test_a_file_arrives_whole_and_is_not_fetched_twice(hub, tmp_path):
    path = fetch(tmp_path)
    assert path == tmp_path / NAME
    assert path.read_bytes() == CONTENT
    fetch(tmp_path)
    assert hub.requests["file"] == 1
    assert not leftovers(tmp_path)


def test_a_small_file_is_checked_against_gits_own_hash(hub, tmp_path):
    assert fetch(tmp_path, "README.md").read_bytes() == b"pets\n"
    hub.faults.extend([("damaged",)] * client.ATTEMPTS)
    with pytest.raises(PipelineError, match="another hash"):
        fetch(tmp_path / "again", "README.md")


def test_files_are_described_with_sizes_hashes_and_the_commit(hub):
    readme, shard = client.describe(REPO, "main")
    assert (readme.filename, readme.size, readme.sha256) == ("README.md", 5, None)
    assert (shard.size, shard.commit) == (len(CONTENT), COMMIT)
    assert len(shard.sha256) == 64


def test_a_commit_needs_no_look_up(hub):
    client.describe(REPO, COMMIT)
    assert hub.requests == {"tree": 1}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_error_is_waited_out_twice_as_long_each_time(hub, waits, tmp_path, status):
    hub.faults.extend([("status", status, {})] * 3)
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert waits == [1, 2, 4]


def test_a_server_that_says_when_to_come_back_is_obeyed(hub, waits, tmp_path):
    hub.listing_faults.append((429, {"Retry-After": "17"}))
    hub.faults.append(("status", 503, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}))
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert waits == [17, 0]


@pytest.mark.parametrize("fault", [("truncated",), ("silent", 0.8)])
def test_a_broken_transfer_goes_on_where_it_ended(hub, tmp_path, fault):
    hub.faults.append(fault)
    assert fetch(tmp_path).read_bytes() == CONTENT
    first, second = hub.ranges
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= len(CONTENT) // 2


def test_a_range_that_is_ignored_starts_the_file_again(hub, tmp_path):
    hub.faults.extend([("truncated",), ("whole",)])
    assert fetch(tmp_path).read_bytes() == CONTENT


def test_a_wrong_hash_is_never_accepted_and_another_attempt_may_do_better(hub, tmp_path):
    hub.faults.append(("damaged",))
    assert fetch(tmp_path).read_bytes() == CONTENT
    hub.faults.extend([("damaged",)] * client.ATTEMPTS)
    with pytest.raises(PipelineError, match=r"pets: .*found 300000 bytes with another hash"):
        fetch(tmp_path / "again")
    assert not (tmp_path / "again" / NAME).exists()
    assert not leftovers(tmp_path)


def test_a_damaged_continuation_is_never_accepted(hub, tmp_path):
    hub.faults.extend([("truncated",), ("damaged",)])
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert hub.requests["file"] == 3


def test_a_file_damaged_on_disk_is_fetched_again(hub, tmp_path):
    path = fetch(tmp_path)
    path.write_bytes(bytes(len(CONTENT)))
    assert fetch(tmp_path).read_bytes() == CONTENT


def test_giving_up_keeps_what_arrived_and_a_rerun_finishes(hub, tmp_path):
    hub.faults.append(("truncated",))
    hub.faults.extend([("status", 500, {})] * (client.ATTEMPTS - 1))
    with pytest.raises(PipelineError, match="run again, and it goes on where it ended") as error:
        fetch(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / NAME).exists()
    assert [path.stat().st_size for path in leftovers(tmp_path)] != [0]
    assert fetch(tmp_path).read_bytes() == CONTENT
    assert hub.ranges[-1].startswith("bytes=")


def test_a_gated_set_without_a_token_says_where_to_accept_its_terms(hub, tmp_path, monkeypatch):
    hub.gated.add(REPO)
    hub.tokens.add("hf_good")
    with pytest.raises(PipelineError) as error:
        client.fetch_file(REPO, NAME, "main", "dataset", tmp_path, "or set control: to another")
    assert str(error.value) == (
        f"{REPO}: a gated dataset: accept its terms at {hub.url}/datasets/{REPO} and set HF_TOKEN "
        "to a token of that account; or set control: to another"
    )
    assert hub.requests["file"] == 1
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert fetch(tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("someone/none", NAME, "main"), "someone/none: expected a dataset at .*found none"),
        ((REPO, NAME, "v7"), f"{REPO}: expected revision v7 at .*found none"),
        ((REPO, "data/no.parquet", "main"), f"{REPO}: expected the file data/no.parquet at"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named_at_once(hub, waits, tmp_path, arguments, message):
    with pytest.raises(PipelineError, match=message):
        client.fetch_file(*arguments, "dataset", tmp_path)
    assert waits == []


def test_no_server_is_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PipelineError, match=r"could not be fetched from http:") as error:
        fetch(tmp_path)
    assert "\n" not in str(error.value)


def test_offline_mode_is_named(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PipelineError, match="HF_HUB_OFFLINE is set; unset it to fetch"):
        fetch(tmp_path)


def test_a_model_is_fetched_by_the_same_call(hub, tmp_path):
    hub.files["models", "someone/clip"] = {"model.safetensors": CONTENT}
    path = client.fetch_file("someone/clip", "model.safetensors", "main", "model", tmp_path)
    assert path.read_bytes() == CONTENT
