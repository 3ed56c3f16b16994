"""The command line: one command per step of the pipeline.

Each command reads files, calls one module, writes files; around it are the log, the error message
and the lineage record. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from enum import StrEnum, auto
from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import (
    PipelineError,
    digest,
    read_csv,
    read_tensors,
    sha256,
    write_csv,
    write_tensors,
    write_text,
)
from task_arithmetic.lineage import code_digest, recorded_step

app = typer.Typer(
    name="task-arithmetic",
    help="Steps of the task-arithmetic pipeline. Snakemake runs them; each runs alone as well.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
logger = logging.getLogger("task_arithmetic")


def _parse_settings(text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"expected a JSON object, found {text!r} ({error})") from error
    if not isinstance(settings, dict):
        raise typer.BadParameter(f"expected a JSON object, found {text!r}")
    return settings


def _parse_paths(text: str) -> list[Path]:
    return [Path(name) for name in text.split()]


def _files(help_text: str) -> Any:
    return typer.Option(
        help=f"{help_text} Separated by blanks.",
        parser=_parse_paths,
        metavar="PATHS",
        show_default=False,
    )


def _file(help_text: str) -> Any:
    return typer.Option(help=help_text, show_default=False)


def _settings(*keys: str) -> Any:
    help_text = f"JSON object with the keys {', '.join(keys)}."
    return typer.Option(help=help_text, parser=_parse_settings, metavar="JSON", show_default=False)


Log = Annotated[Path | None, typer.Option(help="Write plain log lines to this file.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of this step.")]
CURVE_KEYS = ("model", "seed", "mode", "edit", "weights", "datasets", "splits", "alphas")


def main() -> None:
    """Run a command; an expected error becomes one line and exit code 1."""
    try:
        app()
    except (PipelineError, ValueError) as error:
        logger.debug("the error came from here", exc_info=True)
        step = sys.argv[1] if len(sys.argv) > 1 else ""
        logger.error("task-arithmetic %s: %s", step, error)
        sys.exit(1)


def _start(log: Path | None, threads: int | None = None) -> None:
    """Send log lines to the log file and warnings to the terminal; set the number of threads."""
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


# --- Data and models -------------------------------------------------------------------------


@app.command()
def dataset(
    settings: Annotated[Any, _settings("dataset", "source", "validation")],
    train: Annotated[Path, _file("Parquet file to write: training images.")],
    validation: Annotated[Path, _file("Parquet file to write: validation images.")],
    test: Annotated[Path, _file("Parquet file to write: test images.")],
    log: Log = None,
) -> None:
    """Load or generate a task and write its three splits as parquet."""
    _start(log)
    from task_arithmetic.datasets import make_splits, write_split

    outputs = {"train": train, "validation": validation, "test": test}
    with recorded_step("dataset", settings, ("datasets",), [], list(outputs.values())):
        name = settings["dataset"]
        for split, data in make_splits(name, settings["source"], settings["validation"]).items():
            write_split(outputs[split], data)
            logger.info("%s: %d %s images", name, len(data), split)


@app.command()
def pretrain(
    settings: Annotated[Any, _settings("model", "architecture", "preprocess", "pretraining")],
    output: Annotated[Path, _file("Encoder file to write.")],
    half: Annotated[bool, typer.Option(help="Keep the weights in float16.")] = False,
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Pre-train a small CLIP on generated captioned images."""
    _start(log, threads)
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
    settings: Annotated[Any, _settings("model", "architecture")],
    source: Annotated[Path, _file("Encoder file to adopt.")],
    output: Annotated[Path, _file("Encoder file to write.")],
    log: Log = None,
) -> None:
    """Check pre-trained weights against the configured architecture and adopt them."""
    _start(log)
    from task_arithmetic.encoders import adopt_encoder

    with recorded_step("encoder", settings, ("encoders",), [source], [output]):
        adopt_encoder(source, output, settings["model"], settings["architecture"])


@app.command()
def head(
    settings: Annotated[Any, _settings("model", "dataset", "templates")],
    encoder: Annotated[Path, _file("Encoder file.")],
    examples: Annotated[Path, _file("Parquet file of the task, for its class names.")],
    output: Annotated[Path, _file("Head file to write.")],
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Build a task's zero-shot head from the text tower."""
    _start(log, threads)
    from task_arithmetic.datasets import read_class_names
    from task_arithmetic.encoders import load_clip, save_head, zero_shot_head

    modules = ("encoders", "datasets")
    with recorded_step("head", settings, modules, [encoder, examples], [output]):
        clip, tokenize = load_clip(encoder)
        names = read_class_names(examples)
        weight = zero_shot_head(clip, tokenize, names, settings["templates"])
        save_head(output, weight, settings["model"], settings["dataset"], names)


@app.command()
def finetune(
    settings: Annotated[Any, _settings("model", "task", "hyperparameters")],
    encoder: Annotated[Path, _file("Encoder file θ0.")],
    head: Annotated[Path, _file("Zero-shot head of the task.")],
    train: Annotated[Path, _file("Parquet file of training images.")],
    output: Annotated[Path, _file("Checkpoint θt to write.")],
    training_log: Annotated[Path, _file("CSV to write: loss and learning rate by step.")],
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Fine-tune the image tower on a task, non-linearly or linearized; resumes if interrupted."""
    _start(log, threads)
    import torch

    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.finetune import FinetuneSettings, finetune

    inputs, outputs = [encoder, head, train], [output, training_log]
    modules = ("finetune", "datasets")
    with recorded_step("finetune", settings, modules, inputs, outputs) as step:
        fields = FinetuneSettings(**settings["hyperparameters"])
        start, task = load_encoder(encoder), settings["task"]
        weight, class_names = _read_head(head, task)
        images, labels = _read_images(train, start.preprocess.size, class_names)
        resume_path = output.with_suffix(".resume.safetensors")
        parameters, history = finetune(
            start,
            torch.from_numpy(weight),
            torch.from_numpy(images),
            torch.from_numpy(labels),
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
    encoder: Annotated[Path, _file("Encoder file θ0.")],
    checkpoint: Annotated[Path, _file("Checkpoint θt.")],
    output: Annotated[Path, _file("Task vector to write.")],
    log: Log = None,
) -> None:
    """Subtract: τ = θt − θ0."""
    _start(log)
    from task_arithmetic.vectors import TaskVector

    with recorded_step("vector", {}, ("vectors",), [encoder, checkpoint], [output]):
        finetuned, metadata = read_tensors(checkpoint, kind="checkpoint")
        pretrained, _ = read_tensors(encoder, kind="encoder", prefix="visual.")
        # A checkpoint holds what is trained; buffers, such as batch-norm statistics, stay.
        known = {name: tensor for name, tensor in pretrained.items() if name in finetuned}
        tau = TaskVector.between(known, finetuned)
        logger.info("%s: norm %.4g", metadata["task"], tau.norm())
        tau.save(output, metadata)


# --- Features and curves ---------------------------------------------------------------------


@app.command()
def features(
    settings: Annotated[Any, _settings("dataset", "splits", "vectors", "batch_size")],
    encoder: Annotated[Path, _file("Encoder file θ0.")],
    examples: Annotated[Any, _files("Parquet files, one per split in the settings.")],
    vectors: Annotated[Any, _files("Task vectors, one per name in the settings.")],
    store: Annotated[Path, _file("Folder of the column store.")],
    output: Annotated[Path, _file("Manifest to write.")],
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Compute the columns f0 and Jτ of a dataset that are missing, and list all in a manifest."""
    _start(log, threads)
    from task_arithmetic.columns import PRETRAINED, ColumnStore, write_column, write_manifest
    from task_arithmetic.datasets import read_split
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.features import first_order_features
    from task_arithmetic.vectors import TaskVector

    modules = ("features", "datasets")
    inputs, outputs = [encoder, *examples, *vectors], []
    with recorded_step("features", settings, modules, inputs, outputs) as step:
        columns, name = ColumnStore(store), settings["dataset"]
        hashes = {path: sha256(path) for path in inputs}
        files = dict(zip(settings["vectors"], vectors, strict=True))
        base, listed = load_encoder(encoder), {}
        for split, path in zip(settings["splits"], examples, strict=True):
            key = (hashes[encoder], hashes[path], code_digest(*modules))
            paths = {PRETRAINED: columns.path(*key)} | {
                named: columns.path(*key, hashes[file]) for named, file in files.items()
            }
            missing = {named: file for named, file in paths.items() if not file.exists()}
            logger.info("%s (%s): computing %s", name, split, sorted(missing) or "nothing")
            if missing:
                data = read_split(path, base.preprocess.size)
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
        outputs.append(output)
        step.facts |= {"threads": threads, "computed": len(outputs) - 1}


@app.command()
def curve(
    settings: Annotated[Any, _settings(*CURVE_KEYS, "batch_size")],
    encoder: Annotated[Path, _file("Encoder file θ0.")],
    vectors: Annotated[Any, _files("Task vectors, one per weight, by task name.")],
    heads: Annotated[Any, _files("Heads, one per dataset.")],
    examples: Annotated[Any, _files("Parquet files, one per dataset and split.")],
    output: Annotated[Path, _file("CSV to write.")],
    selection: Annotated[Any, _files("Selected α, used with 0 in place of alphas; or none.")] = "",
    threads: Threads = 1,
    log: Log = None,
) -> None:
    """Measure the accuracies of a non-linear edit θ0 + α·Σ w_t τ_t by forward passes."""
    _start(log, threads)
    from task_arithmetic.curves import count_correct, curve_frame, curve_rows
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.features import edited_features
    from task_arithmetic.vectors import TaskVector

    inputs = [encoder, *vectors, *heads, *examples, *selection]
    modules = ("features", "curves", "datasets")
    with recorded_step("curve", settings, modules, inputs, [output]) as step:
        edit, base = _edit(settings), load_encoder(encoder)
        files = dict(zip(sorted(edit.weights), vectors, strict=True))
        tau = TaskVector.sum(
            weight * TaskVector.load(files[task]) for task, weight in edit.weights.items()
        )
        weights = {
            name: _read_head(path, name)
            for name, path in zip(settings["datasets"], heads, strict=True)
        }
        places = [(name, split) for name in settings["datasets"] for split in settings["splits"]]
        data = [
            _read_images(path, base.preprocess.size, weights[name][1])
            for (name, _), path in zip(places, examples, strict=True)
        ]
        correct: dict[tuple[str, str], dict[float, int]] = {place: {} for place in places}
        alphas = _alphas(settings, selection)
        images = [images for images, _ in data]
        title = f"{edit.mode} {edit.name}"
        for alpha, per_place in edited_features(
            base, tau, alphas, images, settings["batch_size"], title
        ):
            for place, (_, labels), values in zip(places, data, per_place, strict=True):
                correct[place][alpha] = count_correct(values, labels, weights[place[0]][0])
        rows = [
            row
            for place, (_, labels) in zip(places, data, strict=True)
            for row in curve_rows(edit, *place, len(labels), correct[place])
        ]
        write_csv(output, curve_frame(rows))
        step.facts |= {"seed": edit.seed, "threads": threads}


@app.command()
def tangent_curve(
    settings: Annotated[Any, _settings(*CURVE_KEYS, "vector_mode")],
    store: Annotated[Path, _file("Folder of the column store.")],
    manifests: Annotated[Any, _files("Manifests of columns, one per dataset.")],
    heads: Annotated[Any, _files("Heads, one per dataset.")],
    output: Annotated[Path, _file("CSV to write.")],
    selection: Annotated[Any, _files("Selected α, used with 0 in place of alphas; or none.")] = "",
    log: Log = None,
) -> None:
    """Compute the accuracies of an edit f0 + α·Σ w_t Jτ_t from stored features: no network runs."""
    _start(log)
    from task_arithmetic.columns import PRETRAINED, listed_columns, read_column, read_labels
    from task_arithmetic.curves import curve_frame, curve_rows, tangent_correct

    edit, alphas = _edit(settings), _alphas(settings, selection)
    names = {task: f"{settings['vector_mode']}/{task}" for task in edit.weights}
    places = {
        (name, split): listed_columns(path, name, split, [PRETRAINED, *names.values()], store)
        for name, path in zip(settings["datasets"], manifests, strict=True)
        for split in settings["splits"]
    }
    columns = [path for listed in places.values() for path in listed.values()]
    inputs = [*manifests, *heads, *columns, *selection]
    with recorded_step("tangent-curve", settings, ("curves", "columns"), inputs, [output]) as step:
        head_of = dict(zip(settings["datasets"], heads, strict=True))
        rows = []
        for (name, split), listed in places.items():
            labels = read_labels(listed[PRETRAINED])
            weight, _ = _read_head(head_of[name], name)
            correct = tangent_correct(
                alphas,
                read_column(listed[PRETRAINED]),
                {task: read_column(listed[column]) for task, column in names.items()},
                edit.weights,
                labels,
                weight,
            )
            counts = dict(zip(alphas, correct, strict=True))
            rows += curve_rows(edit, name, split, len(labels), counts)
        write_csv(output, curve_frame(rows))
        step.facts |= {"seed": edit.seed}


# --- Right of the waist: tables of numbers ---------------------------------------------------


@app.command()
def select(
    settings: Annotated[Any, _settings("model", "seed", "mode", "edit", "rule")],
    curve: Annotated[Path, _file("Validation curve of the edit.")],
    output: Annotated[Path, _file("CSV to write: the selected α.")],
    singles: Annotated[Any, _files("Accuracies of the fine-tuned models, for an addition.")] = "",
    log: Log = None,
) -> None:
    """Choose α on validation splits."""
    _start(log)
    import pandas as pd

    from task_arithmetic.coefficients import (
        SELECTION_COLUMNS,
        select_addition,
        select_negation,
    )

    modules = ("coefficients",)
    with recorded_step("select", settings, modules, [curve, *singles], [output]) as step:
        accuracies, rule = _read_curves([curve]), settings["rule"]
        if "target" in rule:
            chosen = select_negation(
                accuracies, rule["target"], rule["control"], rule["control_threshold"]
            )
        else:
            chosen = select_addition(accuracies, _read_curves(singles))
        identity = [settings[key] for key in ("model", "seed", "mode", "edit")]
        row = [*identity, chosen.alpha, chosen.feasible, chosen.objective]
        write_csv(output, pd.DataFrame([row], columns=SELECTION_COLUMNS))
        logger.info("%s: alpha %s, objective %s", settings["edit"], chosen.alpha, chosen.objective)
        step.facts |= {"seed": settings["seed"]}


class Table(StrEnum):
    """The tables, named by the functions that make them."""

    single_task = auto()
    task_addition = auto()
    task_negation = auto()


class Figure(StrEnum):
    """The figures, named by the functions that draw them."""

    addition_curves = auto()
    negation_curves = auto()
    single_task_against_edited = auto()


@app.command()
def table(
    name: Annotated[Table, typer.Argument(help="Which table.")],
    settings: Annotated[Any, _settings("tasks", "control")],
    csv: Annotated[Path, _file("Tidy CSV to write.")],
    markdown: Annotated[Path, _file("Markdown to write.")],
    latex: Annotated[Path, _file("LaTeX to write.")],
    singles: Annotated[Any, _files("Single-task accuracies; or the table of them.")] = "",
    tests: Annotated[Any, _files("Test curves.")] = "",
    selections: Annotated[Any, _files("Selections.")] = "",
    log: Log = None,
) -> None:
    """Make a table of the papers: tidy CSV, and rendered Markdown and LaTeX."""
    _start(log)
    from task_arithmetic import tables
    from task_arithmetic.rendering import render

    inputs, outputs = [*singles, *tests, *selections], [csv, markdown, latex]
    with recorded_step("table", settings, ("tables", "rendering"), inputs, outputs):
        tasks, single = settings["tasks"], None
        if name is Table.single_task:
            made = tables.single_task(_read_curves(singles), tasks)
        elif name is Table.task_addition:
            single = read_csv(singles[0])
            chosen = _read_selections(selections)
            made = tables.task_addition(_read_curves(tests), chosen, single, tasks)
        else:
            chosen = _read_selections(selections)
            made = tables.task_negation(_read_curves(tests), chosen, tasks, settings["control"])
        write_csv(csv, made)
        write_text(markdown, render(name, made, tasks, "markdown", single))
        write_text(latex, render(name, made, tasks, "latex", single))


@app.command()
def figure(
    name: Annotated[Figure, typer.Argument(help="Which figure.")],
    settings: Annotated[Any, _settings("tasks", "control", "control_threshold")],
    png: Annotated[Path, _file("PNG to write.")],
    pdf: Annotated[Path, _file("PDF to write.")],
    curves: Annotated[Any, _files("Validation curves.")] = "",
    selections: Annotated[Any, _files("Selections.")] = "",
    tables: Annotated[Any, _files("Tables: single_task, task_addition, task_negation.")] = "",
    log: Log = None,
) -> None:
    """Draw a figure as PNG and PDF."""
    _start(log)
    from task_arithmetic import figures

    inputs = [*curves, *selections, *tables]
    with recorded_step("figure", settings, ("figures",), inputs, [png, pdf]):
        tasks, read = settings["tasks"], [read_csv(path) for path in tables]
        if name is Figure.single_task_against_edited:
            drawn = figures.single_task_against_edited(*read)
        elif name is Figure.addition_curves:
            chosen = _read_selections(selections)
            drawn = figures.addition_curves(_read_curves(curves), chosen, read[0], tasks)
        else:
            chosen = _read_selections(selections)
            drawn = figures.negation_curves(
                _read_curves(curves),
                chosen,
                tasks,
                settings["control"],
                settings["control_threshold"],
            )
        figures.save(drawn, png)


@app.command()
def show(
    tables: Annotated[list[Path], typer.Argument(help="Rendered tables (Markdown).")],
) -> None:
    """Print rendered tables."""
    from task_arithmetic.rendering import show

    show(tables)


# --- Shared by the commands ------------------------------------------------------------------


def _edit(settings: Mapping[str, Any]) -> Any:
    from task_arithmetic.curves import Edit

    keys = ("model", "seed", "mode", "edit", "weights")
    return Edit(*(settings[key] for key in keys))


def _alphas(settings: Mapping[str, Any], selection: list[Path]) -> list[float]:
    """Return the α to evaluate: those of the settings, or 0 and the selected one if feasible."""
    if not selection:
        return [float(alpha) for alpha in settings["alphas"]]
    from task_arithmetic.coefficients import SELECTION_COLUMNS

    chosen = read_csv(selection[0], SELECTION_COLUMNS).alpha.dropna()
    return sorted({0.0, *chosen.tolist()})


def _read_curves(paths: list[Path]) -> Any:
    import pandas as pd

    from task_arithmetic.curves import CURVE_COLUMNS

    return pd.concat([read_csv(path, CURVE_COLUMNS) for path in paths], ignore_index=True)


def _read_selections(paths: list[Path]) -> Any:
    import pandas as pd

    from task_arithmetic.coefficients import SELECTION_COLUMNS

    return pd.concat([read_csv(path, SELECTION_COLUMNS) for path in paths], ignore_index=True)


def _read_head(path: Path, dataset: str) -> tuple[Any, list[str]]:
    """Return a head's weight, `[classes, features]`, and its class names."""
    tensors, metadata = read_tensors(path, kind="head", framework="numpy")
    if metadata["dataset"] != dataset:
        raise PipelineError(f"{path}: expected the head of {dataset}, found {metadata['dataset']}")
    return tensors["weight"], json.loads(metadata["class_names"])


def _read_images(path: Path, size: int, class_names: list[str]) -> tuple[Any, Any]:
    """Return a split's images and labels, whose classes must be the head's."""
    from task_arithmetic.datasets import read_split

    split = read_split(path, size)
    if list(split.class_names) != class_names:
        raise PipelineError(
            f"{path}: expected the head's classes {class_names}, found {list(split.class_names)}"
        )
    return split.images, split.labels
