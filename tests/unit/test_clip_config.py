"""The papers' experiment: its configuration is valid, and its data sets become our splits."""

import io
import os
import subprocess
from pathlib import Path

import datasets as hub_datasets
import numpy as np
import pytest
import yaml
from hub_server import Hub, serving, use
from PIL import Image
from pyarrow import parquet

from task_arithmetic.artifacts import PipelineError, canonical_json, write_json
from task_arithmetic.class_names import chosen_names, chosen_templates, readable
from task_arithmetic.config import check_config, finetuning_of
from task_arithmetic.datasets import make_splits
from task_arithmetic.downloads import fetch_splits, read_manifest
from task_arithmetic.splits import read_class_names, write_split

ROOT = Path(__file__).parents[2]
CLIP = yaml.safe_load((ROOT / "config" / "clip.yaml").read_text())
CLASSES = {
    "cars": 196, "dtd": 47, "eurosat": 10, "gtsrb": 43, "mnist": 10, "resisc45": 45,
    "sun397": 397, "svhn": 10, "imagenet": 1000,
}  # fmt: skip
RULE = {"fraction": 0.1, "maximum": 5000, "seed": 0}


def encoded(index, gray):
    """Return an image as the set stores it: MNIST's are gray PNG, the others RGB."""
    shape = (28, 28) if gray else (24, 32, 3)
    file = io.BytesIO()
    Image.fromarray(np.full(shape, index % 256, np.uint8)).save(file, "PNG" if gray else "JPEG")
    return file.getvalue()


def shard(name, start, count):
    """Return a parquet file in the data set's own schema."""
    names = [f"class_{index}" for index in range(CLASSES[name])]
    features = hub_datasets.Features(
        image=hub_datasets.Image(), label=hub_datasets.ClassLabel(names=names)
    )
    numbers = range(start, start + count)
    data = hub_datasets.Dataset.from_dict(
        {
            "image": [{"bytes": encoded(n, name == "mnist"), "path": f"{n}.png"} for n in numbers],
            "label": [n % CLASSES[name] for n in numbers],
        },
        features=features,
    )
    file = io.BytesIO()
    data.to_parquet(file)
    return file.getvalue()


def published(name):
    """Return a small copy of a data set as the hub lays it out."""
    source = CLIP["datasets"][name]["source"]
    folder = source.get("config", "data")
    files = {"README.md": b"-"}
    for position, split in enumerate(source["splits"].values()):
        for part in range(2):
            path = f"{folder}/{split}-0000{part}-of-00002.parquet"
            files[path] = shard(name, 100 * position + 20 * part, 20)
    return {("datasets", source["hub"]): files}


def test_the_configuration_is_valid():
    check_config(CLIP, "config/clip.yaml")


def test_it_names_the_eight_tasks_and_the_control():
    assert set(CLIP["tasks"]) | {CLIP["control"]} == set(CLIP["datasets"]) == set(CLASSES)
    assert len(CLIP["tasks"]) == 8


@pytest.mark.parametrize(
    "name", [name for name in CLASSES if "class_names" in CLIP["datasets"][name]]
)
def test_class_names_are_as_many_as_the_classes_of_the_data_set(name):
    chosen = CLIP["datasets"][name]["class_names"]
    names = chosen_names(name, [f"class {n}" for n in range(CLASSES[name])], chosen)
    assert len(names) == CLASSES[name]
    assert all(isinstance(text, str) and text for text in names)


@pytest.mark.parametrize("name", CLASSES)
def test_prompts_have_one_place_for_the_class_name(name):
    templates = chosen_templates(CLIP["datasets"][name]["templates"])
    assert all(template.count("{}") == 1 for template in templates)
    assert len(set(templates)) == len(templates) == {"imagenet": 80}.get(name, len(templates))


def test_every_task_trains_about_two_thousand_steps_and_the_largest_model_in_halves():
    sizes = {
        "cars": 8144, "dtd": 3760, "eurosat": 21600, "gtsrb": 26640, "mnist": 60000,
        "resisc45": 18900, "sun397": 19850, "svhn": 73257,
    }  # fmt: skip
    for task, size in sizes.items():
        protocol = finetuning_of(CLIP, task, "ViT-L-14")
        kept = size - min(size // 10, 5000)
        steps = protocol["epochs"] * -(-kept // protocol["batch_size"])
        assert 1700 < steps < 2300, (task, steps)
        assert protocol["accumulation"] == 2
        assert finetuning_of(CLIP, task, "ViT-B-32")["accumulation"] == 1


@pytest.mark.parametrize("name", CLASSES)
def test_a_data_set_in_its_own_schema_becomes_our_splits(name, tmp_path, monkeypatch):
    source = CLIP["datasets"][name]["source"]
    with serving(Hub(published(name))) as hub:
        use(hub, monkeypatch)
        manifest, _ = fetch_splits(name, source, tmp_path / "downloads")
    write_json(tmp_path / "manifest.json", manifest)
    files = read_manifest(tmp_path / "manifest.json", name)
    splits = make_splits(name, source, RULE, tmp_path / "scratch", files)
    expected = {"train": 36, "validation": 4, "test": 40}
    if name == "imagenet":
        expected = {"train": 0, "validation": 4, "test": 36}
    assert {split: len(data) for split, data in splits.items()} == expected
    path = tmp_path / "test.parquet"
    write_split(path, splits["test"])
    # Nothing is encoded again: the bytes are the hub's.
    start = 100 if "train" in source["splits"] else 0
    known = [encoded(start + n, name == "mnist") for n in range(40)]
    images = [image["bytes"] for image in parquet.read_table(path)["image"].to_pylist()]
    assert set(images) <= set(known)
    assert "train" not in source["splits"] or images == known
    write_split(tmp_path / "train.parquet", splits["train"])
    assert parquet.read_metadata(tmp_path / "train.parquet").num_rows == expected["train"]
    # The head takes the class names from the training split, even from one without examples.
    names = tuple(f"class_{n}" for n in range(CLASSES[name]))
    assert read_class_names(tmp_path / "train.parquet") == read_class_names(path) == names


def local_parquet(tmp_path, columns, features=None):
    path = tmp_path / "some.parquet"
    hub_datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return {"parquet": {"train": [str(path)], "test": [str(path)]}}


def test_columns_of_other_names_and_kinds_are_read(tmp_path):
    images = [encoded(n, gray=False) for n in range(12)]
    columns = {"picture": images, "kind": ["cat", "dog", "ant"] * 4}
    source = local_parquet(tmp_path, columns) | {"image": "picture", "label": "kind"}
    splits = make_splits("pets", source, {**RULE, "fraction": 0.25}, tmp_path / "scratch")
    assert splits["test"].features["label"].names == ["ant", "cat", "dog"]
    assert splits["test"][:]["label"] == [1, 2, 0] * 4
    assert (
        splits["test"].cast_column("image", hub_datasets.Image(decode=False))[3]["image"]["bytes"]
        == images[3]
    )
    numbered = {"image": images, "label": [n % 5 for n in range(12)]}
    features = hub_datasets.Features(
        image=hub_datasets.Value("binary"), label=hub_datasets.Value("uint8")
    )
    (tmp_path / "numbers").mkdir()
    source = local_parquet(tmp_path / "numbers", numbered, features)
    splits = make_splits("numbers", source, {**RULE, "fraction": 0.25}, tmp_path / "scratch2")
    assert splits["train"].features["label"].names == ["0", "1", "2", "3", "4"]


def test_a_validation_split_of_its_own_is_used(tmp_path):
    path = tmp_path / "some.parquet"
    path.write_bytes(shard("dtd", 0, 30))
    source = {"parquet": {split: [str(path)] for split in ("train", "validation", "test")}}
    splits = make_splits("dtd", source, RULE, tmp_path / "scratch")
    assert {split: len(data) for split, data in splits.items()} == {
        "train": 30,
        "validation": 30,
        "test": 30,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "fine"}, r"pets \(train\): expected the column 'fine', found image, label"),
        ({"image": "label"}, r"pets \(train\): expected encoded images, found a column of int64"),
        ({"parquet": {"train": ["no.parquet"]}}, r"expected the parquet file no\.parquet, found"),
    ],
)  # fmt: skip
def test_parquet_that_does_not_fit_is_named(tmp_path, changes, message):
    columns = {"image": [encoded(n, False) for n in range(4)], "label": [0, 1, 0, 1]}
    source = local_parquet(tmp_path, columns) | changes
    with pytest.raises(PipelineError, match=message):
        make_splits("pets", source, RULE, tmp_path / "scratch")


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "some.parquet").write_bytes(b"something else")
    source = {"parquet": {"test": [str(tmp_path / "some.parquet")]}}
    with pytest.raises(PipelineError, match="pets: expected parquet files, found"):
        make_splits("pets", source, RULE, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("baseball_diamond", "baseball diamond"),
        ("/c/canal/urban", "canal urban"),
        ("apartment_building/outdoor", "apartment building outdoor"),
        ("AnnualCrop", "annual crop"),
        ("polka-dotted", "polka-dotted"),
        ("AM General Hummer SUV 2000", "AM General Hummer SUV 2000"),
        ("McLaren MP4-12C Coupe 2012", "McLaren MP4-12C Coupe 2012"),
        ("7", "7"),
        ("A", "A"),
    ],
)
def test_class_names_are_made_readable(name, expected):
    assert readable(name) == expected


def test_some_classes_are_renamed_and_the_others_made_readable():
    found = ["AnnualCrop", "Forest", "sea_lake"]
    renamed = {"AnnualCrop": "annual crop land", "sea lake": "lake or sea"}
    assert chosen_names("eurosat", found, renamed) == ["annual crop land", "Forest", "lake or sea"]
    with pytest.raises(PipelineError, match=r"expected names of classes, such as .* \['Wood'\]"):
        chosen_names("eurosat", found, {"Wood": "forest"})
    with pytest.raises(PipelineError, match="expected 3 names, one per class of the data set"):
        chosen_names("eurosat", found, ["a", "b"])


def test_the_commands_fetch_online_and_compute_offline(tmp_path):
    """The two steps as the workflow runs them, against a hub named by HF_ENDPOINT."""
    source = CLIP["datasets"]["svhn"]["source"]

    def step(name, *arguments, **settings):
        return subprocess.run(
            ["task-arithmetic", name, "--settings", canonical_json(settings), *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    with serving(Hub(published("svhn"))) as hub:
        hub.faults.extend([("truncated",), ("damaged",)])
        own = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT / "workflow")}
        environment = {**os.environ, **own}
        arguments = ("--folder", "downloads", "--manifest", "svhn.json")
        done = step("download", *arguments, dataset="svhn", source=source)
        assert done.returncode == 0, done.stderr
        requests = hub.requests.total()
        outputs = [word for name in ("train", "validation", "test")
                   for word in (f"--{name}", f"{name}.parquet")]  # fmt: skip
        done = step(
            "dataset", *outputs, "--manifest", "svhn.json",
            dataset="svhn", source=source, validation=RULE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert hub.requests.total() == requests
    assert parquet.read_metadata(tmp_path / "validation.parquet").num_rows == 4
    assert not list(tmp_path.glob(".scratch-*"))
