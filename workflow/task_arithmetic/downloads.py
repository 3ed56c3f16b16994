"""Data sets on a hub: which of its files hold a task's splits, what they cost, where they are kept.

A download is described by a manifest that names every file with its size and SHA-256, so that what
is computed from it depends on content and not on what a branch of the hub means today.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from task_arithmetic.artifacts import PipelineError, read_json, sha256
from task_arithmetic.hub import HubFile, describe, fetch_files

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Cost:
    """What fetching one data set takes, in bytes.

    Attributes:
        dataset: Its name in the experiment.
        repo: Its repository.
        size: All of its files.
        missing: Those that are not here yet.
        stated: Whether the size is the configuration's `size_mb`, as the hub did not answer.
    """

    dataset: str
    repo: str
    size: int
    missing: int
    stated: bool = False


def split_files(
    name: str, source: Mapping[str, Any], listed: Sequence[HubFile]
) -> dict[str, list[HubFile]]:
    """Choose the files of each split.

    Args:
        name: The task's name, for messages.
        source: The task's `{hub, splits, config?}`. A split is named as the data set does (the
            files `CONFIG/NAME-*.parquet`, or `data/NAME-*.parquet` without a config), or by a
            pattern of paths with `*` or `/`.
        listed: All files of the repository.

    Returns:
        Files by split, sorted by name.

    Raises:
        PipelineError: If a split has no file; the message says what there is.
    """
    place, chosen = source.get("config", "data"), {}
    for split, wanted in source["splits"].items():
        pattern = wanted if "*" in wanted or "/" in wanted else f"{place}/{wanted}-*.parquet"
        chosen[split] = [file for file in listed if fnmatchcase(file.filename, pattern)]
        if not chosen[split]:
            there = [file.filename for file in listed if file.filename.endswith(".parquet")]
            raise PipelineError(
                f"{name}: expected files {pattern} in {source['hub']}, found "
                f"{', '.join(there) or 'no parquet file'}"
            )
    return chosen


def described_files(name: str, source: Mapping[str, Any]) -> dict[str, list[HubFile]]:
    """Ask the hub for the files of each split; raises what `describe` and `split_files` raise."""
    listed = describe(source["hub"], source["revision"], "dataset", _instead(name))
    return split_files(name, source, listed)


def kept_in(root: Path, source: Mapping[str, Any], commit: str) -> Path:
    """Return the folder of a data set's files: one per commit, so that none is ever overwritten."""
    return root / "datasets" / source["hub"] / commit


def fetch_splits(
    name: str, source: Mapping[str, Any], root: Path
) -> tuple[dict[str, Any], list[Path]]:
    """Fetch the files of a task's splits.

    Args:
        name: The task's name.
        source: The task's `{hub, revision, splits, config?}`.
        root: The folder of all downloads.

    Returns:
        The manifest, and the local files.
    """
    chosen = described_files(name, source)
    files = list(dict.fromkeys(file for split in chosen.values() for file in split))
    folder = kept_in(root, source, files[0].commit)
    fetch_files(files, folder, _instead(name))
    entries = {
        file: {
            "path": (folder / file.filename).as_posix(),
            "size": file.size,
            "sha256": file.sha256 or sha256(folder / file.filename),
        }
        for file in files
    }
    manifest = {
        "kind": "download",
        "dataset": name,
        "hub": source["hub"],
        "revision": source["revision"],
        "commit": files[0].commit,
        "splits": {split: [entries[file] for file in part] for split, part in chosen.items()},
    }
    return manifest, [folder / file.filename for file in files]


def read_manifest(path: Path, name: str) -> dict[str, list[Path]]:
    """Return the files of each split that a manifest lists, after checking their content.

    Args:
        path: The manifest.
        name: The task's name.

    Returns:
        Local files by split.

    Raises:
        PipelineError: If it is another task's, or a file is missing or has another content.
    """
    manifest = read_json(path)
    if (manifest.get("kind"), manifest.get("dataset")) != ("download", name):
        raise PipelineError(f"{path}: expected the download of {name}, found {manifest!r:.80}")
    for entry in (entry for split in manifest["splits"].values() for entry in split):
        file = Path(entry["path"])
        if not file.is_file() or sha256(file) != entry["sha256"]:
            found = "another content" if file.is_file() else "no file"
            raise PipelineError(
                f"{file}: expected the file with SHA-256 {entry['sha256'][:12]}…, found {found}; "
                f"delete {path} and rerun, and it is fetched again"
            )
    return {
        split: [Path(entry["path"]) for entry in part] for split, part in manifest["splits"].items()
    }


def cost_of(name: str, source: Mapping[str, Any], root: Path) -> Cost:
    """Ask the hub what fetching a data set takes, or use the stated size if it does not answer.

    Args:
        name: The task's name.
        source: The task's `{hub, revision, splits, config?, size_mb?}`.
        root: The folder of all downloads.

    Returns:
        The cost.

    Raises:
        PipelineError: If the hub does not answer and no size is stated.
    """
    try:
        chosen = described_files(name, source)
    except PipelineError:
        if "size_mb" not in source:
            raise
        size = source["size_mb"] * MEGABYTE
        return Cost(name, source["hub"], size, size, stated=True)
    files = {file for split in chosen.values() for file in split}
    missing = [
        file
        for file in files
        if not _has_size(kept_in(root, source, file.commit) / file.filename, file.size)
    ]
    sizes = (sum(file.size for file in part) for part in (files, missing))
    return Cost(name, source["hub"], *sizes)


def check_disk(costs: Sequence[Cost], root: Path) -> None:
    """Check that the disk has room for what is not here yet.

    Args:
        costs: The cost of each data set.
        root: The folder of all downloads.

    Raises:
        PipelineError: If it has not.
    """
    place = root.absolute()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, sum(cost.missing for cost in costs)
    if needed > free:
        raise PipelineError(
            f"{root}: expected {needed / MEGABYTE:,.0f} MB of free disk for the data sets, found "
            f"{free / MEGABYTE:,.0f} MB; make room, or link {root} to a larger disk"
        )


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _instead(name: str) -> str:
    return (
        f"or go on without it: set control: to another dataset, or give {name} a source "
        "{folder: …} with test/CLASS/* images"
    )
