"""Commands that make the pages of the report. None of them imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import read_csv, write_text
from task_arithmetic.cli_options import Log, files, one_file, settings_of, start
from task_arithmetic.lineage import recorded_step

app = typer.Typer()


@app.command()
def table_page(
    settings: Annotated[Any, settings_of("title")],
    csv: Annotated[Path, one_file("Tidy CSV of the table.")],
    output: Annotated[Path, one_file("HTML page to write.")],
    markdown: Annotated[Any, files("The rendered table, if there is one.")] = "",
    log: Log = None,
) -> None:
    """Make a page with a table that a browser sorts."""
    start(log)
    from task_arithmetic import pages

    with recorded_step("table-page", settings, ("pages",), [csv, *markdown], [output]):
        rendered = "\n".join(path.read_text(encoding="utf-8") for path in markdown) or None
        write_text(output, pages.table_page(settings["title"], csv, read_csv(csv), rendered))


@app.command()
def run_page(
    settings: Annotated[Any, settings_of("config", "datasets")],
    splits: Annotated[Any, files("Parquet files: train, validation, test of each dataset.")],
    output: Annotated[Path, one_file("HTML page to write.")],
    log: Log = None,
) -> None:
    """Make the page that says what was run: the protocol and the datasets."""
    start(log)
    import pandas as pd

    from task_arithmetic import pages
    from task_arithmetic.splits import open_split, read_class_names

    with recorded_step("run-page", settings, ("pages",), splits, [output]):
        config = settings["config"]
        roles = {config["control"]: "control"} | dict.fromkeys(config["tasks"], "task")
        sizes = [open_split(path).metadata.num_rows for path in splits]
        datasets = pd.DataFrame({
            "dataset": settings["datasets"],
            "role": [roles.get(name, "analogies") for name in settings["datasets"]],
            "classes": [len(read_class_names(path)) for path in splits[::3]],
            "train": sizes[0::3],
            "validation": sizes[1::3],
            "test": sizes[2::3],
        })
        sections = [
            pages.Section.of_frame("Datasets", datasets),
            pages.Section.of_frame("Settings", pages.flattened(config)),
        ]
        write_text(output, pages.page(f"What was run: {config['experiment']}", sections))


@app.command()
def provenance_page(
    results: Annotated[Any, files("Tables and figures.")],
    output: Annotated[Path, one_file("HTML page to write.")],
    log: Log = None,
) -> None:
    """Make the page that says where results come from, from the records behind them."""
    start(log)
    from task_arithmetic import pages, provenance

    with recorded_step("provenance-page", {}, ("pages", "provenance"), results, [output]):
        records = provenance.records_behind(results)
        parts = {
            "Where it ran": provenance.environments(records),
            "What ran": provenance.steps(records),
            "What it began with": provenance.sources(records),
            "What came out": provenance.made(results, records),
        }
        ask = "task-arithmetic audit checks all of this; task-arithmetic trace explains one number."
        sections = [pages.Section(text=ask)]
        sections += [pages.Section.of_frame(heading, frame) for heading, frame in parts.items()]
        write_text(output, pages.page("Provenance", sections))


@app.command()
def gallery(
    settings: Annotated[Any, settings_of("datasets")],
    splits: Annotated[Any, files("Parquet files of test images, one per dataset.")],
    png: Annotated[Path, one_file("PNG to write.")],
    pdf: Annotated[Path, one_file("PDF to write.")],
    log: Log = None,
) -> None:
    """Draw some images of every dataset."""
    start(log)
    from task_arithmetic import figures
    from task_arithmetic.gallery import COLUMNS, examples
    from task_arithmetic.gallery import gallery as draw

    with recorded_step("gallery", settings, ("gallery",), splits, [png, pdf]):
        pairs = zip(settings["datasets"], splits, strict=True)
        figures.save(draw({name: examples(path, COLUMNS) for name, path in pairs}), png)
