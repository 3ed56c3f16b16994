"""The command line: one command per step of the pipeline.

Each command reads files, calls one module and writes files; around it are the log, the error
message and the lineage record. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import sys

import typer

from task_arithmetic import (
    cli_analogies,
    cli_analyses,
    cli_curves,
    cli_data,
    cli_findings,
    cli_imports,
    cli_lineage,
    cli_merging,
    cli_merging_tables,
    cli_models,
    cli_pages,
    cli_starts,
    cli_tables,
    cli_variants,
)
from task_arithmetic.artifacts import PipelineError
from task_arithmetic.cli_options import logger
from task_arithmetic.preemption import EXIT_CODE, PreemptedError

app = typer.Typer(
    name="task-arithmetic",
    help="Steps of the task-arithmetic pipeline. Snakemake runs them; each runs alone as well.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_data.app)
app.add_typer(cli_models.app)
app.add_typer(cli_curves.app)
app.add_typer(cli_tables.app)
app.add_typer(cli_imports.app, name="import")
app.add_typer(cli_lineage.app)
app.add_typer(cli_merging.app)
app.add_typer(cli_merging_tables.app)
app.add_typer(cli_variants.app)
app.add_typer(cli_analogies.app)
app.add_typer(cli_analyses.app)
app.add_typer(cli_starts.app)
app.add_typer(cli_findings.app)
app.add_typer(cli_pages.app)


def main() -> None:
    """Run a command; an expected error becomes one line and exit code 1."""
    try:
        app()
    except (PipelineError, ValueError) as error:
        # The message of a pipeline error says all; for any other, the log keeps where it was.
        if not isinstance(error, PipelineError):
            logger.debug("the error came from here", exc_info=True)
        step = sys.argv[1] if len(sys.argv) > 1 else ""
        logger.error("task-arithmetic %s: %s", step, error)
        sys.exit(EXIT_CODE if isinstance(error, PreemptedError) else 1)
