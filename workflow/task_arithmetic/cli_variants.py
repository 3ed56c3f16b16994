"""Commands that train variants of the fine-tunings, and measure what is compared with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import write_csv
from task_arithmetic.cli_options import (
    Log,
    Memory,
    Threads,
    files,
    fingerprint_of,
    one_file,
    read_curves,
    read_examples,
    read_head,
    read_training_images,
    settings_of,
    start,
)
from task_arithmetic.lineage import recorded_step

app = typer.Typer()
BASELINE_KEYS = (
    "model", "seed", "tasks", "control", "control_threshold", "coefficients", "batch_size",
)  # fmt: skip
ABLATION_KEYS = (
    "model", "seed", "tasks", "base", "rates", "snapshots", "coefficients", "batch_size",
)  # fmt: skip


@app.command()
def variants(
    settings: Annotated[Any, settings_of("model", "task", "hyperparameters", "variants")],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    head: Annotated[Path, one_file("Zero-shot head of the task.")],
    train: Annotated[Path, one_file("Parquet file of training images.")],
    output: Annotated[Path, one_file("Task vectors to write.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Fine-tune variants of one task's model, such as by gradient ascent; resumes each."""
    start(log, threads)
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.finetune import FinetuneSettings
    from task_arithmetic.variants import Variant, resume_path, save_variants, train_variants

    inputs, modules = [encoder, head, train], ("variants",)
    with recorded_step("variants", settings, modules, inputs, [output]):
        protocol = FinetuneSettings(**settings["hyperparameters"])
        base, task = load_encoder(encoder), settings["task"]
        weight, class_names = read_head(head, task)
        split = read_training_images(
            train, base.preprocess, threads, memory_mb, class_names, protocol
        )
        fingerprint = fingerprint_of(settings["hyperparameters"], modules, inputs)
        made = train_variants(
            (
                (Variant(name, **described), weight, split.images, split.labels)
                for name, described in settings["variants"].items()
            ),
            base,
            protocol,
            output,
            fingerprint,
        )
        save_variants(output, made, {"model": settings["model"], "task": task})
    for name in settings["variants"]:
        resume_path(output, name).unlink(missing_ok=True)


@app.command()
def negation_baselines(
    settings: Annotated[Any, settings_of(*BASELINE_KEYS)],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    vectors: Annotated[Any, files("Task vectors, one per task.")],
    variants: Annotated[Any, files("Variants, one file per task, with gradient ascent.")],
    heads: Annotated[Any, files("Heads of the tasks, then of the control.")],
    validation: Annotated[Any, files("Validation images of the tasks, then of the control.")],
    test: Annotated[Any, files("Test images of the tasks, then of the control.")],
    curves: Annotated[Path, one_file("CSV to write: validation accuracies over α.")],
    selection: Annotated[Path, one_file("CSV to write: the selected α.")],
    output: Annotated[Path, one_file("CSV to write: test accuracies.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Measure what a negation is compared with: fine-tuned, gradient ascent, random vector."""
    start(log, threads)
    import pandas as pd

    from task_arithmetic.baselines import Forgetting
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.measuring import Bench
    from task_arithmetic.variants import load_variant
    from task_arithmetic.vectors import TaskVector

    inputs = [encoder, *vectors, *variants, *heads, *validation, *test]
    modules, outputs = ("baselines",), [curves, selection, output]
    with recorded_step("negation-baselines", settings, modules, inputs, outputs):
        tasks, control, seed = settings["tasks"], settings["control"], settings["seed"]
        bench = Bench(load_encoder(encoder), seed, "nonlinear", settings["batch_size"])
        threshold = settings["control_threshold"]
        forgetting = Forgetting(bench, settings["coefficients"], control, threshold)
        names = [*tasks, control]
        # Both splits stay while the baselines are measured.
        reading = (heads, bench.encoder.preprocess, threads, memory_mb / 2)
        *seen, seen_control = read_examples(names, "validation", validation, *reading)
        *unseen, unseen_control = read_examples(names, "test", test, *reading)
        measured = [
            forgetting.measure(
                task,
                TaskVector.load(vector),
                load_variant(variant, "ascent"),
                [before, seen_control],
                [after, unseen_control],
            )
            for task, vector, variant, before, after in zip(
                tasks, vectors, variants, seen, unseen, strict=True
            )
        ]
        for path, frames in zip(outputs, zip(*measured, strict=True), strict=True):
            write_csv(path, pd.concat(frames, ignore_index=True))


@app.command()
def ablations(
    settings: Annotated[Any, settings_of(*ABLATION_KEYS)],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    vectors: Annotated[Any, files("Task vectors, one per task.")],
    variants: Annotated[Any, files("Variants, one file per task.")],
    heads: Annotated[Any, files("Heads, one per task.")],
    validation: Annotated[Any, files("Validation images, one file per task.")],
    test: Annotated[Any, files("Test images, one file per task.")],
    singles: Annotated[Any, files("Accuracies of the fine-tuned models.")],
    output: Annotated[Path, one_file("CSV to write: accuracies and cosines by run and task.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Measure sums of vectors of other learning rates, of fewer steps, and of another seed."""
    start(log, threads)
    import pandas as pd

    from task_arithmetic.ablations import Run, interchanged, measure_run
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.measuring import Bench
    from task_arithmetic.variants import load_variant
    from task_arithmetic.vectors import TaskVector

    inputs = [encoder, *vectors, *variants, *heads, *validation, *test, *singles]
    modules = ("ablations", "variants")
    with recorded_step("ablations", settings, modules, inputs, [output]):
        tasks, seed = settings["tasks"], settings["seed"]
        bench = Bench(load_encoder(encoder), seed, "nonlinear", settings["batch_size"])
        # Both splits stay while the runs are measured.
        reading = (heads, bench.encoder.preprocess, threads, memory_mb / 2)
        seen = read_examples(tasks, "validation", validation, *reading)
        unseen, own = read_examples(tasks, "test", test, *reading), read_curves(singles)
        base = {task: TaskVector.load(path) for task, path in zip(tasks, vectors, strict=True)}

        def trained(name: str) -> dict[str, TaskVector]:
            return {
                task: load_variant(path, name) for task, path in zip(tasks, variants, strict=True)
            }

        reseeded = trained("reseeded")
        runs = [
            Run(settings["base"], base, base),
            *(Run(name, trained(name), base) for name in settings["rates"]),
            *(
                Run(f"steps-{steps}", trained(f"reseeded@{steps}"), reseeded)
                for steps in settings["snapshots"]
            ),
            Run("reseeded", reseeded, base),
            Run("interchanged", interchanged(base, reseeded), base),
        ]
        rows = [
            measure_run(bench, run, settings["coefficients"], own, seen, unseen) for run in runs
        ]
        write_csv(output, pd.concat(rows, ignore_index=True))
