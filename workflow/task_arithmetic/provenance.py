"""Provenance: what the records behind some results say of code, machines, steps and sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from task_arithmetic.lineage import read_record, record_path

Records = Mapping[str, Mapping[str, Any]]
DIGITS = 12  # of a digest, enough to compare by eye


def records_behind(results: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Read the records of results and of everything that they were made from.

    Args:
        results: Files with a record.

    Returns:
        Records by the path of their artifact; of inputs without one, such as configured files,
        there is none.
    """
    found: dict[str, dict[str, Any]] = {}
    waiting = [str(path) for path in results]
    while waiting:
        path = waiting.pop()
        if path not in found and record_path(path).exists():
            found[path] = read_record(path)
            waiting += [entry["path"] for entry in found[path]["inputs"]]
    return found


def environments(records: Records) -> pd.DataFrame:
    """Tabulate where the steps ran; several values in one line are a reason to look closer.

    Args:
        records: Records by artifact.

    Returns:
        A table with the columns fact and value.
    """
    every = records.values()
    facts = {
        "commit": {_commit(record) for record in every},
        "Python": {record["python"] for record in every},
        "locked packages": {str(record["lock"])[:DIGITS] for record in every},
        "device": {record["device"] for record in every},
        "threads of a step": {str(record["threads"]) for record in every},
    }
    names = sorted({name for record in every for name in record["packages"]})
    facts |= {name: {record["packages"].get(name, "–") for record in every} for name in names}
    lines = [(fact, ", ".join(sorted(values))) for fact, values in facts.items()]
    return pd.DataFrame(lines, columns=["fact", "value"])


def steps(records: Records) -> pd.DataFrame:
    """Tabulate the steps that ran.

    Args:
        records: Records by artifact.

    Returns:
        One row per kind of step, the longest first: how often it ran, seconds of all and of the
        slowest, and the largest peak memory in 10⁶ bytes.
    """
    # A step of several outputs has a record beside each.
    runs = {record["outputs"][0]["path"]: record for record in records.values()}
    rows = pd.DataFrame([
        (run["step"], run["seconds"], run["peak_memory_bytes"] / 1e6) for run in runs.values()
    ], columns=["step", "seconds", "megabytes"])  # fmt: skip
    table = rows.groupby("step", as_index=False).agg(
        runs=("seconds", "size"),
        seconds=("seconds", "sum"),
        slowest=("seconds", "max"),
        peak_megabytes=("megabytes", "max"),
    )
    return table.sort_values("seconds", ascending=False, ignore_index=True).round(1)


def made(results: Sequence[Path], records: Records) -> pd.DataFrame:
    """Tabulate results with the digests that identify them and the code that made them.

    Args:
        results: Files with a record.
        records: Records by artifact.

    Returns:
        One row per file: name, first digits of its SHA-256 and of its code's digest, commit.
    """
    rows = []
    for path in sorted(map(str, results)):
        record = records[path]
        (own,) = (entry["sha256"] for entry in record["outputs"] if entry["path"] == path)
        code = record["code"]["digest"][:DIGITS]
        rows.append((Path(path).name, own[:DIGITS], code, _commit(record)))
    return pd.DataFrame(rows, columns=["result", "sha256", "code", "commit"])


def sources(records: Records) -> pd.DataFrame:
    """Tabulate what everything began with: files that no step made, and drawn or fetched data.

    Args:
        records: Records by artifact.

    Returns:
        One row per file: path and first digits of its SHA-256.
    """
    given = {
        entry["path"]: entry["sha256"]
        for record in records.values()
        for entry in record["inputs"]
        if entry["path"] not in records
    }
    drawn = {
        entry["path"]: entry["sha256"]
        for record in records.values()
        if not record["inputs"]
        for entry in record["outputs"]
    }
    rows = [(path, digest[:DIGITS]) for path, digest in sorted((given | drawn).items())]
    return pd.DataFrame(rows, columns=["source", "sha256"])


def _commit(record: Mapping[str, Any]) -> str:
    git = record["git"]
    if git is None:
        return "not under git"
    return git["commit"][:DIGITS] + (" with changes" if git["dirty"] else "")
