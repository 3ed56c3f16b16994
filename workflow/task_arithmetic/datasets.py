"""Datasets: load a task, split it by the papers' rule, keep each split as one parquet file.

Every split has the features `image` and `label` (a ClassLabel), whatever it was loaded from, and is
read back through the `datasets` library. No torch here: these steps start fast.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets as hub
import numpy as np
from datasets.table import InMemoryTable
from PIL import Image
from pyarrow import ArrowException, parquet

from task_arithmetic import embedded
from task_arithmetic.artifacts import PipelineError, atomic_path

# Its bars for writing a small file are noise between the steps' own.
hub.disable_progress_bars()


@dataclass(frozen=True)
class Split:
    """One split of a task, decoded.

    Attributes:
        images: RGB images, uint8, `[size, height, width, 3]`.
        labels: Class indices, int64, `[size]`.
        class_names: Class names by index.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def make_splits(
    name: str, source: Mapping[str, Any], validation: Mapping[str, Any]
) -> dict[str, hub.Dataset]:
    """Load a task's train and test images and split validation images off the training ones.

    Args:
        name: The task's name, for messages.
        source: Where it comes from: `{generator, train, test, seed}` for an embedded task, or
            `{folder}` with `train/CLASS/*.png` and `test/CLASS/*.png` below it.
        validation: The rule `{fraction, maximum, seed}` of `split_train_validation`.

    Returns:
        The splits `train`, `validation` and `test`.

    Raises:
        PipelineError: If a split is empty, or a label has no class name.
    """
    train, test = _generated(source) if "generator" in source else _from_folder(name, source)
    kept, held_out = split_train_validation(len(train), **validation)
    splits = {"train": train.select(kept), "validation": train.select(held_out), "test": test}
    for split, data in splits.items():
        check_split(f"{name} ({split})", data)
    return splits


def split_train_validation(
    size: int, fraction: float = 0.1, maximum: int = 5000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Choose training and validation examples by the papers' rule.

    The rule is `torch.utils.data.random_split` with a seeded generator, and this reproduces torch's
    shuffle to the index (for MNIST's 60,000 examples the first training index is 36044).

    Args:
        size: How many examples there are.
        fraction: The share that becomes validation data.
        maximum: At most this many validation examples.
        seed: The shuffle's seed.

    Returns:
        Indices of the training and of the validation examples.
    """
    # torch.randperm on the CPU: a Fisher-Yates shuffle fed by a Mersenne twister.
    twister = np.random.RandomState(seed)._bit_generator
    order = np.arange(size)
    for position, draw in enumerate(twister.random_raw(max(size - 1, 0)).tolist()):
        other = position + draw % (size - position)
        order[position], order[other] = order[other], order[position]
    held_out = min(int(size * fraction), maximum)
    return order[: size - held_out], order[size - held_out :]


def check_split(where: str, data: hub.Dataset) -> None:
    """Check that a split has examples and that every label has a class name.

    Args:
        where: What to call the split in a message.
        data: The split, with features `image` and `label`.

    Raises:
        PipelineError: If it is empty or a label is out of range.
    """
    if len(data) == 0:
        raise PipelineError(f"{where}: expected at least one example, found an empty split")
    labels = np.asarray(data.with_format("arrow")[:]["label"])
    names = data.features["label"].names
    unnamed = sorted({int(label) for label in labels if not 0 <= label < len(names)})
    if unnamed:
        raise PipelineError(
            f"{where}: expected labels 0 to {len(names) - 1} for the {len(names)} class names, "
            f"found {unnamed}"
        )


def write_split(path: Path | str, data: hub.Dataset) -> None:
    """Write a split atomically as one parquet file."""
    with atomic_path(path) as temporary:
        data.to_parquet(temporary)


def open_split(path: Path | str) -> hub.Dataset:
    """Open a parquet split without decoding its images.

    Args:
        path: The parquet file.

    Returns:
        The split, with features `image` and `label`.

    Raises:
        PipelineError: If the file is damaged, is empty, or has other features.
    """
    try:
        # Not Dataset.from_parquet: it would leave a second copy in a cache in the home folder.
        data = hub.Dataset(InMemoryTable(parquet.read_table(path)))
    except (OSError, ValueError, ArrowException) as error:
        raise PipelineError(
            f"{path}: expected a parquet file, but it could not be read ({error}); "
            "delete it and rerun, and the step that makes it will make it again"
        ) from error
    label = data.features.get("label")
    if not isinstance(label, hub.ClassLabel) or "image" not in data.features:
        raise PipelineError(
            f"{path}: expected features image and label (ClassLabel), found {data.features}"
        )
    check_split(str(path), data)
    return data


def read_class_names(path: Path | str) -> tuple[str, ...]:
    """Return the class names of a parquet split by index."""
    return tuple(open_split(path).features["label"].names)


def read_split(path: Path | str, size: int) -> Split:
    """Read and decode a parquet split, once, into memory.

    Args:
        path: The parquet file.
        size: Height and width of the images: the shorter side is resized to it (bicubic) and the
            centre is cut out, as CLIP's preprocessing does.

    Returns:
        The decoded split.
    """
    data = open_split(path)
    encoded = data.cast_column("image", hub.Image(decode=False))["image"]
    images = np.stack([_decoded(item["bytes"], size) for item in encoded])
    labels = np.asarray(data["label"], dtype=np.int64)
    return Split(images, labels, tuple(data.features["label"].names))


def _decoded(content: bytes, size: int) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        rgb = image.convert("RGB")
    width, height = rgb.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        rgb = rgb.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        left, top = (rgb.width - size) // 2, (rgb.height - size) // 2
        rgb = rgb.crop((left, top, left + size, top + size))
    return np.asarray(rgb)


def _generated(source: Mapping[str, Any]) -> tuple[hub.Dataset, hub.Dataset]:
    """Draw the training and test images of an embedded task."""
    task, seed = source["generator"], source["seed"]
    names = embedded.class_names(task)
    train, test = (
        _from_arrays(*embedded.generate(task, split, source[split], seed), names)
        for split in ("train", "test")
    )
    return train, test


def _from_arrays(images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> hub.Dataset:
    columns = {"image": [Image.fromarray(image) for image in images], "label": labels}
    features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=list(names)))
    return hub.Dataset.from_dict(columns, features=features)


def _from_folder(name: str, source: Mapping[str, Any]) -> tuple[hub.Dataset, hub.Dataset]:
    """Load `train/CLASS/*` and `test/CLASS/*` below a folder; the class names are the folders'."""
    folder = Path(source["folder"])
    names = sorted(path.name for path in folder.glob("train/*/"))
    if not names:
        raise PipelineError(
            f"{name}: expected images in {folder}/train/CLASS/ and {folder}/test/CLASS/, "
            "found no class folder"
        )
    unknown = sorted({path.name for path in folder.glob("test/*/")} - set(names))
    if unknown:
        raise PipelineError(f"{name}: classes {unknown} in {folder}/test are not in {folder}/train")
    features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=names))
    return tuple(_read_folder(folder / split, names, features) for split in ("train", "test"))


def _read_folder(folder: Path, names: Sequence[str], features: hub.Features) -> hub.Dataset:
    files = [(path, names.index(path.parent.name)) for path in sorted(folder.glob("*/*.*"))]
    images = [{"bytes": path.read_bytes(), "path": path.name} for path, _ in files]
    labels = [label for _, label in files]
    return hub.Dataset.from_dict({"image": images, "label": labels}, features=features)
