"""Datasets: the papers' split rule to the index, round trips, and damaged or wrong input."""

import datasets as hub
import numpy as np
import pytest
import torch
from PIL import Image

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.datasets import make_splits, split_train_validation
from task_arithmetic.loading import read_split
from task_arithmetic.splits import check_split, open_split, read_class_names, write_split

RULE = {"fraction": 0.1, "maximum": 5000, "seed": 0}


@pytest.mark.parametrize(("size", "seed"), [(1, 0), (10, 0), (1297, 3), (60000, 0)])
def test_the_split_is_the_one_that_torch_makes(size, seed):
    held_out = min(int(size * 0.1), 5000)
    expected = torch.utils.data.random_split(
        range(size), [size - held_out, held_out], torch.Generator().manual_seed(seed)
    )
    for found, subset in zip(split_train_validation(size, seed=seed), expected, strict=True):
        np.testing.assert_array_equal(found, list(subset.indices))


def test_mnist_starts_at_the_published_index():
    train, validation = split_train_validation(60000)
    assert train[0] == 36044
    assert len(validation) == 5000


def small(labels, names=("cat", "dog")):
    images = [Image.fromarray(np.full((4, 4, 3), index, np.uint8)) for index in range(len(labels))]
    features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=list(names)))
    return hub.Dataset.from_dict({"image": images, "label": labels}, features=features)


def test_a_split_comes_back_from_parquet(tmp_path):
    path = tmp_path / "train.parquet"
    write_split(path, small([0, 1, 1]))
    split = read_split(path, size=4)
    assert split.images.array.shape == (3, 4, 4, 3)
    assert split.images.array[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert split.labels.tolist() == [0, 1, 1]
    assert split.class_names == read_class_names(path) == ("cat", "dog")


def test_other_sizes_are_scaled_on_the_shorter_side_and_cut_in_the_middle(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    data = small([0]).map(lambda _: {"image": Image.fromarray(wide)})
    write_split(tmp_path / "wide.parquet", data)
    assert (read_split(tmp_path / "wide.parquet", size=8).images.array == 200).all()


def test_generated_splits_follow_the_rule(tmp_path):
    source = {"generator": "shapes", "train": 50, "test": 20, "seed": 0}
    splits = make_splits("shapes", source, RULE, tmp_path)
    assert {name: len(data) for name, data in splits.items()} == {
        "train": 45,
        "validation": 5,
        "test": 20,
    }
    again = make_splits("shapes", source, RULE, tmp_path)
    assert splits["train"][:]["label"] == again["train"][:]["label"]


def test_images_in_folders_become_a_dataset(tmp_path):
    for split, count in (("train", 10), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / f"{index}.png")
    splits = make_splits("pets", {"folder": str(tmp_path)}, RULE, tmp_path)
    assert {name: len(data) for name, data in splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 4,
    }
    assert splits["test"].features["label"].names == ["cat", "dog"]
    (tmp_path / "test" / "cow").mkdir()
    with pytest.raises(PipelineError, match=r"pets: classes \['cow'\]"):
        make_splits("pets", {"folder": str(tmp_path)}, RULE, tmp_path)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(PipelineError, match=r"pets: expected images in .*found no class folder"):
        make_splits("pets", {"folder": str(tmp_path)}, RULE, tmp_path)


def test_an_empty_split_is_named(tmp_path):
    with pytest.raises(PipelineError, match=r"pets \(test\): expected at least one example"):
        check_split("pets (test)", small([]))
    source = {"generator": "shapes", "train": 5, "test": 5, "seed": 0}
    with pytest.raises(PipelineError, match=r"shapes \(validation\): expected at least one"):
        make_splits("shapes", source, RULE, tmp_path)


def test_a_label_without_a_name_is_named(tmp_path):
    data = small([0, 1]).cast_column("label", hub.Value("int64"))
    data = data.map(lambda row: {"label": row["label"] * 5})
    features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=["cat", "dog"]))
    table = data.data.table.cast(features.arrow_schema)
    wrong = hub.Dataset(table, info=hub.DatasetInfo(features=features))
    with pytest.raises(PipelineError, match=r"expected labels 0 to 1 .* found \[5\]"):
        check_split("pets (train)", wrong)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    path = tmp_path / "train.parquet"
    write_split(path, small([0, 1]))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[-6] ^= 0xFF  # the length of the footer
    else:
        content = b"something else"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=r"train\.parquet: expected a parquet file"):
        open_split(path)
