"""What the commands share: their options, the log, and reading their smaller inputs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import PipelineError, digest, read_csv, read_tensors, sha256
from task_arithmetic.lineage import code_digest

logger = logging.getLogger("task_arithmetic")

Log = Annotated[Path | None, typer.Option(help="Write plain log lines to this file.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of this step.")]
Memory = Annotated[
    int,
    typer.Option(min=1, help="MB of this step; half of it may hold decoded images."),
]


def one_file(help_text: str) -> Any:
    """Return an option that takes one path."""
    return typer.Option(help=help_text, show_default=False)


def files(help_text: str) -> Any:
    """Return an option that takes paths separated by blanks."""
    return typer.Option(
        help=f"{help_text} Separated by blanks.",
        parser=lambda text: [Path(name) for name in text.split()],
        metavar="PATHS",
        show_default=False,
    )


def settings_of(*keys: str) -> Any:
    """Return an option that takes a JSON object with exactly the given keys."""
    return typer.Option(
        help=f"JSON object with the keys {', '.join(keys)}.",
        parser=_settings_parser(set(keys)),
        metavar="JSON",
        show_default=False,
    )


def _settings_parser(keys: set[str]) -> Callable[[str], dict[str, Any]]:
    def parse(text: str) -> dict[str, Any]:
        try:
            settings = json.loads(text)
        except ValueError as error:
            raise typer.BadParameter(f"expected a JSON object, found {text!r} ({error})") from error
        if not isinstance(settings, dict):
            raise typer.BadParameter(f"expected a JSON object, found {text!r}")
        if set(settings) != keys:
            raise typer.BadParameter(f"expected the keys {sorted(keys)}, found {sorted(settings)}")
        return settings

    return parse


def start(log: Path | None, threads: int | None = None, online: bool = False) -> None:
    """Send log lines to the log file and warnings to the terminal; set threads and hub access.

    Args:
        log: The log file, if any.
        threads: How many CPU threads torch may use; None for a step without torch.
        online: Whether the step may ask a hub. What computes must find all it needs on disk.
    """
    if not online:
        os.environ["HF_HUB_OFFLINE"] = "1"
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(terminal)
    logger.setLevel(logging.DEBUG)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        lines = logging.FileHandler(log, mode="w")
        lines.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(lines)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def fingerprint_of(settings: Any, modules: tuple[str, ...], inputs: list[Path]) -> str:
    """Return what identifies a training: its settings, the code, and what it reads."""
    return digest([settings, code_digest(*modules), *(sha256(path) for path in inputs)])


def read_curves(paths: list[Path]) -> Any:
    """Return the rows of several curves as one table."""
    import pandas as pd

    from task_arithmetic.curves import CURVE_COLUMNS

    return pd.concat([read_csv(path, CURVE_COLUMNS) for path in paths], ignore_index=True)


def read_selections(paths: list[Path]) -> Any:
    """Return several selections as one table."""
    import pandas as pd

    from task_arithmetic.coefficients import SELECTION_COLUMNS

    return pd.concat([read_csv(path, SELECTION_COLUMNS) for path in paths], ignore_index=True)


def read_head(path: Path, dataset: str) -> tuple[Any, list[str]]:
    """Return a head's weight, `[classes, features]`, and its class names."""
    tensors, metadata = read_tensors(path, kind="head", framework="numpy")
    if metadata["dataset"] != dataset:
        raise PipelineError(f"{path}: expected the head of {dataset}, found {metadata['dataset']}")
    return tensors["weight"], json.loads(metadata["class_names"])


def read_images(
    path: Path,
    preprocess: Any,
    threads: int,
    memory_mb: float,
    class_names: list[str] | None = None,
    **augmentation: Any,
) -> Any:
    """Return a split as an encoder's preprocessing wants it; its classes must be the head's."""
    from task_arithmetic.loading import read_split

    split = read_split(
        path,
        preprocess.size,
        threads,
        memory_mb * 1e6 / 2,
        interpolation=preprocess.interpolation,
        resize_mode=preprocess.resize_mode,
        **augmentation,
    )
    if class_names is not None and list(split.class_names) != class_names:
        raise PipelineError(
            f"{path}: expected the head's classes {class_names}, found {list(split.class_names)}"
        )
    return split


def read_training_images(
    path: Path,
    preprocess: Any,
    threads: int,
    memory_mb: float,
    class_names: list[str],
    protocol: Any,
) -> Any:
    """Return a training split, augmented as a fine-tuning protocol says."""
    how = augmentation_of(protocol)
    return read_images(path, preprocess, threads, memory_mb, class_names, **how)


def augmentation_of(protocol: Any) -> dict[str, Any]:
    """Return how a fine-tuning protocol augments images, as `read_images` takes it."""
    return {"augmentation": protocol.augmentation, "seed": protocol.seed}


def read_sample(
    path: Path,
    preprocess: Any,
    threads: int,
    memory_mb: float,
    class_names: list[str],
    count: int,
) -> tuple[Any, Any]:
    """Return the images and labels of `count` examples of a split, the same every time."""
    from task_arithmetic.disentanglement import chosen_examples

    split = read_images(path, preprocess, threads, memory_mb, class_names)
    chosen = chosen_examples(len(split.labels), count)
    return next(split.images.batches([(0, chosen)])), split.labels[chosen]


def read_examples(
    datasets: list[str],
    split: str,
    paths: list[Path],
    heads: list[Path],
    preprocess: Any,
    threads: int,
    memory_mb: float,
    **augmentation: Any,
) -> list[Any]:
    """Return `measuring.Examples` of one split of several datasets, which share the memory."""
    from task_arithmetic.measuring import Examples

    examples = []
    for dataset, path, head in zip(datasets, paths, heads, strict=True):
        weight, class_names = read_head(head, dataset)
        memory = memory_mb / len(datasets)
        read = read_images(path, preprocess, threads, memory, class_names, **augmentation)
        examples.append(Examples(dataset, split, read.images, read.labels, weight))
    return examples
