"""The trace of one cell of a table: what a reviewer would ask for, from α down to the images.

A row was measured somewhere: in curves, where it is the rows of one edit, or in an analysis's own
table, where it is a row like itself. The trace finds these files, and goes upstream from them only.
Everything is read from files and their records; nothing is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from task_arithmetic.artifacts import PipelineError, read_csv
from task_arithmetic.audit import Node, summarize
from task_arithmetic.lineage import read_record, record_path
from task_arithmetic.tables import ordered_modes
from task_arithmetic.trace_rows import agreeing_rows, names_edit, plain_rows, share_number

# The edit that a row is about, where the table's name and not the row says so.
EDITS = {"task_addition": "addition", "task_negation": "negation-{task}"}
# The steps that make each part of a chain; checkpoints are whatever has a training protocol.
PARTS = {
    "encoder": {"encoder", "checkpoint"},
    "heads": {"head", "probe-heads"},
    "datasets": {"dataset"},
}


def find_row(table: str, wanted: Mapping[str, str]) -> dict[str, Any]:
    """Find one row of a table.

    Args:
        table: Path of the table's CSV file.
        wanted: Values by column, as text.

    Returns:
        The row.

    Raises:
        PipelineError: If the file is no table, has no such column, or not exactly one row has
            these values.
    """
    if Path(table).parent.name != "tables" or Path(table).suffix != ".csv":
        raise PipelineError(f"{table}: expected the CSV file of a table")
    frame = read_csv(table)
    unknown = sorted(set(wanted) - set(frame.columns))
    if unknown:
        raise PipelineError(f"{table}: expected columns {list(frame.columns)}, found {unknown}")
    for column, value in wanted.items():
        frame = frame[frame[column].astype(str) == value]
    if len(frame) != 1:
        varying = [name for name in frame.columns if frame[name].nunique() > 1]
        hint = f"; they differ in {', '.join(varying)}" if len(frame) else ""
        raise PipelineError(f"{table}: expected one row with {wanted}, found {len(frame)}{hint}")
    return plain_rows(frame)[0]


def trace(table: str, row: Mapping[str, Any], nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Collect the chain from one row of a table to its data.

    Args:
        table: Path of the table's CSV file.
        row: The row, as `find_row` returns it.
        nodes: The audit of the table.

    Returns:
        A JSON value: the row, its edit (None if it is about none; its weights are None if only the
        code of the analysis knows them), `selection` and `validation` (empty where no coefficient
        was selected, or within the step that measured), `measured`, `checkpoints`, `encoder`,
        `heads`, `datasets`, `code` of every step, and the audit's summary.

    Raises:
        PipelineError: If no file that the table was made of holds the row.
    """
    chain = _Chain(nodes, {path: read_record(path) for path in nodes if record_path(path).exists()})
    sources = chain.sources(table, row)
    if not sources:
        raise PipelineError(
            f"{table}: expected a measured file with the row {dict(row)} among what it was made "
            "of, found none; delete the table and rerun"
        )
    chosen = [source for source in sources if chain.step(source.path) == "select"]
    measured = [source for source in sources if chain.step(source.path) != "select"]
    validation = [
        found
        for source in chosen
        for found in chain.holding(source.path, row, source.edit)
        if chain.settings(found.path).get("splits") == ["validation"]
    ]
    starts = [source.path for source in (*chosen, *validation)]
    upstream = {
        path for source in measured for path in chain.upstream([source.path, *starts], source.edit)
    }
    made = [path for path in chain.records if path in upstream]
    return {
        "table": chain.file(table),
        "row": dict(row),
        "edit": chain.edit(measured),
        "selection": [chain.rows(source) for source in chosen],
        "validation": [chain.rows(source) for source in validation],
        "measured": [chain.rows(source) for source in measured],
        "checkpoints": [chain.training(path) for path in made if chain.is_trained(path)],
        **{
            part: [chain.described(path) for path in made if chain.step(path) in steps]
            for part, steps in PARTS.items()
        },
        "code": chain.code([table, *made]),
        "audit": summarize(nodes),
    }


@dataclass(frozen=True)
class _Source:
    """A file that holds a row of a table: the rows of an edit, or those that agree with it."""

    path: str
    edit: str | None
    rows: pd.DataFrame


@dataclass(frozen=True)
class _Chain:
    """Everything that a table was made of, and the records of it."""

    nodes: Mapping[str, Node]
    records: Mapping[str, Mapping[str, Any]]

    def step(self, path: str) -> str:
        return self.records[path]["step"]

    def settings(self, path: str) -> Mapping[str, Any]:
        return self.records[path]["settings"]

    def sources(self, table: str, row: Mapping[str, Any]) -> list[_Source]:
        """Return the files that a row of a table was taken from, also by way of another table."""
        name = EDITS.get(Path(table).stem)
        edit = name and name.format(**row)
        found = list(self.holding(table, row, edit))
        if found:
            return found
        for other in self.nodes[table].inputs:
            if Path(other).parent == Path(table).parent:
                # Its numbers have other names there.
                place = {key: value for key, value in row.items() if isinstance(value, int | str)}
                for same in plain_rows(agreeing_rows(read_csv(other), place)):
                    if share_number(row, same):
                        found += self.sources(other, same)
        if found or None not in row.values():
            return found
        # No coefficient was feasible, so that nothing was measured.
        paths = [path for path in self.measured(table) if self.agrees(path, row)]
        return [_Source(path, None, pd.DataFrame()) for path in paths]

    def measured(self, made: str) -> list[str]:
        """Return the CSV files of single models that a file was made of."""
        return [
            path
            for path in self.nodes[made].inputs
            if path in self.records and path.endswith(".csv") and "model" in self.settings(path)
        ]

    def holding(self, made: str, row: Mapping[str, Any], edit: str | None) -> Iterator[_Source]:
        """Yield the measured files that a file was made of and that hold a row."""
        paths = self.measured(made)
        if row.get("mode") == "pretrained":
            # The pre-trained model is α = 0 of the first mode, as in the table of single tasks.
            modes = ordered_modes(self.settings(path)["mode"] for path in paths)
            row = {**row, "mode": modes[0]}
        for path in paths:
            if not self.agrees(path, row):
                continue
            frame = read_csv(path)
            if "edit" not in frame:
                rows = agreeing_rows(frame, row)
                if len(rows):
                    yield _Source(path, None, rows)
                continue
            for name, rows in frame.groupby("edit", sort=False):
                if name == edit if edit else names_edit(row, name, frame.columns):
                    shown = rows.drop(columns=["model", "seed", "mode", "edit"])
                    yield _Source(path, name, shown)

    def agrees(self, path: str, row: Mapping[str, Any]) -> bool:
        """Return whether a file is of a row's model, seed, mode, θ0 and kind of fine-tuning."""
        settings = self.settings(path)
        keys = row.keys() & settings.keys() & {"model", "seed", "mode", "start"}
        if any(row[key] != settings[key] for key in keys):
            return False
        trained = map(self.protocol, filter(self.is_trained, self.upstream([path], None)))
        return "fine_tuning" not in row or row["fine_tuning"] in {p["mode"] for p in trained}

    def upstream(self, paths: Sequence[str], edit: str | None) -> set[str]:
        """Return files and all that they were made of, as far as an edit has to do with it."""
        settings = self.settings(paths[0])
        described = settings.get("edits", {}).get(edit, settings)
        weights = described.get("weights")
        datasets = {*weights, *described["datasets"]} if weights else set()
        found: set[tuple[str, str | None]] = set()
        # Features are of vectors of both kinds of fine-tuning: who read them knows of which.
        waiting: list[tuple[str, str | None]] = [(path, None) for path in paths]
        while waiting:
            path, mode = waiting.pop()
            if path not in self.records or (path, mode) in found:
                continue
            other = self.settings(path)
            if weights and (
                other.get("dataset") not in {None, *datasets}
                or other.get("task") not in {None, *weights}
            ):
                continue
            if mode and self.is_trained(path) and self.protocol(path)["mode"] != mode:
                continue
            found.add((path, mode))
            mode = other.get("vector_mode", mode)
            waiting += [(name, mode) for name in self.nodes[path].inputs]
        return {path for path, _ in found}

    def is_trained(self, path: str) -> bool:
        named = {"hyperparameters", "task"} & self.settings(path).keys()
        return bool(named) and path.endswith(".safetensors")

    def protocol(self, path: str) -> Mapping[str, Any]:
        """Return how weights were trained; of imported ones what is known."""
        protocol = self.settings(path).get("hyperparameters", self.settings(path))
        # A step that trains several tasks has the protocol of each.
        return protocol.get(Path(path).stem, protocol)

    def edit(self, measured: Sequence[_Source]) -> dict[str, Any] | None:
        """Describe the edit that measured rows are of."""
        for source in measured:
            if source.edit is not None:
                settings = self.settings(source.path)
                weights = settings.get("edits", {}).get(source.edit, settings).get("weights")
                return {"name": source.edit, "weights": weights and dict(weights)}
        return None

    def file(self, path: str) -> dict[str, Any]:
        node = self.nodes[path]
        return {"path": path, "sha256": node.sha256, "verdict": str(node.verdict)}

    def described(self, path: str) -> dict[str, Any]:
        settings = dict(self.settings(path))
        if "hyperparameters" in settings:
            settings["hyperparameters"] = self.protocol(path)
        return {**self.file(path), "settings": settings}

    def rows(self, source: _Source) -> dict[str, Any]:
        """Describe a CSV file and the rows in it, and how they came about."""
        settings, rows = self.settings(source.path), plain_rows(source.rows)
        if source.edit in settings.get("rules", {}):
            return {**self.file(source.path), "rows": rows, "rule": settings["rules"][source.edit]}
        # What is measured of an edit with weights is told by the edit.
        described = "weights" in settings or source.edit in settings.get("edits", {})
        more = {} if described else {"settings": settings}
        return {**self.file(source.path), "rows": rows, **more}

    def training(self, path: str) -> dict[str, Any]:
        """Describe a checkpoint, its task vector, and the run that made it."""
        record = self.records[path]
        inner = ("seeds", "started", "seconds", "device", "threads", "python", "packages", "git")
        logs = [entry["path"] for entry in record["outputs"] if entry["path"].endswith(".csv")]
        last = read_csv(logs[0]).iloc[-1].to_dict() if logs and Path(logs[0]).exists() else {}
        vectors = [
            self.file(vector)
            for vector in self.records
            if self.step(vector) == "vector" and path in self.nodes[vector].inputs
        ]
        return {
            **self.described(path),
            "vectors": vectors,
            "last_step": last,
            "run": {"command": record["command"], **{key: record[key] for key in inner}},
        }

    def code(self, paths: list[str]) -> list[dict[str, Any]]:
        """Return the distinct pieces of code and commits behind files."""
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for path in paths:
            record = self.records[path]
            git = record["git"] or {"commit": None, "dirty": None}
            key = (record["step"], record["code"]["digest"], git["commit"], str(git["dirty"]))
            found[key] = {"step": record["step"], **record["code"], **git}
        return sorted(found.values(), key=lambda code: code["step"])
