"""Where a task's examples come from: generated, folders, parquet files, or a hub's parquet files.

Every source becomes `datasets` with the features `image`, whose encoded bytes stay as they are, and
`label`, a ClassLabel with the data set's own names. Large ones stay on disk, mapped into memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets as hub
import numpy as np
import pyarrow as pa
from datasets.exceptions import DatasetsError
from datasets.table import InMemoryTable
from PIL import Image
from pyarrow import compute

from task_arithmetic import embedded
from task_arithmetic.artifacts import PipelineError

# Its bars for writing a small file are noise between the steps' own.
hub.disable_progress_bars()
Files = Mapping[str, Sequence[Path]]


def load_source(
    name: str, source: Mapping[str, Any], downloaded: Files | None, scratch: Path
) -> dict[str, hub.Dataset]:
    """Load the splits that a task's source has.

    Args:
        name: The task's name, for messages.
        source: `{generator, train, test, seed}`, and perhaps `style`, for an embedded task;
            `{folder}` with `train/CLASS/*` and `test/CLASS/*` images below it; `{parquet}` with
            lists of files by split; or `{hub, …}`. The last two may name their columns `image` and
            `label`.
        downloaded: The files of a hub source by split.
        scratch: A folder for temporary files, which the result needs while it is used.

    Returns:
        `test` and, where the source has them, `train` and `validation`.

    Raises:
        PipelineError: If files are missing or cannot be read, or their columns are others.
    """
    if "generator" in source:
        return _generated(source)
    if "folder" in source:
        return _from_folder(name, Path(source["folder"]))
    files = downloaded if downloaded is not None else _named_files(name, source["parquet"])
    columns = (source.get("image", "image"), source.get("label", "label"))
    return _from_parquet(name, files, *columns, scratch)


def _generated(source: Mapping[str, Any]) -> dict[str, hub.Dataset]:
    """Draw the training and test images of an embedded task."""
    task, how = source["generator"], (source["seed"], source.get("style", "task"))
    names = embedded.class_names(task)
    return {
        split: _from_arrays(*embedded.generate(task, split, source[split], *how), names)
        for split in ("train", "test")
    }


def _from_arrays(images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> hub.Dataset:
    columns = {"image": [Image.fromarray(image) for image in images], "label": labels}
    return hub.Dataset.from_dict(columns, features=_features(names))


def _from_folder(name: str, folder: Path) -> dict[str, hub.Dataset]:
    """Load `train/CLASS/*` and `test/CLASS/*` below a folder; the class names are the folders'."""
    splits = [split for split in ("train", "validation", "test") if (folder / split).is_dir()]
    first = "train" if "train" in splits else "test"
    names = sorted(path.name for path in folder.glob(f"{first}/*/"))
    if not names or "test" not in splits:
        raise PipelineError(
            f"{name}: expected images in {folder}/train/CLASS/ and {folder}/test/CLASS/, "
            "found no class folder"
        )
    for split in splits:
        unknown = sorted({path.name for path in folder.glob(f"{split}/*/")} - set(names))
        if unknown:
            raise PipelineError(
                f"{name}: classes {unknown} in {folder}/{split} are not in {folder}/{first}"
            )
    return {split: _read_folder(folder / split, names) for split in splits}


def _read_folder(folder: Path, names: Sequence[str]) -> hub.Dataset:
    index = {name: position for position, name in enumerate(names)}
    paths = sorted(folder.glob("*/*.*"))
    labels = [index[path.parent.name] for path in paths]
    # One chunk per thousand files: Arrow's 32-bit offsets end at 2 GB of bytes in one chunk.
    images = pa.chunked_array(
        [
            pa.array(
                [{"bytes": path.read_bytes(), "path": path.name} for path in paths[start:][:1000]],
                hub.Image().pa_type,
            )
            for start in range(0, len(paths), 1000)
        ],
        hub.Image().pa_type,
    )
    return _from_columns(images, pa.array(labels, pa.int64()), names)


def _named_files(name: str, splits: Mapping[str, Sequence[str]]) -> Files:
    missing = [path for paths in splits.values() for path in paths if not Path(path).is_file()]
    if missing:
        raise PipelineError(f"{name}: expected the parquet file {missing[0]}, found none")
    return {split: [Path(path) for path in paths] for split, paths in splits.items()}


def _from_parquet(
    name: str, files: Files, image: str, label: str, scratch: Path
) -> dict[str, hub.Dataset]:
    """Load parquet files with an image and a label column, of whatever kind."""
    try:
        loaded = {
            split: hub.load_dataset(
                "parquet",
                data_files=[str(path) for path in paths],
                split="train",
                cache_dir=str(scratch / split),
            )
            for split, paths in files.items()
        }
    except (DatasetsError, OSError, ValueError, pa.ArrowException) as error:
        raise PipelineError(f"{name}: expected parquet files, found {error}") from error
    for split, data in loaded.items():
        absent = [column for column in (image, label) if column not in data.column_names]
        if absent:
            raise PipelineError(
                f"{name} ({split}): expected the column '{absent[0]}', found "
                f"{', '.join(data.column_names)}; name it in the source (image:, label:)"
            )
    tables = {split: data.data.table for split, data in loaded.items()}
    names = _class_names(next(iter(loaded.values())).features[label], tables.values(), label)
    return {
        split: _from_columns(
            _encoded_images(f"{name} ({split})", table[image]),
            _indices(f"{name} ({split})", table[label], names),
            names,
        )
        for split, table in tables.items()
    }


def _class_names(feature: Any, tables: Sequence[pa.Table], label: str) -> list[str]:
    """Return a ClassLabel's names, else the texts or numbers that occur, sorted."""
    if isinstance(feature, hub.ClassLabel):
        return list(feature.names)
    values = pa.chunked_array([chunk for table in tables for chunk in table[label].chunks])
    if pa.types.is_integer(values.type):
        return [str(number) for number in range(compute.max(values).as_py() + 1)]
    return sorted(str(value) for value in compute.unique(values).to_pylist())


def _indices(where: str, labels: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    if pa.types.is_integer(labels.type):
        return labels.cast(pa.int64())
    found = compute.index_in(labels, value_set=pa.array(names, labels.type))
    if found.null_count:
        raise PipelineError(f"{where}: expected labels among {names[:5]}…, found others")
    return found.cast(pa.int64())


def _encoded_images(where: str, images: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return images as `datasets` stores them: a struct of encoded bytes and a file name."""
    if pa.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
        return images
    if pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type):
        return pa.chunked_array([hub.Image().cast_storage(chunk) for chunk in images.chunks])
    raise PipelineError(f"{where}: expected encoded images, found a column of {images.type}")


def _from_columns(
    images: pa.ChunkedArray, labels: pa.ChunkedArray | pa.Array, names: Sequence[str]
) -> hub.Dataset:
    table = pa.table({"image": images, "label": labels})
    return hub.Dataset(InMemoryTable(table), info=hub.DatasetInfo(features=_features(names)))


def _features(names: Sequence[str]) -> hub.Features:
    return hub.Features(image=hub.Image(), label=hub.ClassLabel(names=list(names)))
