"""Datasets: split a task by the papers' rule and keep each split as one parquet file.

Every split has the features `image` and `label` (a ClassLabel), whatever it was loaded from.
`loading` decodes its images. No torch here: these steps start fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets as hub
import numpy as np
from pyarrow import ArrowException, parquet

from task_arithmetic.artifacts import PipelineError, atomic_path
from task_arithmetic.sources import Files, load_source


def make_splits(
    name: str,
    source: Mapping[str, Any],
    validation: Mapping[str, Any],
    scratch: Path,
    downloaded: Files | None = None,
) -> dict[str, hub.Dataset]:
    """Load a task's examples and split validation examples off.

    They come off the training examples, unless the source has a validation split of its own. A
    control may have test examples only: then they come off those, and nothing is for training.

    Args:
        name: The task's name, for messages.
        source: Where it comes from, see `sources.load_source`.
        validation: The rule `{fraction, maximum, seed}` of `split_train_validation`.
        scratch: A folder for temporary files, which the result needs while it is used.
        downloaded: The files of a hub source by split.

    Returns:
        The splits `train`, `validation` and `test`.

    Raises:
        PipelineError: If a split is empty, or a label has no class name.
    """
    splits = load_source(name, source, downloaded, scratch)
    divided = "train" if "train" in splits else "test"
    if "validation" not in splits:
        whole = splits[divided]
        kept, held_out = split_train_validation(len(whole), **validation)
        splits |= {divided: whole.select(kept), "validation": whole.select(held_out)}
    for split, data in splits.items():
        check_split(f"{name} ({split})", data)
    return {"train": splits["test"].select([]), **splits}


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
    # Only the labels: formatting whole rows would read all images into memory.
    labels = data.select_columns(["label"]).with_format("arrow")[:]["label"]
    check_labels(where, np.asarray(labels), data.features["label"].names)


def check_labels(where: str, labels: np.ndarray, names: Sequence[str]) -> None:
    """Check that there are labels and that each has a class name.

    Args:
        where: What to call them in a message.
        labels: Class indices, `[size]`.
        names: Class names by index.

    Raises:
        PipelineError: If there are none or one is out of range.
    """
    if len(labels) == 0:
        raise PipelineError(f"{where}: expected at least one example, found an empty split")
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


def open_split(path: Path | str) -> parquet.ParquetFile:
    """Open a parquet split without reading its images.

    Args:
        path: The parquet file.

    Returns:
        The file, with columns `image` and `label`.

    Raises:
        PipelineError: If the file is damaged or has other features.
    """
    try:
        file = parquet.ParquetFile(path)
        features = hub.Features.from_arrow_schema(file.schema_arrow)
    except (OSError, ValueError, ArrowException) as error:
        raise PipelineError(
            f"{path}: expected a parquet file, but it could not be read ({error}); "
            "delete it and rerun, and the step that makes it will make it again"
        ) from error
    if not isinstance(features.get("label"), hub.ClassLabel) or "image" not in features:
        raise PipelineError(
            f"{path}: expected features image and label (ClassLabel), found {features}"
        )
    return file


def class_names_of(file: parquet.ParquetFile) -> tuple[str, ...]:
    """Return the class names of an opened split by index."""
    return tuple(hub.Features.from_arrow_schema(file.schema_arrow)["label"].names)


def read_class_names(path: Path | str) -> tuple[str, ...]:
    """Return the class names of a parquet split by index."""
    return class_names_of(open_split(path))
