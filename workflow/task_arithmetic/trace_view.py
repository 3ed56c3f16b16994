"""What a trace looks like: a tree from a row of a table down to its data and code."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.tree import Tree

from task_arithmetic.artifacts import canonical_json
from task_arithmetic.audit_view import FILE_WIDTH


def show_trace(chain: Mapping[str, Any]) -> None:
    """Print a trace.

    Args:
        chain: What `trace.trace` returns.
    """
    tree = Tree(_file(chain["table"]))
    tree.add(f"row: {_pairs(chain['row'])}")
    if edit := chain["edit"]:
        weights = f": weights {_pairs(edit['weights'])}" if edit["weights"] else ""
        tree.add(f"edit {edit['name']}{weights}")
    for selection in chain["selection"]:
        branch = tree.add(f"α selected on validation images: {_file(selection)}")
        _add_rows(branch, selection["rows"])
        branch.add(f"rule: {_pairs(selection['rule']) or 'greatest mean normalized accuracy'}")
    for title in ("validation", "measured"):
        for curve in chain[title]:
            branch = tree.add(f"{title}: {_file(curve)}")
            if "settings" in curve:
                branch.add(f"settings: {canonical_json(curve['settings'])}")
            _add_rows(branch, curve["rows"])
    for checkpoint in chain["checkpoints"]:
        _add_checkpoint(tree, checkpoint)
    for title in ("encoder", "heads", "datasets"):
        branch = tree.add(title)
        for file in chain[title]:
            branch.add(f"{_file(file)}  {canonical_json(file['settings'])}")
    branch = tree.add("code")
    for code in chain["code"]:
        state = " with changes" if code["dirty"] else ""
        branch.add(
            f"{code['step']}: {', '.join(code['files'])}  digest {code['digest'][:12]}  "
            f"commit {code['commit'] or 'unknown'}{state}"
        )
    tree.add(f"audit: {', '.join(f'{count} {name}' for name, count in chain['audit'].items())}")
    width = None if sys.stdout.isatty() else FILE_WIDTH
    Console(width=width, highlight=False, markup=False).print(tree, soft_wrap=True)


def _add_checkpoint(tree: Tree, checkpoint: Mapping[str, Any]) -> None:
    branch, run = tree.add(f"checkpoint: {_file(checkpoint)}"), checkpoint["run"]
    for vector in checkpoint["vectors"]:
        branch.add(f"task vector: {_file(vector)}")
    protocol = checkpoint["settings"].get("hyperparameters")
    branch.add(f"training: {_pairs(protocol)}" if protocol else "imported, not trained here")
    if checkpoint["last_step"]:
        branch.add(f"last step: {_pairs(checkpoint['last_step'])}")
    git = run["git"] or {"commit": "unknown", "dirty": False}
    branch.add(
        f"run: {run['started']}, {run['seconds']} s, {run['device']}, {run['threads']} thread(s), "
        f"seeds {_pairs(run['seeds'])}, commit {git['commit']}"
        f"{' with changes' if git['dirty'] else ''}"
    )
    branch.add(f"command: {run['command']}")


def _file(file: Mapping[str, Any]) -> str:
    return f"{file['path']}  sha256 {file['sha256']}  {file['verdict']}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _add_rows(branch: Tree, rows: Iterable[Mapping[str, Any]]) -> None:
    for row in rows:
        branch.add(_pairs(row))
