"""The trace of one cell of a table: what a reviewer would ask for, from α down to the images.

Everything is read from files and their records; nothing is computed again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task_arithmetic.artifacts import PipelineError, read_csv
from task_arithmetic.audit import Node, summarize
from task_arithmetic.lineage import read_record, record_path
from task_arithmetic.tables import ordered_modes

# Which edit a row of a table is about.
EDITS = {
    "single_task": "single-{task}",
    "task_addition": "addition",
    "task_negation": "negation-{task}",
}
CURVES = {"curve", "tangent-curve"}


def find_row(table: str, wanted: Mapping[str, str]) -> dict[str, Any]:
    """Find one row of a table.

    Args:
        table: Path of the table's CSV file.
        wanted: Values by column, as text.

    Returns:
        The row.

    Raises:
        PipelineError: If the table is not one of the papers', has no such column, or not exactly
            one row has these values.
    """
    if Path(table).stem not in EDITS or Path(table).suffix != ".csv":
        raise PipelineError(f"{table}: expected the CSV file of one of {', '.join(EDITS)}")
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
    return frame.astype(object).where(frame.notna(), None).iloc[0].to_dict()


def trace(table: str, row: Mapping[str, Any], nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Collect the chain from one row of a table to its data.

    Args:
        table: Path of the table's CSV file.
        row: The row, as `find_row` returns it.
        nodes: The audit of the table.

    Returns:
        A JSON value: the row, its edit, `selection` and `validation` (None where no coefficient
        was selected), `measured`, `checkpoints`, `encoder`, `heads`, `datasets`, `code` of every
        step, and the audit's summary.
    """
    chain = _Chain(nodes, {path: read_record(path) for path in nodes if record_path(path).exists()})
    edit = EDITS[Path(table).stem].format(**row)
    curves = list(chain.curves(edit, row))
    settings = chain.records[curves[-1]]["settings"]
    described = settings.get("edits", {}).get(edit, settings)
    weights, datasets = described["weights"], {*described["weights"], *described["datasets"]}
    places = {
        "model": settings["model"],
        "seed": settings["seed"],
        "mode": settings.get("vector_mode", settings["mode"]),
    }
    parts = {
        "checkpoints": list(chain.checkpoints(weights, places)),
        "encoder": list(chain.made_by("encoder", model=settings["model"])),
        "heads": list(chain.made_by("head", model=settings["model"], dataset=datasets)),
        "datasets": list(chain.made_by("dataset", dataset=datasets)),
    }
    selections = list(chain.selections(edit, settings))
    return {
        "table": chain.file(table),
        "row": dict(row),
        "edit": {"name": edit, "weights": dict(weights)},
        "selection": [chain.rows(path, edit) for path in selections],
        "validation": [
            chain.rows(path, edit) for path in curves if chain.splits(path) == ["validation"]
        ],
        "measured": [
            chain.rows(path, edit) for path in curves if chain.splits(path) != ["validation"]
        ],
        "checkpoints": [chain.training(path) for path in parts["checkpoints"]],
        **{
            name: [chain.described(path) for path in parts[name]]
            for name in ("encoder", "heads", "datasets")
        },
        "code": chain.code([table, *selections, *curves, *itertools.chain(*parts.values())]),
        "audit": summarize(nodes),
    }


@dataclass(frozen=True)
class _Chain:
    """Everything that a table was made of, and the records of it."""

    nodes: Mapping[str, Node]
    records: Mapping[str, Mapping[str, Any]]

    def made_by(self, step: str, **wanted: Any) -> Iterator[str]:
        """Yield the files of a step whose settings have the wanted values, or one of a set."""
        for path, record in self.records.items():
            settings = record["settings"]
            if record["step"] == step and all(
                settings[key] in value if isinstance(value, set) else settings[key] == value
                for key, value in wanted.items()
            ):
                yield path

    def curves(self, edit: str, row: Mapping[str, Any]) -> Iterator[str]:
        """Yield the curves of an edit at a row's model, seed and mode."""
        found = {
            path: record["settings"]
            for path, record in self.records.items()
            if record["step"] in CURVES
            and edit in {record["settings"].get("edit"), *record["settings"].get("edits", {})}
        }
        mode = row["mode"]
        if mode == "pretrained":
            # The pre-trained model is α = 0 of the first mode, as in the table of single tasks.
            mode = ordered_modes(settings["mode"] for settings in found.values())[0]
        for path, settings in found.items():
            if (settings["model"], settings["seed"], settings["mode"]) == (
                row["model"],
                row["seed"],
                mode,
            ):
                yield path

    def selections(self, edit: str, settings: Mapping[str, Any]) -> Iterator[str]:
        """Yield the selection of an edit's coefficient, if it has one."""
        wanted = {key: settings[key] for key in ("model", "seed", "mode")}
        for path in self.made_by("select", **wanted):
            if edit in self.records[path]["settings"]["rules"]:
                yield path

    def checkpoints(self, tasks: Mapping[str, int], places: Mapping[str, Any]) -> Iterator[str]:
        """Yield the checkpoints of tasks at a model, seed and trained mode."""
        for path in self.made_by("finetune", model=places["model"], task=set(tasks)):
            hyperparameters = self.records[path]["settings"]["hyperparameters"]
            same = all(hyperparameters[key] == places[key] for key in ("seed", "mode"))
            if same and path.endswith(".safetensors"):
                yield path

    def splits(self, path: str) -> list[str]:
        return self.records[path]["settings"]["splits"]

    def file(self, path: str) -> dict[str, Any]:
        node = self.nodes[path]
        return {"path": path, "sha256": node.sha256, "verdict": str(node.verdict)}

    def described(self, path: str) -> dict[str, Any]:
        return {**self.file(path), "settings": self.records[path]["settings"]}

    def rows(self, path: str, edit: str) -> dict[str, Any]:
        """Describe a CSV file and the rows of one edit in it."""
        frame = read_csv(path)
        frame = frame[frame.edit == edit].drop(columns=["model", "seed", "mode", "edit"])
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        rule = self.records[path]["settings"].get("rules", {}).get(edit)
        return {**self.file(path), "rows": rows} | ({} if rule is None else {"rule": rule})

    def training(self, path: str) -> dict[str, Any]:
        """Describe a checkpoint, its task vector, and the run that made it."""
        record = self.records[path]
        inner = ("seeds", "started", "seconds", "device", "threads", "python", "packages", "git")
        logs = [entry["path"] for entry in record["outputs"] if entry["path"].endswith(".csv")]
        last = read_csv(logs[0]).iloc[-1].to_dict() if logs and Path(logs[0]).exists() else {}
        vectors = [
            self.file(vector)
            for vector in self.made_by("vector")
            if path in {entry["path"] for entry in self.records[vector]["inputs"]}
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
