"""Commands that make encoders, heads, fine-tuned models and task vectors."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import digest, read_tensors, sha256, write_csv, write_tensors
from task_arithmetic.cli_options import (
    Log,
    Memory,
    Threads,
    files,
    logger,
    one_file,
    read_head,
    read_training_images,
    settings_of,
    start,
)
from task_arithmetic.distributed import is_distributed, is_main_process, launch
from task_arithmetic.lineage import code_digest, recorded_step

FINETUNE_MODULES = ("finetune",)

# Read where the architecture says; named so that it is an input like others.
Vocabulary = Annotated[Any, files("The tokenizer's file, if the architecture names one.")]

app = typer.Typer()


@app.command()
def pretrain(
    settings: Annotated[Any, settings_of("model", "architecture", "preprocess", "pretraining")],
    output: Annotated[Path, one_file("Encoder file to write.")],
    vocabulary: Vocabulary = "",
    half: Annotated[bool, typer.Option(help="Keep the weights in float16.")] = False,
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Pre-train a small CLIP on generated captioned images."""
    start(log, threads)
    from task_arithmetic.architectures import resolve_architecture
    from task_arithmetic.encoders import Preprocess, save_encoder
    from task_arithmetic.pretraining import pretrain as pretrain_clip

    with recorded_step("pretrain", settings, ("pretraining", "encoders"), vocabulary, [output]):
        architecture = resolve_architecture(settings["architecture"])
        preprocess = Preprocess.of(settings["preprocess"])
        clip = pretrain_clip(architecture, preprocess, settings["pretraining"])
        save_encoder(
            output,
            settings["model"],
            clip.half() if half else clip,
            architecture,
            preprocess,
            {"pretraining": json.dumps(settings["pretraining"], sort_keys=True)},
        )


@app.command()
def download_weights(
    settings: Annotated[Any, settings_of("architecture", "source")],
    output: Annotated[Path, one_file("File to write: the weights as they were downloaded.")],
    description: Annotated[
        Path | None, one_file("JSON to write: what is known of the weights.")
    ] = None,
    log: Log = None,
) -> None:
    """Download weights from a hub; the only step on models that needs the network."""
    start(log, online=True)
    from task_arithmetic.weights import download_weights

    outputs = [output, description] if description else [output]
    with recorded_step("download-weights", settings, ("weights",), [], outputs):
        download_weights(settings["source"], settings["architecture"], output, description)


@app.command()
def encoder(
    settings: Annotated[Any, settings_of("model", "architecture", "preprocess", "random_init")],
    output: Annotated[Path, one_file("Encoder file to write.")],
    source: Annotated[Any, files("Weights to adopt; or none, for random ones.")] = "",
    description: Annotated[Any, files("What is known of downloaded weights; or none.")] = "",
    log: Log = None,
) -> None:
    """Check weights against the configured architecture and make an encoder file of them."""
    start(log)
    from task_arithmetic.weights import adopt_encoder

    with recorded_step("encoder", settings, ("weights",), [*source, *description], [output]):
        adopt_encoder(
            output,
            settings["model"],
            settings["architecture"],
            next(iter(source), None),
            next(iter(description), None),
            settings["preprocess"],
            settings["random_init"],
        )


@app.command()
def head(
    settings: Annotated[Any, settings_of("model", "dataset", "templates", "class_names")],
    encoder: Annotated[Path, one_file("Encoder file.")],
    examples: Annotated[Path, one_file("Parquet file of the task, for its class names.")],
    output: Annotated[Path, one_file("Head file to write.")],
    vocabulary: Vocabulary = "",
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Build a task's zero-shot head from the text tower."""
    start(log, threads)
    from task_arithmetic.class_names import chosen_names, chosen_templates
    from task_arithmetic.encoders import load_clip, save_head, zero_shot_head
    from task_arithmetic.splits import read_class_names

    modules = ("encoders", "splits", "class_names")
    with recorded_step("head", settings, modules, [encoder, examples, *vocabulary], [output]):
        clip, tokenize = load_clip(encoder)
        names = read_class_names(examples)
        prompted = chosen_names(settings["dataset"], names, settings["class_names"])
        templates = chosen_templates(settings["templates"])
        weight = zero_shot_head(clip, tokenize, prompted, templates)
        save_head(output, weight, settings["model"], settings["dataset"], names)


@app.command()
def finetune(
    settings: Annotated[Any, settings_of("model", "task", "hyperparameters")],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    head: Annotated[Path, one_file("Zero-shot head of the task.")],
    train: Annotated[Path, one_file("Parquet file of training images.")],
    output: Annotated[Path, one_file("Checkpoint θt to write.")],
    training_log: Annotated[Path, one_file("CSV to write: loss and learning rate by step.")],
    processes: Annotated[
        int, typer.Option(min=0, help="Processes that share each batch: one per GPU of the job.")
    ] = 1,
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Fine-tune the image tower on a task, non-linearly or linearized; resumes if interrupted."""
    if processes > 1 and not is_distributed():
        launch(processes)
    start(log if is_main_process() else None, threads)
    resume_path = output.with_suffix(".resume.safetensors")
    inputs = [encoder, head, train]
    if not is_main_process():
        _finetuned(settings, *inputs, resume_path, threads, memory_mb)
        return
    with recorded_step(
        "finetune", settings, FINETUNE_MODULES, inputs, [output, training_log]
    ) as step:
        parameters, history = _finetuned(settings, *inputs, resume_path, threads, memory_mb)
        hyperparameters = settings["hyperparameters"]
        metadata = {
            "kind": "checkpoint",
            "model": settings["model"],
            "task": settings["task"],
            "mode": hyperparameters["mode"],
            "seed": str(hyperparameters["seed"]),
            "settings": digest(settings),
        }
        write_tensors(output, parameters, metadata)
        write_csv(training_log, history)
        step.facts |= {"processes": max(1, processes)}
    resume_path.unlink(missing_ok=True)


def _finetuned(
    settings: Any,
    encoder: Path,
    head: Path,
    train: Path,
    resume_path: Path,
    threads: int,
    memory_mb: int,
) -> Any:
    """Return the fine-tuned parameters and the training log: the part all processes share."""
    import torch

    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.finetune import FinetuneSettings, finetune

    fields = FinetuneSettings(**settings["hyperparameters"])
    base, task = load_encoder(encoder), settings["task"]
    weight, class_names = read_head(head, task)
    split = read_training_images(train, base.preprocess, threads, memory_mb, class_names, fields)
    sources = [sha256(path) for path in (encoder, head, train)]
    return finetune(
        base,
        torch.from_numpy(weight),
        split.images,
        torch.from_numpy(split.labels),
        fields,
        resume_path,
        fingerprint=digest([settings, code_digest(*FINETUNE_MODULES), *sources]),
        description=f"{fields.mode} {task}",
    )


@app.command()
def vector(
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    checkpoint: Annotated[Path, one_file("Checkpoint θt.")],
    output: Annotated[Path, one_file("Task vector to write.")],
    log: Log = None,
) -> None:
    """Subtract: τ = θt − θ0."""
    start(log)
    from task_arithmetic.vectors import TaskVector

    with recorded_step("vector", {}, ("vectors",), [encoder, checkpoint], [output]):
        finetuned, metadata = read_tensors(checkpoint, kind="checkpoint")
        pretrained, _ = read_tensors(encoder, kind="encoder", prefix="visual.")
        # A checkpoint holds what is trained; buffers, such as batch-norm statistics, stay.
        known = {name: tensor for name, tensor in pretrained.items() if name in finetuned}
        tau = TaskVector.between(known, finetuned)
        logger.info("%s: norm %.4g", metadata["task"], tau.norm())
        tau.save(output, metadata)


class Precision(StrEnum):
    """The arithmetic of the passes."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


@app.command()
def memory(
    architecture: Annotated[str, typer.Argument(help="An open_clip model name.")],
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images computed at once: the batch over accumulation.")
    ],
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the passes.")] = "fp32",
) -> None:
    """Print what fine-tuning an image tower keeps in memory, without a GPU or weights."""
    from task_arithmetic.architectures import resolve_architecture
    from task_arithmetic.budget import finetuning_memory

    resolved = resolve_architecture(architecture)
    for number, mode in enumerate(("nonlinear", "linear")):
        budget = finetuning_memory(resolved, batch_size, precision, mode)
        parts = vars(budget) | {"total": budget.total}
        if number == 0:
            typer.echo("  ".join(["GiB      ", *(name.rjust(11) for name in parts)]))
        cells = (f"{size / 2**30:11.2f}" for size in parts.values())
        typer.echo("  ".join([mode.ljust(9), *cells]))
