"""Commands of the analyses: why task arithmetic works, measured on the same features and curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import write_csv
from task_arithmetic.cli_options import (
    Log,
    Memory,
    Threads,
    files,
    one_file,
    read_head,
    read_images,
    read_sample,
    settings_of,
    start,
)
from task_arithmetic.lineage import recorded_step

app = typer.Typer()
ERROR_KEYS = ("model", "seed", "mode", "tasks", "pairs", "grid", "diagonal", "images")
KERNEL_KEYS = ("model", "start", "tasks", "pairs", "samples", "share", "memory_mb")


@app.command()
def disentanglement(
    settings: Annotated[Any, settings_of(*ERROR_KEYS, "batch_size")],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    vectors: Annotated[Any, files("Task vectors, one per task.")],
    heads: Annotated[Any, files("Heads, one per task.")],
    examples: Annotated[Any, files("Parquet files of test images, one per task.")],
    output: Annotated[Path, one_file("CSV to write.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Measure the disentanglement errors of the network, by forward passes."""
    start(log, threads)
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.networks import EditedNetwork
    from task_arithmetic.vectors import TaskVector

    inputs = [encoder, *vectors, *heads, *examples]
    modules = ("disentanglement", "networks")
    with recorded_step("disentanglement", settings, modules, inputs, [output]):
        tasks, base = settings["tasks"], load_encoder(encoder)
        head_of = {t: read_head(path, t) for t, path in zip(tasks, heads, strict=True)}
        images = {}
        for task, path in zip(tasks, examples, strict=True):
            images[task], _ = read_sample(
                path, base.preprocess, threads, memory_mb, head_of[task][1], settings["images"]
            )
        taus = {t: TaskVector.load(path) for t, path in zip(tasks, vectors, strict=True)}
        network = EditedNetwork(base, taus, images, settings["batch_size"])
        _write_errors(output, settings, network, {t: head for t, (head, _) in head_of.items()})


@app.command()
def tangent_disentanglement(
    settings: Annotated[Any, settings_of(*ERROR_KEYS, "vector_mode")],
    store: Annotated[Path, one_file("Folder of the column store.")],
    manifests: Annotated[Any, files("Manifests of columns, one per task.")],
    heads: Annotated[Any, files("Heads, one per task.")],
    output: Annotated[Path, one_file("CSV to write.")],
    log: Log = None,
) -> None:
    """Compute the disentanglement errors of a tangent mode from stored features."""
    start(log)
    from task_arithmetic.columns import PRETRAINED, listed_columns, read_column
    from task_arithmetic.disentanglement import FirstOrder, chosen_examples

    tasks = settings["tasks"]
    names = {task: f"{settings['vector_mode']}/{task}" for task in tasks}
    listed = {
        task: listed_columns(path, task, "test", [PRETRAINED, *names.values()], store)
        for task, path in zip(tasks, manifests, strict=True)
    }
    inputs = [*manifests, *heads, *(path for of in listed.values() for path in of.values())]
    modules = ("disentanglement", "columns")
    with recorded_step("tangent-disentanglement", settings, modules, inputs, [output]):
        f0, columns = {}, {}
        for dataset, paths in listed.items():
            features = read_column(paths[PRETRAINED])
            chosen = chosen_examples(len(features), settings["images"])
            f0[dataset] = features[chosen]
            columns[dataset] = {
                task: read_column(paths[name])[chosen] for task, name in names.items()
            }
        weights = {t: read_head(path, t)[0] for t, path in zip(tasks, heads, strict=True)}
        _write_errors(output, settings, FirstOrder(f0, columns), weights)


@app.command()
def linear_weights(
    settings: Annotated[Any, settings_of("model", "seed", "tasks", "batch_size")],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    vectors: Annotated[Any, files("Task vectors of linearized fine-tuning, one per task.")],
    heads: Annotated[Any, files("Heads, one per task.")],
    examples: Annotated[Any, files("Parquet files of test images, one per task.")],
    output: Annotated[Path, one_file("CSV to write.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Measure the network itself, f(x; θ), at the weights that linearized fine-tuning found."""
    start(log, threads)
    from task_arithmetic.curves import Edit, count_correct, curve_frame, curve_rows
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.networks import EditedNetwork
    from task_arithmetic.regimes import NETWORK_AT_LINEAR
    from task_arithmetic.vectors import TaskVector

    inputs = [encoder, *vectors, *heads, *examples]
    modules = ("networks", "curves", "regimes")
    with recorded_step("linear-weights", settings, modules, inputs, [output]):
        base, rows = load_encoder(encoder), []
        for task, vector, head, path in zip(
            settings["tasks"], vectors, heads, examples, strict=True
        ):
            weight, class_names = read_head(head, task)
            split = read_images(path, base.preprocess, threads, memory_mb, class_names)
            taus = {task: TaskVector.load(vector)}
            network = EditedNetwork(base, taus, {task: split.images}, settings["batch_size"])
            correct = {1.0: count_correct(network({task: 1.0}, task), split.labels, weight)}
            edit = Edit(
                settings["model"], settings["seed"], NETWORK_AT_LINEAR, f"single-{task}", {task: 1}
            )
            rows += curve_rows(edit, task, "test", len(split.labels), correct)
        write_csv(output, curve_frame(rows))


@app.command()
def kernel(
    settings: Annotated[Any, settings_of(*KERNEL_KEYS)],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    heads: Annotated[Any, files("Heads, one per task.")],
    examples: Annotated[Any, files("Parquet files of test images, one per task.")],
    output: Annotated[Path, one_file("CSV to write.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Diagonalize the tangent kernels of tasks and measure where their eigenfunctions live."""
    start(log, threads)
    import pandas as pd
    import torch

    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.features import default_device
    from task_arithmetic.kernel import LOCALIZATION_COLUMNS, localization, tangent_kernel
    from task_arithmetic.progress import Progress

    inputs, modules = [encoder, *heads, *examples], ("kernel", "disentanglement", "features")
    with recorded_step("kernel", settings, modules, inputs, [output]):
        device, base, count = default_device(), load_encoder(encoder), settings["samples"]
        tower, weights, images, tables = base.tower.to(device), {}, {}, []
        for task, head, path in zip(settings["tasks"], heads, examples, strict=True):
            weight, class_names = read_head(head, task)
            chosen, _ = read_sample(
                path, base.preprocess, threads, memory_mb, class_names, 2 * count
            )
            weights[task] = torch.from_numpy(weight).to(device)
            images[task] = base.preprocess(torch.from_numpy(chosen).to(device))
        ordered = [pair for listed in settings["pairs"] for pair in (listed, listed[::-1])]
        for task, other in ordered:
            # Alternate images, as the examples may be sorted by class.
            own, unseen, foreign = images[task][::2], images[task][1::2], images[other][::2]
            sides = torch.cat([own, unseen, foreign])
            with Progress(f"kernel of {task}", len(own) * len(sides), "value") as progress:
                found = tangent_kernel(
                    tower, weights[task], own, sides, settings["memory_mb"] << 20, progress.advance
                ).T
            parts = found[: len(own)], found[len(own) : -len(foreign)], found[-len(foreign) :]
            tables.append(localization(*parts, settings["share"]).assign(task=task, other=other))
        identity = {key: settings[key] for key in ("model", "start")}
        joined = pd.concat(tables, ignore_index=True).assign(**identity)
        write_csv(output, joined[LOCALIZATION_COLUMNS])


def _write_errors(
    output: Path, settings: Mapping[str, Any], features: Any, heads: Mapping[str, Any]
) -> None:
    """Measure ξ at the points that the settings name, and write it with what it is of."""
    from task_arithmetic.disentanglement import (
        ERROR_COLUMNS,
        disentanglement_errors,
        evaluated_points,
    )
    from task_arithmetic.progress import Progress

    points = evaluated_points(*(settings[key] for key in ("tasks", "pairs", "grid", "diagonal")))
    title = f"{settings['mode']} disentanglement errors"
    with Progress(title, sum(map(len, points.values())), "point") as progress:
        errors = disentanglement_errors(points, features, heads, progress.advance)
    identity = {key: settings[key] for key in ("model", "seed", "mode")}
    write_csv(output, errors.assign(**identity)[ERROR_COLUMNS])
