"""Commands that answer for results: audit them, trace one cell, export them with their lineage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.cli_options import start
from task_arithmetic.lineage import project_path

app = typer.Typer()
ConfigFile = Annotated[
    Path | None, typer.Option(help="Configuration of the experiment; config.yaml by default.")
]


def _parse_row(text: str) -> dict[str, str]:
    """Return the values of `task=digits,mode=linear` by column."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(column and sign for column, sign, _ in pairs):
        raise typer.BadParameter(f"expected column=value,column=value, found {text!r}")
    return {column.strip(): value.strip() for column, _, value in pairs}


@app.command()
def audit(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Results, or folders of them; what all_tables makes by default."),
    ] = None,
    why: Annotated[bool, typer.Option(help="Explain every verdict with both values.")] = False,
    quiet: Annotated[bool, typer.Option(help="Print only files that are not ok.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    configfile: ConfigFile = None,
) -> None:
    """Check results and all they were made of against records, code and configuration.

    Exit code 0 only if every file is ok.

    Raises:
        Exit: With code 1 if a file is not ok.
    """
    start(None)
    from task_arithmetic.audit import Verdict, targets_in
    from task_arithmetic.audit import audit as audit_files
    from task_arithmetic.audit_view import audit_as_json, show_audit
    from task_arithmetic.plan import present_plan

    plan = present_plan(configfile)
    # Analyses and figures are made only if asked for, and audited only if named.
    targets = targets_in(paths, plan) if paths else present_plan(configfile, "all_tables").tables
    nodes = audit_files(targets, plan)
    if as_json:
        typer.echo(json.dumps(audit_as_json(targets, nodes), indent=2, ensure_ascii=False))
    else:
        show_audit(targets, nodes, why, quiet)
    if any(node.verdict is not Verdict.OK for node in nodes.values()):
        raise typer.Exit(1)


@app.command()
def trace(
    table: Annotated[Path, typer.Argument(help="A table's CSV file.")],
    row: Annotated[
        Any,
        typer.Option(
            help="Which row: column=value, separated by commas.",
            parser=_parse_row,
            metavar="COLUMN=VALUE,…",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    configfile: ConfigFile = None,
) -> None:
    """Show where one row of a table comes from: what was measured, α, training, data, code."""
    start(None)
    from task_arithmetic.audit import audit as audit_files
    from task_arithmetic.plan import present_plan
    from task_arithmetic.trace import find_row
    from task_arithmetic.trace import trace as trace_row
    from task_arithmetic.trace_view import show_trace

    path = project_path(table)
    found = find_row(path, row)
    chain = trace_row(path, found, audit_files([path], present_plan(configfile)))
    if as_json:
        typer.echo(json.dumps(chain, indent=2, ensure_ascii=False))
    else:
        show_trace(chain)


@app.command()
def export(
    crate: Annotated[Path, typer.Argument(help="ZIP file to write.")],
    configfile: ConfigFile = None,
) -> None:
    """Export tables, figures, configuration, records and report as a Workflow Run RO-Crate.

    Raises:
        BadParameter: If the file's name does not end in .zip.
    """
    if crate.suffix != ".zip":
        raise typer.BadParameter(f"expected a name that ends in .zip, found {crate}")
    start(None)
    from task_arithmetic.audit import audit as audit_files
    from task_arithmetic.crate import export_crate
    from task_arithmetic.plan import present_plan

    plan = present_plan(configfile)
    report = Path("results", plan.experiment, "report.html")
    documents = [configfile or Path("config.yaml"), *([report] if report.exists() else [])]
    export_crate(crate, plan.experiment, audit_files(plan.shown, plan), documents)
