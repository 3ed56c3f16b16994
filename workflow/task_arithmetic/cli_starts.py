"""Commands that repeat the experiment from another θ0: random, or a checkpoint of pre-training."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import digest, sha256, write_csv
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
from task_arithmetic.lineage import code_digest, recorded_step

app = typer.Typer()
CHECKPOINT_KEYS = ("model", "architecture", "preprocess", "pretraining", "step")
EDIT_KEYS = (
    "model", "start", "seed", "modes", "tasks", "control", "control_threshold", "alphas",
    "diagonal", "images", "batch_size",
)  # fmt: skip


@app.command()
def checkpoint(
    settings: Annotated[Any, settings_of(*CHECKPOINT_KEYS)],
    output: Annotated[Path, one_file("Encoder file to write.")],
    half: Annotated[bool, typer.Option(help="Keep the weights in float16.")] = False,
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Pre-train a model up to a step; step 0 is its random initialization."""
    start(log, threads)
    from task_arithmetic.architectures import resolve_architecture
    from task_arithmetic.encoders import Preprocess, save_encoder
    from task_arithmetic.pretraining import initial_clip, pretrain
    from task_arithmetic.weights import adopt_encoder

    modules = ("pretraining", "encoders", "weights")
    with recorded_step("checkpoint", settings, modules, [], [output]):
        model, pretraining, last = (settings[key] for key in ("model", "pretraining", "step"))
        if pretraining is None:
            # Pre-trained elsewhere: of its beginning, only the architecture is known.
            adopt_encoder(
                output,
                model,
                settings["architecture"],
                preprocess=settings["preprocess"],
                random_init=0,
            )
            return
        architecture = resolve_architecture(settings["architecture"])
        preprocess = Preprocess.of(settings["preprocess"])
        clip = initial_clip(architecture, pretraining["seed"])
        if last > 0:
            clip = pretrain(
                architecture, preprocess, pretraining, lambda step, loss, clip: step + 1 == last
            )
        more = {"pretraining": json.dumps(pretraining, sort_keys=True), "step": str(last)}
        save_encoder(output, model, clip.half() if half else clip, architecture, preprocess, more)


@app.command()
def probe_heads(
    settings: Annotated[Any, settings_of("model", "datasets", "batch_size")],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    examples: Annotated[Any, files("Parquet files of training images, one per dataset.")],
    outputs: Annotated[Any, files("Head files to write, one per dataset.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Train the heads of an encoder from scratch, as linear probes of its features."""
    start(log, threads)
    import torch

    from task_arithmetic.encoders import load_encoder, save_head
    from task_arithmetic.networks import EditedNetwork
    from task_arithmetic.probes import probe_head

    inputs, modules = [encoder, *examples], ("probes", "networks")
    with recorded_step("probe-heads", settings, modules, inputs, outputs):
        base = load_encoder(encoder)
        for name, path, output in zip(settings["datasets"], examples, outputs, strict=True):
            split = read_images(path, base.preprocess, threads, memory_mb)
            network = EditedNetwork(base, {}, {name: split.images}, settings["batch_size"])
            weight = torch.from_numpy(probe_head(network({}, name), split.labels))
            save_head(output, weight, settings["model"], name, split.class_names)


@app.command()
def start_vectors(
    settings: Annotated[Any, settings_of("model", "start", "hyperparameters")],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    heads: Annotated[Any, files("Heads, one per task.")],
    examples: Annotated[Any, files("Parquet files of training images, one per task.")],
    outputs: Annotated[Any, files("Task vectors to write, one per task.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Fine-tune an encoder on several tasks in turn and keep the task vectors."""
    start(log, threads)
    import torch

    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.finetune import FinetuneSettings, finetune
    from task_arithmetic.vectors import TaskVector

    inputs, modules = [encoder, *heads, *examples], ("finetune", "vectors")
    with recorded_step("start-vectors", settings, modules, inputs, outputs):
        tasks = sorted(settings["hyperparameters"])
        for task, head, path, output in zip(tasks, heads, examples, outputs, strict=True):
            fields = FinetuneSettings(**settings["hyperparameters"][task])
            base = load_encoder(encoder)
            pretrained = {name: p.detach().clone() for name, p in base.tower.named_parameters()}
            weight, class_names = read_head(head, task)
            split = read_images(
                path,
                base.preprocess,
                threads,
                memory_mb,
                class_names,
                augmentation=fields.augmentation,
                seed=fields.seed,
            )
            parameters, _ = finetune(
                base,
                torch.from_numpy(weight),
                split.images,
                torch.from_numpy(split.labels),
                fields,
                output.with_suffix(".resume.safetensors"),
                fingerprint=digest([
                    settings,
                    task,
                    code_digest(*modules),
                    *(sha256(file) for file in (encoder, head, path)),
                ]),
                description=f"{fields.mode} {task} from {settings['start']}",
            )
            metadata = {"model": settings["model"], "task": task, "mode": fields.mode}
            TaskVector.between(pretrained, parameters).save(output, metadata)
    for output in outputs:
        output.with_suffix(".resume.safetensors").unlink(missing_ok=True)


@app.command()
def start_edits(
    settings: Annotated[Any, settings_of(*EDIT_KEYS)],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    vectors: Annotated[
        Any, files("Task vectors: those of all tasks for each vector mode in turn.")
    ],
    heads: Annotated[Any, files("Heads, one per task, then of the control if there is one.")],
    examples: Annotated[Any, files("Parquet files: validation, test for each head.")],
    accuracies: Annotated[Path, one_file("CSV to write: accuracies of the edits by task.")],
    errors: Annotated[Path, one_file("CSV to write: disentanglement errors of all pairs.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Run addition, negation and disentanglement on the task vectors of one θ0, in all modes."""
    start(log, threads)
    import pandas as pd

    from task_arithmetic.disentanglement import (
        ERROR_COLUMNS,
        disentanglement_errors,
        evaluated_points,
    )
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.experiment import RESULT_COLUMNS, Subject, run_experiment
    from task_arithmetic.networks import EditedNetwork, first_order_models
    from task_arithmetic.tables import ordered_modes
    from task_arithmetic.vectors import TaskVector

    inputs, outputs = [encoder, *vectors, *heads, *examples], [accuracies, errors]
    modules = ("experiment", "networks")
    with recorded_step("start-edits", settings, modules, inputs, outputs):
        tasks, control, modes = (settings[key] for key in ("tasks", "control", "modes"))
        batch_size, base = settings["batch_size"], load_encoder(encoder)
        datasets = tasks if control is None else [*tasks, control]
        head_of = {name: read_head(path, name) for name, path in zip(datasets, heads, strict=True)}
        named = product(sorted(set(modes.values())), tasks)
        taus: dict[str, dict[str, TaskVector]] = {}
        for (vector_mode, task), path in zip(named, vectors, strict=True):
            taus.setdefault(vector_mode, {})[task] = TaskVector.load(path)
        tangent = {mode: taus[of] for mode, of in modes.items() if mode != "nonlinear"}
        features: dict[str, dict[str, Any]] = {mode: {} for mode in modes}
        labels: dict[str, dict[str, Any]] = {}
        for place, split in enumerate(("validation", "test")):
            images, labels[split] = {}, {}
            for name, path in zip(datasets, examples[place::2], strict=True):
                images[name], labels[split][name] = read_sample(
                    path, base.preprocess, threads, memory_mb, head_of[name][1], settings["images"]
                )
            if "nonlinear" in modes:
                network = EditedNetwork(base, taus["nonlinear"], images, batch_size)
                features["nonlinear"][split] = network
            for mode, model in first_order_models(base, tangent, images, batch_size).items():
                features[mode][split] = model
        weights = {name: weight for name, (weight, _) in head_of.items()}
        points = evaluated_points(tasks, [], [], settings["diagonal"])
        results, measured = [], []
        for mode in ordered_modes(modes):
            identity = {"model": settings["model"], "seed": settings["seed"], "mode": mode}
            subject = Subject(**identity, features=features[mode], labels=labels, heads=weights)
            results.append(
                run_experiment(
                    subject, tasks, settings["alphas"], control, settings["control_threshold"]
                )
            )
            found = disentanglement_errors(points, features[mode]["test"], weights)
            measured.append(found.assign(**identity))
        for path, frames, columns in (
            (accuracies, results, RESULT_COLUMNS),
            (errors, measured, ERROR_COLUMNS),
        ):
            table = pd.concat(frames, ignore_index=True).assign(start=settings["start"])
            write_csv(path, table[["start", *columns]])
