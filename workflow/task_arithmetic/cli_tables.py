"""Commands right of the curve: selections, tables and figures. None of them imports torch."""

from __future__ import annotations

from enum import StrEnum, auto
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import read_csv, write_csv, write_json, write_text
from task_arithmetic.cli_options import (
    Log,
    files,
    logger,
    one_file,
    read_curves,
    read_selections,
    settings_of,
    start,
)
from task_arithmetic.lineage import recorded_step

app = typer.Typer()
ADDITION, NEGATION = "addition", "negation-"


@app.command()
def select(
    settings: Annotated[Any, settings_of("model", "seed", "mode", "rules")],
    curve: Annotated[Path, one_file("Validation curves of the edits.")],
    output: Annotated[Path, one_file("CSV to write: the selected α of each edit.")],
    singles: Annotated[Any, files("Accuracies of the fine-tuned models, for an addition.")] = "",
    log: Log = None,
) -> None:
    """Choose α on validation splits."""
    start(log)
    import pandas as pd

    from task_arithmetic.coefficients import (
        SELECTION_COLUMNS,
        select_addition,
        select_negation,
    )

    inputs = [curve, *singles]
    with recorded_step("select", settings, ("coefficients",), inputs, [output]) as step:
        curves, rows = read_curves([curve]), []
        for edit, rule in settings["rules"].items():
            accuracies = curves[curves.edit == edit]
            if rule:
                chosen = select_negation(
                    accuracies, rule["target"], rule["control"], rule["control_threshold"]
                )
            else:
                chosen = select_addition(accuracies, read_curves(singles))
            identity = [settings[key] for key in ("model", "seed", "mode")]
            rows.append([*identity, edit, chosen.alpha, chosen.feasible, chosen.objective])
            logger.info("%s: alpha %s, objective %s", edit, chosen.alpha, chosen.objective)
        write_csv(output, pd.DataFrame(rows, columns=SELECTION_COLUMNS))
        step.facts |= {"seed": settings["seed"]}


class Table(StrEnum):
    """The tables, named by the functions that make them."""

    single_task = auto()
    task_addition = auto()
    task_negation = auto()


class Figure(StrEnum):
    """The figures, named by the functions that draw them."""

    addition_curves = auto()
    negation_curves = auto()
    single_task_against_edited = auto()


@app.command()
def table(
    name: Annotated[Table, typer.Argument(help="Which table.")],
    settings: Annotated[
        Any, settings_of("tasks", "control", "control_threshold", "imported", "expected")
    ],
    csv: Annotated[Path, one_file("Tidy CSV to write.")],
    markdown: Annotated[Path, one_file("Markdown to write.")],
    latex: Annotated[Path, one_file("LaTeX to write.")],
    singles: Annotated[Any, files("Single-task accuracies; or the table of them.")] = "",
    tests: Annotated[Any, files("Test curves.")] = "",
    selections: Annotated[Any, files("Selections.")] = "",
    log: Log = None,
) -> None:
    """Make a table of the papers: tidy CSV, and rendered Markdown and LaTeX."""
    start(log)
    from task_arithmetic import tables
    from task_arithmetic.rendering import render

    inputs, outputs = [*singles, *tests, *selections], [csv, markdown, latex]
    with recorded_step("table", settings, ("tables", "rendering"), inputs, outputs):
        tasks, single = settings["tasks"], None
        if name is Table.single_task:
            made = tables.single_task(read_curves(singles), tasks)
        elif name is Table.task_addition:
            single = read_csv(singles[0])
            chosen = read_selections(selections)
            made = tables.task_addition(
                _of(ADDITION, read_curves(tests)), _of(ADDITION, chosen), single, tasks
            )
        else:
            chosen = read_selections(selections)
            made = tables.task_negation(
                _of(NEGATION, read_curves(tests)),
                _of(NEGATION, chosen),
                tasks,
                settings["control"],
            )
        made = tables.with_imported(made, settings["imported"])
        write_csv(csv, made)
        expected = settings["expected"]
        write_text(markdown, render(name, made, tasks, "markdown", single, expected))
        write_text(latex, render(name, made, tasks, "latex", single, expected))


@app.command()
def figure(
    name: Annotated[Figure, typer.Argument(help="Which figure.")],
    settings: Annotated[Any, settings_of("tasks", "control", "control_threshold")],
    png: Annotated[Path, one_file("PNG to write.")],
    pdf: Annotated[Path, one_file("PDF to write.")],
    curves: Annotated[Any, files("Validation curves.")] = "",
    selections: Annotated[Any, files("Selections.")] = "",
    tables: Annotated[Any, files("Tables: single_task, task_addition, task_negation.")] = "",
    log: Log = None,
) -> None:
    """Draw a figure as PNG and PDF."""
    start(log)
    from task_arithmetic import figures

    inputs = [*curves, *selections, *tables]
    with recorded_step("figure", settings, ("figures",), inputs, [png, pdf]):
        tasks, read = settings["tasks"], [read_csv(path) for path in tables]
        if name is Figure.single_task_against_edited:
            drawn = figures.single_task_against_edited(*read)
        elif name is Figure.addition_curves:
            chosen = read_selections(selections)
            drawn = figures.addition_curves(
                _of(ADDITION, read_curves(curves)), _of(ADDITION, chosen), read[0], tasks
            )
        else:
            chosen = read_selections(selections)
            drawn = figures.negation_curves(
                _of(NEGATION, read_curves(curves)),
                _of(NEGATION, chosen),
                tasks,
                settings["control"],
                settings["control_threshold"],
            )
        figures.save(drawn, png)


@app.command()
def summary(
    tables: Annotated[Any, files("Tables: single_task, task_addition, task_negation.")],
    curves: Annotated[Any, files("Validation curves of the addition.")],
    metrics: Annotated[Path, one_file("JSON to write: means by table, model and mode.")],
    mean_curves: Annotated[Path, one_file("CSV to write: mean validation accuracy by α.")],
    log: Log = None,
) -> None:
    """Average tables and curves, for comparing commits."""
    start(log)
    from task_arithmetic import summaries

    inputs, outputs = [*tables, *curves], [metrics, mean_curves]
    with recorded_step("summary", {}, ("summaries",), inputs, outputs):
        write_json(metrics, summaries.summarize(*(read_csv(path) for path in tables)))
        write_csv(mean_curves, summaries.mean_curves(_of(ADDITION, read_curves(curves))))


@app.command()
def show(
    tables: Annotated[list[Path], typer.Argument(help="Rendered tables (Markdown).")],
) -> None:
    """Print rendered tables."""
    from task_arithmetic.rendering import show

    show(tables)


def _of(kind: str, rows: Any) -> Any:
    """Return the rows of one kind of edit: files of a tangent mode hold all of them."""
    return rows[rows.edit.str.startswith(kind)]
