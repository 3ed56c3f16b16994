"""Commands that bring in what people already have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import digest, write_tensors
from task_arithmetic.cli_options import Log, one_file, settings_of, start
from task_arithmetic.lineage import recorded_step

app = typer.Typer(help="Bring in what was made elsewhere.", no_args_is_help=True)


@app.callback()
def imports() -> None:
    """Bring in what was made elsewhere."""


@app.command()
def checkpoint(
    file: Annotated[Path, typer.Argument(help="Fine-tuned weights, in any known format.")],
    settings: Annotated[Any, settings_of("model", "task", "mode")],
    encoder: Annotated[Path, one_file("Encoder file θ0 that they were fine-tuned from.")],
    output: Annotated[Path, one_file("Checkpoint θt to write.")],
    log: Log = None,
) -> None:
    """Read a fine-tuned image tower of another project, without running anything in its file."""
    start(log)
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.imports import import_checkpoint

    inputs, modules = [encoder, file], ("imports", "encoders")
    with recorded_step("import-checkpoint", settings, modules, inputs, [output]):
        tower = load_encoder(encoder).tower
        metadata = {
            "kind": "checkpoint",
            "model": settings["model"],
            "task": settings["task"],
            "mode": settings["mode"],
            "imported": file.name,
            "settings": digest(settings),
        }
        write_tensors(output, import_checkpoint(file, tower, settings["mode"]), metadata)
