"""Commands that make encoders, heads, fine-tuned models and task vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import (
    digest,
    read_tensors,
    sha256,
    write_csv,
    write_tensors,
)
from task_arithmetic.cli_options import (
    Log,
    Memory,
    Threads,
    logger,
    one_file,
    read_head,
    read_images,
    settings_of,
    start,
)
from task_arithmetic.lineage import code_digest, recorded_step

app = typer.Typer()


@app.command()
def pretrain(
    settings: Annotated[Any, settings_of("model", "architecture", "preprocess", "pretraining")],
    output: Annotated[Path, one_file("Encoder file to write.")],
    half: Annotated[bool, typer.Option(help="Keep the weights in float16.")] = False,
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Pre-train a small CLIP on generated captioned images."""
    start(log, threads)
    from task_arithmetic.encoders import Preprocess, save_encoder
    from task_arithmetic.pretraining import pretrain as pretrain_clip

    with recorded_step("pretrain", settings, ("pretraining", "encoders"), [], [output]):
        architecture = settings["architecture"]
        preprocess = Preprocess(**settings["preprocess"])
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
def encoder(
    settings: Annotated[Any, settings_of("model", "architecture")],
    source: Annotated[Path, one_file("Encoder file to adopt.")],
    output: Annotated[Path, one_file("Encoder file to write.")],
    log: Log = None,
) -> None:
    """Check pre-trained weights against the configured architecture and adopt them."""
    start(log)
    from task_arithmetic.encoders import adopt_encoder

    with recorded_step("encoder", settings, ("encoders",), [source], [output]):
        adopt_encoder(source, output, settings["model"], settings["architecture"])


@app.command()
def head(
    settings: Annotated[Any, settings_of("model", "dataset", "templates", "class_names")],
    encoder: Annotated[Path, one_file("Encoder file.")],
    examples: Annotated[Path, one_file("Parquet file of the task, for its class names.")],
    output: Annotated[Path, one_file("Head file to write.")],
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Build a task's zero-shot head from the text tower."""
    start(log, threads)
    from task_arithmetic.class_names import chosen_names, chosen_templates
    from task_arithmetic.encoders import load_clip, save_head, zero_shot_head
    from task_arithmetic.splits import read_class_names

    modules = ("encoders", "splits", "class_names")
    with recorded_step("head", settings, modules, [encoder, examples], [output]):
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
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Fine-tune the image tower on a task, non-linearly or linearized; resumes if interrupted."""
    start(log, threads)
    import torch

    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.finetune import FinetuneSettings, finetune

    inputs, outputs = [encoder, head, train], [output, training_log]
    modules = ("finetune",)
    with recorded_step("finetune", settings, modules, inputs, outputs) as step:
        fields = FinetuneSettings(**settings["hyperparameters"])
        base, task = load_encoder(encoder), settings["task"]
        weight, class_names = read_head(head, task)
        split = read_images(
            train,
            base.preprocess,
            threads,
            memory_mb,
            class_names,
            augmentation=fields.augmentation,
            seed=fields.seed,
        )
        resume_path = output.with_suffix(".resume.safetensors")
        parameters, history = finetune(
            base,
            torch.from_numpy(weight),
            split.images,
            torch.from_numpy(split.labels),
            fields,
            resume_path,
            fingerprint=digest([
                settings,
                code_digest(*modules),
                *(sha256(path) for path in inputs),
            ]),
            description=f"{fields.mode} {task}",
        )
        metadata = {
            "kind": "checkpoint",
            "model": settings["model"],
            "task": task,
            "mode": fields.mode,
            "seed": str(fields.seed),
            "settings": digest(settings),
        }
        write_tensors(output, parameters, metadata)
        write_csv(training_log, history)
        step.facts |= {"seed": fields.seed, "threads": threads}
    resume_path.unlink(missing_ok=True)


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
