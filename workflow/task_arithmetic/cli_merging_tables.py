"""Commands that tabulate and draw the analyses of sums of task vectors; none imports torch."""

from __future__ import annotations

from enum import StrEnum, auto
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import read_csv, write_csv, write_text
from task_arithmetic.cli_options import Log, files, one_file, read_curves, settings_of, start
from task_arithmetic.lineage import recorded_step

app = typer.Typer()


class MergingTable(StrEnum):
    """The tables, named by the functions that make them."""

    merging = auto()
    subsets = auto()


class MergingFigure(StrEnum):
    """The figures, named by the functions that draw them."""

    merging_methods = auto()
    pairs = auto()
    subsets = auto()


@app.command()
def merging_table(
    name: Annotated[MergingTable, typer.Argument(help="Which table.")],
    settings: Annotated[Any, settings_of("tasks", "control")],
    measured: Annotated[Any, files("Measured accuracies.")],
    singles: Annotated[Path, one_file("The table of single-task accuracies.")],
    csv: Annotated[Path, one_file("Tidy CSV to write.")],
    markdown: Annotated[Path, one_file("Markdown to write.")],
    latex: Annotated[Path, one_file("LaTeX to write.")],
    log: Log = None,
) -> None:
    """Make a table of merged models or of sums over subsets."""
    start(log)
    from task_arithmetic import merging_tables

    inputs, outputs = [*measured, singles], [csv, markdown, latex]
    with recorded_step("merging-table", settings, ("merging_tables",), inputs, outputs):
        make = getattr(merging_tables, name)
        table, tasks = make(read_curves(measured), read_csv(singles)), settings["tasks"]
        write_csv(csv, table)
        write_text(markdown, merging_tables.render(name, table, tasks, "markdown"))
        write_text(latex, merging_tables.render(name, table, tasks, "latex"))


@app.command()
def merging_figure(
    name: Annotated[MergingFigure, typer.Argument(help="Which figure.")],
    settings: Annotated[Any, settings_of("tasks", "control")],
    tables: Annotated[Any, files("The tables that it draws.")],
    png: Annotated[Path, one_file("PNG to write.")],
    pdf: Annotated[Path, one_file("PDF to write.")],
    log: Log = None,
) -> None:
    """Draw a figure of merged models or of sums over subsets."""
    start(log)
    from task_arithmetic import figures, merging_figures

    with recorded_step("merging-figure", settings, ("merging_figures",), tables, [png, pdf]):
        (table,) = map(read_csv, tables)
        if name is MergingFigure.merging_methods:
            drawn = merging_figures.merging_methods(table)
        elif name is MergingFigure.pairs:
            drawn = merging_figures.pairs(table)
        else:
            drawn = merging_figures.subsets(table, settings["tasks"])
        figures.save(drawn, png)
