"""Commands that tabulate and draw the analyses of sums of task vectors; none imports torch."""

from __future__ import annotations

from enum import StrEnum, auto
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import read_csv, read_tensors, write_csv, write_text
from task_arithmetic.cli_options import Log, files, one_file, settings_of, start
from task_arithmetic.lineage import recorded_step

app = typer.Typer()


class MergingTable(StrEnum):
    """The tables, named by the functions that make them."""

    merging = auto()
    subsets = auto()
    similarity = auto()
    negation_baselines = auto()
    ablations = auto()
    analogies = auto()


class MergingFigure(StrEnum):
    """The figures, named by the functions that draw them."""

    merging_methods = auto()
    pairs = auto()
    subsets = auto()
    cosine_similarity = auto()
    negation_baselines = auto()
    ablations = auto()
    analogies = auto()


@app.command()
def similarity(
    settings: Annotated[Any, settings_of("model", "seed", "tasks", "modes")],
    vectors: Annotated[Any, files("Task vectors: those of all tasks for each mode in turn.")],
    output: Annotated[Path, one_file("CSV to write: cosines by mode, layer and pair.")],
    log: Log = None,
) -> None:
    """Compute cosines between the task vectors of each fine-tuning mode, by layer."""
    start(log)
    import pandas as pd

    from task_arithmetic.similarity import cosine_rows, cosines

    with recorded_step("similarity", settings, ("similarity",), vectors, [output]):
        tasks, made = settings["tasks"], []
        for place, mode in enumerate(settings["modes"]):
            paths = vectors[place * len(tasks) : (place + 1) * len(tasks)]
            tensors = {
                task: read_tensors(path, kind="task_vector", framework="numpy")[0]
                for task, path in zip(tasks, paths, strict=True)
            }
            made.append(cosine_rows(cosines(tensors), tasks).assign(mode=mode))
        identity = {"model": settings["model"], "seed": settings["seed"]}
        rows = pd.concat(made, ignore_index=True).assign(**identity)
        write_csv(output, rows[[*identity, "mode", "layer", "first", "second", "cosine"]])


@app.command()
def merging_table(
    settings: Annotated[Any, settings_of("table", "tasks")],
    measured: Annotated[Any, files("Measured accuracies.")],
    csv: Annotated[Path, one_file("Tidy CSV to write.")],
    markdown: Annotated[Path, one_file("Markdown to write.")],
    latex: Annotated[Path, one_file("LaTeX to write.")],
    tables: Annotated[Any, files("Tables that it refers to.")] = "",
    log: Log = None,
) -> None:
    """Make a table of an analysis of sums of task vectors."""
    start(log)
    import pandas as pd

    from task_arithmetic import merging_tables
    from task_arithmetic.merging_rendering import render

    name = MergingTable(settings["table"])
    inputs, outputs = [*measured, *tables], [csv, markdown, latex]
    modules = ("merging_tables", "merging_rendering")
    with recorded_step("merging-table", settings, modules, inputs, outputs):
        make = getattr(merging_tables, name)
        rows = pd.concat(map(read_csv, measured), ignore_index=True)
        table = make(rows, *map(read_csv, tables), *_order(name, settings))
        write_csv(csv, table)
        write_text(markdown, render(name, table, "markdown"))
        write_text(latex, render(name, table, "latex"))


@app.command()
def merging_figure(
    settings: Annotated[Any, settings_of("figure", "tasks")],
    tables: Annotated[Any, files("The tables that it draws.")],
    png: Annotated[Path, one_file("PNG to write.")],
    pdf: Annotated[Path, one_file("PDF to write.")],
    log: Log = None,
) -> None:
    """Draw a figure of an analysis of sums of task vectors."""
    start(log)
    from task_arithmetic import figures, merging_figures

    name = MergingFigure(settings["figure"])
    with recorded_step("merging-figure", settings, ("merging_figures",), tables, [png, pdf]):
        draw = getattr(merging_figures, name)
        figures.save(draw(*map(read_csv, tables), *_order(name, settings)), png)


def _order(name: str, settings: dict[str, Any]) -> list[list[str]]:
    """Return the last argument, the tasks in order; analogies are of datasets, not of tasks."""
    return [] if name == "analogies" else [settings["tasks"]]
