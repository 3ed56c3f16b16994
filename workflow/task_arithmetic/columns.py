"""Columns: stored features of a dataset split, f0 and Jτ, each an immutable file named by content.

A column's name is a digest of everything that decides its values: the encoder, the task vector, the
images and the code. A feature job computes the columns that are missing and lists all it needs in a
manifest; a new task costs one column per dataset, and a failed job loses none. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from task_arithmetic.artifacts import (
    PipelineError,
    digest,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

PRETRAINED = "pretrained"


@dataclass(frozen=True)
class ColumnStore:
    """A folder of columns.

    Attributes:
        root: The folder.
    """

    root: Path

    def path(self, encoder: str, images: str, code: str, vector: str | None = None) -> Path:
        """Return where a column is, or will be.

        Args:
            encoder: SHA-256 of the encoder file.
            images: SHA-256 of the split's parquet file.
            code: Digest of the code that computes columns.
            vector: SHA-256 of the task vector file; None for f0.

        Returns:
            The path of the column's file.
        """
        key = digest({"encoder": encoder, "images": images, "code": code, "vector": vector})
        return self.root / key[:2] / f"{key}.safetensors"


def write_column(path: Path, values: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Write a column atomically.

    Args:
        path: Where the store keeps it.
        values: Features, float32, `[examples, features]`.
        labels: Class indices, int64, `[examples]`; kept with f0.
    """
    arrays = {"values": values} if labels is None else {"values": values, "labels": labels}
    write_tensors(path, arrays, {"kind": "column"})


def write_manifest(
    path: Path, dataset: str, splits: Mapping[str, Mapping[str, Path]], root: Path
) -> None:
    """Write the list of a dataset's columns: by split, then by name, relative to the store."""
    listed = {
        split: {name: str(column.relative_to(root)) for name, column in columns.items()}
        for split, columns in splits.items()
    }
    write_json(path, {"kind": "features", "dataset": dataset, "splits": listed})


def listed_columns(
    manifest: Path, dataset: str, split: str, names: Sequence[str], root: Path
) -> dict[str, Path]:
    """Look up columns in a manifest.

    Args:
        manifest: The manifest file.
        dataset: The dataset it must be of.
        split: A split of the dataset.
        names: `pretrained` for f0, `MODE/TASK` for the Jτ of a task vector.
        root: The folder of the column store.

    Returns:
        Paths of the columns by name.

    Raises:
        PipelineError: If the manifest is of another dataset or lacks a column.
    """
    content = read_json(manifest)
    if (content.get("kind"), content.get("dataset")) != ("features", dataset):
        raise PipelineError(
            f"{manifest}: expected the features of {dataset}, found {content!r:.80}"
        )
    columns = content["splits"].get(split, {})
    missing = sorted(set(names) - set(columns))
    if missing:
        raise PipelineError(f"{manifest}: expected columns {missing} of split {split}, found none")
    return {name: root / columns[name] for name in names}


def read_column(path: Path) -> np.ndarray:
    """Return a column's features, float32, `[examples, features]`."""
    return read_tensors(path, kind="column", framework="numpy")[0]["values"]


def read_labels(path: Path) -> np.ndarray:
    """Return the class indices kept with an f0 column, int64, `[examples]`."""
    return read_tensors(path, kind="column", framework="numpy")[0]["labels"]
