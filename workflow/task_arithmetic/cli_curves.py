"""Commands that measure: stored features, and curves of an edit by network or from features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import (
    read_csv,
    write_csv,
)
from task_arithmetic.cli_options import (
    Log,
    Memory,
    Threads,
    files,
    logger,
    one_file,
    read_head,
    read_images,
    settings_of,
    start,
)
from task_arithmetic.lineage import code_digest, record_path, recorded_step

app = typer.Typer()
CURVE_KEYS = (
    "model", "seed", "mode", "edit", "weights", "datasets", "splits", "alphas", "batch_size",
)  # fmt: skip
TANGENT_KEYS = ("model", "seed", "mode", "vector_mode", "edits", "datasets", "splits", "alphas")


@app.command()
def features(
    settings: Annotated[Any, settings_of("dataset", "splits", "vectors", "batch_size")],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    examples: Annotated[Any, files("Parquet files, one per split in the settings.")],
    vectors: Annotated[Any, files("Task vectors, one per name in the settings.")],
    store: Annotated[Path, one_file("Folder of the column store.")],
    output: Annotated[Path, one_file("Manifest to write.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Compute the columns f0 and Jτ of a dataset that are missing, and list all in a manifest."""
    start(log, threads)
    from task_arithmetic.columns import PRETRAINED, ColumnStore, write_column, write_manifest
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.features import first_order_features
    from task_arithmetic.vectors import TaskVector

    modules = ("features",)
    inputs, outputs = [encoder, *examples, *vectors], []
    with recorded_step("features", settings, modules, inputs, outputs) as step:
        columns, name = ColumnStore(store), settings["dataset"]
        files = dict(zip(settings["vectors"], vectors, strict=True))
        base, listed, kept = load_encoder(encoder), {}, []
        for split, path in zip(settings["splits"], examples, strict=True):
            key = (step.sha256_of(encoder), step.sha256_of(path), code_digest(*modules))
            paths = {PRETRAINED: columns.path(*key)} | {
                named: columns.path(*key, step.sha256_of(file)) for named, file in files.items()
            }
            missing = {named: file for named, file in paths.items() if not file.exists()}
            found = [file for named, file in paths.items() if named not in missing]
            step.reuses([file for file in found if record_path(file).exists()])
            # A run that was killed before its records left whole columns: this one completes them.
            kept += [file for file in found if not record_path(file).exists()]
            logger.info("%s (%s): computing %s", name, split, sorted(missing) or "nothing")
            if missing:
                data = read_images(path, base.preprocess, threads, memory_mb)
                wanted = [named for named in missing if named != PRETRAINED]
                f0, tangents = first_order_features(
                    base,
                    [TaskVector.load(files[named]) for named in wanted],
                    data.images,
                    settings["batch_size"],
                    f"features of {name} ({split})",
                )
                for named, values in zip(wanted, tangents, strict=True):
                    write_column(paths[named], values)
                if PRETRAINED in missing:
                    write_column(paths[PRETRAINED], f0, data.labels)
                outputs += missing.values()
            listed[split] = paths
        write_manifest(output, name, listed, store)
        step.facts |= {"computed": len(outputs), "kept": len(kept)}
        outputs += [*kept, output]


@app.command()
def curve(
    settings: Annotated[Any, settings_of(*CURVE_KEYS)],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    vectors: Annotated[Any, files("Task vectors, one per weight, by task name.")],
    heads: Annotated[Any, files("Heads, one per dataset.")],
    examples: Annotated[Any, files("Parquet files, one per dataset and split.")],
    output: Annotated[Path, one_file("CSV to write.")],
    selection: Annotated[Any, files("Selected α, used with 0 in place of alphas; or none.")] = "",
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Measure the accuracies of a non-linear edit θ0 + α·Σ w_t τ_t by forward passes."""
    start(log, threads)
    from task_arithmetic.curves import Edit, count_correct, curve_frame, curve_rows
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.features import edited_features
    from task_arithmetic.vectors import TaskVector

    inputs = [encoder, *vectors, *heads, *examples, *selection]
    modules = ("features", "curves")
    with recorded_step("curve", settings, modules, inputs, [output]):
        keys = ("model", "seed", "mode", "edit", "weights")
        edit, base = Edit(*(settings[key] for key in keys)), load_encoder(encoder)
        files = dict(zip(sorted(edit.weights), vectors, strict=True))
        tau = TaskVector.sum(
            weight * TaskVector.load(files[task]) for task, weight in edit.weights.items()
        )
        weights = {
            name: read_head(path, name)
            for name, path in zip(settings["datasets"], heads, strict=True)
        }
        places = [(name, split) for name in settings["datasets"] for split in settings["splits"]]
        # All of them stay for all α, so they share the memory.
        share = memory_mb / len(places)
        data = [
            read_images(path, base.preprocess, threads, share, weights[name][1])
            for (name, _), path in zip(places, examples, strict=True)
        ]
        correct: dict[tuple[str, str], dict[float, int]] = {place: {} for place in places}
        alphas = _alphas(settings, selection, edit.name)
        images = [split.images for split in data]
        title = f"{edit.mode} {edit.name}"
        for alpha, per_place in edited_features(
            base, tau, alphas, images, settings["batch_size"], title
        ):
            for place, split, values in zip(places, data, per_place, strict=True):
                correct[place][alpha] = count_correct(values, split.labels, weights[place[0]][0])
        rows = [
            row
            for place, split in zip(places, data, strict=True)
            for row in curve_rows(edit, *place, len(split.labels), correct[place])
        ]
        write_csv(output, curve_frame(rows))


@app.command()
def tangent_curve(
    settings: Annotated[Any, settings_of(*TANGENT_KEYS)],
    store: Annotated[Path, one_file("Folder of the column store.")],
    manifests: Annotated[Any, files("Manifests of columns, one per dataset.")],
    heads: Annotated[Any, files("Heads, one per dataset.")],
    output: Annotated[Path, one_file("CSV to write.")],
    selection: Annotated[Any, files("Selected α, used with 0 in place of alphas; or none.")] = "",
    log: Log = None,
) -> None:
    """Compute accuracies of edits f0 + α·Σ w_t Jτ_t from stored features: no network runs."""
    start(log)
    from task_arithmetic.columns import PRETRAINED, listed_columns, read_column, read_labels
    from task_arithmetic.curves import Edit, curve_frame, curve_rows, tangent_correct

    manifest_of = dict(zip(settings["datasets"], manifests, strict=True))
    head_of = dict(zip(settings["datasets"], heads, strict=True))
    # What is measured: an edit on a dataset split, and the columns that decide it.
    measured = []
    for name, described in settings["edits"].items():
        columns = {task: f"{settings['vector_mode']}/{task}" for task in described["weights"]}
        for dataset in described["datasets"]:
            for split in settings["splits"]:
                wanted = [PRETRAINED, *columns.values()]
                listed = listed_columns(manifest_of[dataset], dataset, split, wanted, store)
                measured.append((name, dataset, split, columns, listed))
    used = sorted({path for *_, listed in measured for path in listed.values()})
    inputs = [*manifests, *heads, *used, *selection]
    with recorded_step("tangent-curve", settings, ("curves", "columns"), inputs, [output]):
        rows = []
        for name, dataset, split, columns, listed in measured:
            weights = settings["edits"][name]["weights"]
            edit = Edit(settings["model"], settings["seed"], settings["mode"], name, weights)
            alphas = _alphas(settings, selection, name)
            labels = read_labels(listed[PRETRAINED])
            correct = tangent_correct(
                alphas,
                read_column(listed[PRETRAINED]),
                {task: read_column(listed[column]) for task, column in columns.items()},
                weights,
                labels,
                read_head(head_of[dataset], dataset)[0],
            )
            counts = dict(zip(alphas, correct, strict=True))
            rows += curve_rows(edit, dataset, split, len(labels), counts)
        write_csv(output, curve_frame(rows))


def _alphas(settings: Mapping[str, Any], selection: list[Path], edit: str) -> list[float]:
    """Return the α to evaluate: those of the settings, or 0 and the selected one if feasible."""
    if not selection:
        return [float(alpha) for alpha in settings["alphas"]]
    from task_arithmetic.coefficients import SELECTION_COLUMNS

    chosen = read_csv(selection[0], SELECTION_COLUMNS)
    return sorted({0.0, *chosen[chosen.edit == edit].alpha.dropna().tolist()})
