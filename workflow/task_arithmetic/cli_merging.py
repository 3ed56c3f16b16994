"""Commands that measure merged models, and sums over subsets of task vectors."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import write_csv
from task_arithmetic.cli_options import (
    Log,
    Memory,
    Threads,
    files,
    logger,
    one_file,
    read_curves,
    read_examples,
    read_head,
    settings_of,
    start,
)
from task_arithmetic.lineage import recorded_step

app = typer.Typer()
MERGE_KEYS = ("model", "seed", "mode", "tasks", "methods", "coefficients", "batch_size")
SUBSET_KEYS = ("model", "seed", "mode", "tasks", "coefficients", "samples", "batch_size")
TANGENT_SUBSET_KEYS = (
    "model", "seed", "mode", "vector_mode", "tasks", "coefficients", "grid", "sweeps",
)  # fmt: skip


@app.command()
def merge(
    settings: Annotated[Any, settings_of(*MERGE_KEYS)],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    vectors: Annotated[Any, files("Task vectors, one per task.")],
    heads: Annotated[Any, files("Heads, one per task.")],
    validation: Annotated[Any, files("Validation images, one file per task.")],
    test: Annotated[Any, files("Test images, one file per task.")],
    singles: Annotated[Any, files("Accuracies of the fine-tuned models.")],
    curves: Annotated[Path, one_file("CSV to write: validation accuracies over α.")],
    selection: Annotated[Path, one_file("CSV to write: the selected α of each method.")],
    output: Annotated[Path, one_file("CSV to write: test accuracies at the selected α.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Merge all task vectors by every method, choose each one's α, and measure."""
    start(log, threads)
    import pandas as pd

    from task_arithmetic.coefficients import SELECTION_COLUMNS, select_addition
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.measuring import Bench
    from task_arithmetic.merging import addition
    from task_arithmetic.merging import merge as merge_by
    from task_arithmetic.vectors import TaskVector

    inputs = [encoder, *vectors, *heads, *validation, *test, *singles]
    outputs = [curves, selection, output]
    modules = ("merging", "measuring", "coefficients")
    with recorded_step("merge", settings, modules, inputs, outputs):
        model, seed, mode, tasks = (settings[key] for key in ("model", "seed", "mode", "tasks"))
        bench = Bench(load_encoder(encoder), seed, mode, settings["batch_size"])
        taus = [TaskVector.load(path) for path in vectors]
        merged = {
            name: merge_by(name, taus, arguments, seed)
            for name, arguments in {"addition": {}, **settings["methods"]}.items()
        }
        # The validation images stay until the test images are read.
        reading = (heads, bench.encoder.preprocess, threads, memory_mb / 2)
        grid = dict.fromkeys(merged, settings["coefficients"])
        examples = read_examples(tasks, "validation", validation, *reading)
        measured, own, rows = bench.measure(merged, grid, examples), read_curves(singles), []
        for name in merged:
            chosen = select_addition(measured[measured.edit == name], own)
            rows.append([model, seed, mode, name, chosen.alpha, chosen.feasible, chosen.objective])
            logger.info("%s: alpha %s, objective %s", name, chosen.alpha, chosen.objective)
        selected = pd.DataFrame(rows, columns=SELECTION_COLUMNS)
        at = {name: [alpha] for name, alpha in zip(selected.edit, selected.alpha, strict=True)}
        merged["averaging"], at["averaging"] = addition(taus), [1 / len(taus)]
        examples = read_examples(tasks, "test", test, *reading)
        write_csv(curves, measured)
        write_csv(selection, selected)
        write_csv(output, bench.measure(merged, at, examples))


@app.command()
def subsets(
    settings: Annotated[Any, settings_of(*SUBSET_KEYS)],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    vectors: Annotated[Any, files("Task vectors, one per task.")],
    heads: Annotated[Any, files("Heads, one per task.")],
    validation: Annotated[Any, files("Validation images, one file per task.")],
    test: Annotated[Any, files("Test images, one file per task.")],
    singles: Annotated[Any, files("Accuracies of the fine-tuned models.")],
    output: Annotated[Path, one_file("CSV to write: test accuracies of each subset.")],
    ensemble: Annotated[Path, one_file("CSV to write: test accuracies of the ensemble.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Measure sums over all pairs and a sample of subsets by passes, and the ensemble."""
    start(log, threads)
    import pandas as pd

    from task_arithmetic.coefficients import select_addition
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.measuring import Bench
    from task_arithmetic.subsets import all_subsets, sampled_subsets
    from task_arithmetic.vectors import TaskVector

    inputs = [encoder, *vectors, *heads, *validation, *test, *singles]
    modules, outputs = ("measuring",), [output, ensemble]
    with recorded_step("subsets", settings, modules, inputs, outputs):
        seed, tasks = settings["seed"], settings["tasks"]
        bench = Bench(load_encoder(encoder), seed, settings["mode"], settings["batch_size"])
        taus = {task: TaskVector.load(path) for task, path in zip(tasks, vectors, strict=True)}
        # Both splits stay while the subsets are measured.
        reading = (heads, bench.encoder.preprocess, threads, memory_mb / 2)
        seen = read_examples(tasks, "validation", validation, *reading)
        unseen, own = read_examples(tasks, "test", test, *reading), read_curves(singles)
        # A sampled subset is measured on every task; the other pairs on their own two.
        sample = sampled_subsets(tasks, settings["samples"], seed)
        pairs = [subset for subset in all_subsets(tasks) if len(subset) == 2]
        rows = []
        for subset in sorted({*sample, *pairs}, key=lambda subset: (len(subset), subset)):
            name, total = "+".join(subset), TaskVector.sum(taus[task] for task in subset)
            members = [of for of in seen if of.dataset in subset]
            curve = bench.measure({name: total}, {name: settings["coefficients"]}, members)
            chosen = select_addition(curve, own)
            asked = unseen if subset in sample else [of for of in unseen if of.dataset in subset]
            rows.append(bench.measure({name: total}, {name: [chosen.alpha]}, asked))
        write_csv(output, pd.concat(rows, ignore_index=True))
        write_csv(ensemble, bench.measure_ensemble(taus, unseen))


@app.command()
def tangent_subsets(
    settings: Annotated[Any, settings_of(*TANGENT_SUBSET_KEYS)],
    store: Annotated[Path, one_file("Folder of the column store.")],
    manifests: Annotated[Any, files("Manifests of columns, one per task.")],
    heads: Annotated[Any, files("Heads, one per task.")],
    singles: Annotated[Any, files("Accuracies of the fine-tuned models.")],
    output: Annotated[Path, one_file("CSV to write: test accuracies of each subset.")],
    ensemble: Annotated[Path, one_file("CSV to write: test accuracies of the ensemble.")],
    per_task: Annotated[Path, one_file("CSV to write: test accuracies with one α per task.")],
    coefficients: Annotated[Path, one_file("CSV to write: those α.")],
    log: Log = None,
) -> None:
    """Compute sums over all subsets, the ensemble, and one α per task, from stored features."""
    start(log)
    from task_arithmetic.columns import PRETRAINED, listed_columns, read_column, read_labels
    from task_arithmetic.curves import Edit, curve_frame, curve_rows
    from task_arithmetic.subsets import TangentSums, ensemble_correct, tangent_logits

    tasks, splits = settings["tasks"], ("validation", "test")
    names = [f"{settings['vector_mode']}/{task}" for task in tasks]
    listed = {
        (task, split): listed_columns(manifest, task, split, [PRETRAINED, *names], store)
        for task, manifest in zip(tasks, manifests, strict=True)
        for split in splits
    }
    used = sorted({path for columns in listed.values() for path in columns.values()})
    inputs = [*manifests, *heads, *singles, *used]
    outputs = [output, ensemble, per_task, coefficients]
    modules = ("subsets", "columns")
    with recorded_step("tangent-subsets", settings, modules, inputs, outputs):
        identity = [settings[key] for key in ("model", "seed", "mode")]
        logits, together = {split: {} for split in splits}, []
        for (task, split), columns in listed.items():
            f0, labels = read_column(columns[PRETRAINED]), read_labels(columns[PRETRAINED])
            moves = [read_column(columns[name]) for name in names]
            head, _ = read_head(heads[tasks.index(task)], task)
            logits[split][task] = tangent_logits(f0, moves, labels, head)
            if split == "test":
                correct = {nan: ensemble_correct([f0 + move for move in moves], labels, head)}
                edit = Edit(*identity, "ensemble", {})
                together += curve_rows(edit, task, split, len(labels), correct)
        sums, own = TangentSums(*identity, **logits), read_curves(singles)
        every = sums.subsets(settings["coefficients"], own)
        (tied,) = every[every.edit == "+".join(tasks)].alpha.unique()
        searched, found = sums.per_task(tied, settings["grid"], settings["sweeps"], own)
        write_csv(output, every)
        write_csv(ensemble, curve_frame(together))
        write_csv(per_task, searched)
        write_csv(coefficients, found)
