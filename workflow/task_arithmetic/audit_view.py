"""What an audit looks like: a tree from results down to raw data, or JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from task_arithmetic.audit import Node, Verdict, summarize

STYLES = {Verdict.OK: "green", Verdict.MISSING: "red", Verdict.MODIFIED: "red"}
# Wide enough for a path and its verdict where no terminal says how wide it is.
FILE_WIDTH = 240


def show_audit(
    targets: Iterable[str], nodes: Mapping[str, Node], why: bool = False, quiet: bool = False
) -> None:
    """Print audited files as trees, each file's inputs once, and a summary line.

    Args:
        targets: The files that were asked for.
        nodes: All audited files by path.
        why: Whether to explain every verdict with both values.
        quiet: Whether to list only the files that are not ok.
    """
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
    shown: set[str] = set()
    for target in () if quiet else targets:
        console.print(_tree(nodes[target], nodes, why, shown))
    for node in nodes.values() if quiet else ():
        if node.verdict is not Verdict.OK:
            console.print(_label(node, why))
    counts = ", ".join(f"{count} {verdict}" for verdict, count in summarize(nodes).items())
    console.print(f"{len(nodes)} files: {counts}")


def audit_as_json(targets: Iterable[str], nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Return an audit as a JSON value: whether all is ok, counts of verdicts, and every file."""
    return {
        "ok": all(node.verdict is Verdict.OK for node in nodes.values()),
        "summary": summarize(nodes),
        "targets": list(targets),
        "files": [
            {
                "path": node.path,
                "verdict": str(node.verdict),
                "stale": node.stale,
                "sha256": node.sha256,
                "findings": [
                    {
                        "verdict": str(finding.verdict),
                        "reason": finding.reason,
                        "expected": finding.expected,
                        "found": finding.found,
                    }
                    for finding in node.findings
                ],
                "inputs": list(node.inputs),
                "job": node.job,
            }
            for node in nodes.values()
        ],
    }


def _tree(node: Node, nodes: Mapping[str, Node], why: bool, shown: set[str]) -> Tree:
    if node.path in shown:
        label = _label(node, why=False)
        return Tree(label.append("  (inputs above)", "dim") if node.inputs else label)
    shown.add(node.path)
    tree = Tree(_label(node, why))
    for name in node.inputs:
        tree.add(_tree(nodes[name], nodes, why, shown))
    return tree


def _label(node: Node, why: bool) -> Text:
    label = Text(f"{node.path}  ").append(node.verdict, STYLES.get(node.verdict, "yellow"))
    for finding in node.findings if why else ():
        label.append(f"\n{finding.verdict}: {finding.reason}", "italic")
        label.append(f"\n  expected {finding.expected}\n  found    {finding.found}", "dim")
    return label
