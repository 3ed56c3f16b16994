"""The file of a split: parquet with the features `image` and `label` (a ClassLabel).

Apart from `datasets`, which makes these files: what reads them does not depend on how they are
made. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets as hub
import numpy as np
from pyarrow import ArrowException, parquet

from task_arithmetic.artifacts import PipelineError, atomic_path


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
