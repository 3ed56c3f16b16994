"""Commands that turn analyses into tidy tables and figures. None of them imports torch."""

from __future__ import annotations

from enum import StrEnum, auto
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import PipelineError, read_csv, write_csv
from task_arithmetic.cli_options import (
    Log,
    files,
    one_file,
    read_curves,
    read_head,
    settings_of,
    start,
)
from task_arithmetic.lineage import recorded_step

app = typer.Typer()


@app.command()
def linear_regime(
    settings: Annotated[Any, settings_of("tasks")],
    singles: Annotated[Any, files("Single-task accuracies.")],
    heads: Annotated[Any, files("Heads, for the numbers of classes, one per task.")],
    csv: Annotated[Path, one_file("Tidy CSV to write.")],
    log: Log = None,
) -> None:
    """Tabulate the accuracy of fine-tuned networks beside that of their first-order models."""
    start(log)
    from task_arithmetic import regimes

    inputs = [*singles, *heads]
    with recorded_step("linear-regime", settings, ("regimes",), inputs, [csv]):
        tasks = settings["tasks"]
        classes = {
            task: len(read_head(path, task)[1])
            for task, path in zip(sorted(tasks), heads, strict=True)
        }
        write_csv(csv, regimes.linear_regime(read_curves(singles), classes, tasks))


@app.command()
def collect(
    settings: Annotated[Any, settings_of("table")],
    parts: Annotated[Any, files("CSV files with the same columns.")],
    csv: Annotated[Path, one_file("Tidy CSV to write.")],
    log: Log = None,
) -> None:
    """Join what was measured per model, seed and mode into one tidy table."""
    start(log)
    import pandas as pd

    with recorded_step("collect", settings, ("artifacts",), parts, [csv]):
        read = [read_csv(path) for path in parts]
        for path, frame in zip(parts, read, strict=True):
            if list(frame.columns) != list(read[0].columns):
                raise PipelineError(
                    f"{path}: expected the columns {list(read[0].columns)} of {parts[0]}, found "
                    f"{list(frame.columns)}; delete both and rerun"
                )
        write_csv(csv, pd.concat(read, ignore_index=True))


@app.command()
def costs(
    settings: Annotated[Any, settings_of("model", "seed", "modes")],
    checkpoints: Annotated[Any, files("Checkpoints of all trained modes and tasks.")],
    features: Annotated[Any, files("Manifests of columns; none without a tangent mode.")],
    curves: Annotated[Any, files("Validation and test curves of all edits.")],
    tables: Annotated[Any, files("Tables: single_task, task_addition, task_negation.")],
    csv: Annotated[Path, one_file("Tidy CSV to write.")],
    log: Log = None,
) -> None:
    """Tabulate what each mode cost, from lineage records, beside what it reaches."""
    start(log)
    import pandas as pd

    from task_arithmetic.costs import (
        COST_COLUMNS,
        evaluation_cost,
        reached,
        read_records,
        training_cost,
    )
    from task_arithmetic.tables import ordered_modes

    inputs = [*checkpoints, *features, *curves, *tables]
    with recorded_step("costs", settings, ("costs",), inputs, [csv]):
        trained, measured, stored = map(read_records, (checkpoints, curves, features))
        of_seed = [
            frame[(frame["model"] == settings["model"]) & (frame["seed"] == settings["seed"])]
            for frame in map(read_csv, tables)
        ]
        rows = []
        for mode in ordered_modes(settings["modes"]):
            vector_mode = settings["modes"][mode]
            training = training_cost(trained, vector_mode)
            evaluation = evaluation_cost(measured, stored, mode, vector_mode)
            rows.append({
                "model": settings["model"],
                "seed": settings["seed"],
                "mode": mode,
                "training_seconds": training.seconds,
                "training_memory_mb": training.megabytes,
                "evaluation_seconds": evaluation.seconds,
                "evaluation_memory_mb": evaluation.megabytes,
                **reached(mode, *of_seed),
            })
        write_csv(csv, pd.DataFrame(rows, columns=COST_COLUMNS))


class Finding(StrEnum):
    """The figures, named by the functions that draw them."""

    linear_regime = auto()
    disentanglement_planes = auto()
    disentanglement_diagonals = auto()
    kernel = auto()
    initialization = auto()
    emergence = auto()
    costs = auto()


@app.command()
def finding(
    name: Annotated[Finding, typer.Argument(help="Which figure.")],
    settings: Annotated[Any, settings_of("tasks")],
    tables: Annotated[Any, files("The tables that it draws.")],
    png: Annotated[Path, one_file("PNG to write.")],
    pdf: Annotated[Path, one_file("PDF to write.")],
    log: Log = None,
) -> None:
    """Draw the figure of an analysis as PNG and PDF."""
    start(log)
    from task_arithmetic import figures, findings, findings_starts

    modules = ("findings", "findings_starts")
    with recorded_step("finding", settings, modules, tables, [png, pdf]):
        draw = getattr(findings, name.value, None) or getattr(findings_starts, name.value)
        figures.save(draw(*(read_csv(path) for path in tables), settings["tasks"]), png)
