"""How the tables of `merging_tables` are shown, in the manner of `rendering`."""

from __future__ import annotations

from math import comb
from typing import Literal

import pandas as pd

from task_arithmetic.merging_tables import BASELINES, METHODS, half_width, subset_means
from task_arithmetic.rendering import Layout, Metric, render_cells, render_grid
from task_arithmetic.tables import axes

_NORMALIZED = Metric("normalized_accuracy", "Normalized (↑)", "max")
_ABSOLUTE = Metric("accuracy", "Absolute (↑)", "max")
_ALPHA = Metric("alpha", "α", percent=False, absent="–")

# Methods of the analogies; those with samples have a line for each number of images.
ANALOGIES = {
    "zero-shot": "Pre-trained",
    "analogy": "Analogy, no image of the target",
    "samples": "{} images of the target",
    "analogy-samples": "Analogy, then {} images",
    "fine-tuned": "Fine-tuned on the target",
}

LAYOUTS = {
    "merging": Layout(
        "Merging methods",
        "Test accuracy (%) of one model merged from all task vectors, mean over tasks, absolute and"
        " relative to the single-task models of the same mode; α is chosen on validation images."
        " The ensemble is no single model and costs T times as much",
        (_ABSOLUTE, _NORMALIZED, _ALPHA),
        (),
    ),
    "negation_baselines": Layout(
        "Baselines of negation",
        "Test accuracy (%) on the target task, to be lowered, and on the control, to be kept, mean"
        " over target tasks (layout of Ilharco et al. 2023, table 1); α is chosen on validation"
        " images, gradient ascent and the fine-tuned model are as trained where none is named",
        (
            Metric("target_accuracy", "Target (↓)"),
            Metric("control_accuracy", "Control"),
            Metric("alpha", "α", percent=False, absent="–"),
        ),
        (),
    ),
    "ablations": Layout(
        "Ablations of addition",
        "Sum of the task vectors of other fine-tunings: test accuracy (%) of the run's own"
        " single-task models and of the sum, absolute and relative to the ordinary single-task"
        " models; cosine of the run's vectors with the reference's vector of the same task and of"
        " other tasks. The reference of steps-n (the vector after n steps) is the finished"
        " reseeded run; that of all others is the ordinary run, which is the first line",
        (
            Metric("single_accuracy", "Single (↑)", "max"),
            _ABSOLUTE,
            _NORMALIZED,
            _ALPHA,
            Metric("cosine", "cos same", percent=False),
            Metric("other_cosine", "cos other", percent=False),
        ),
        (),
    ),
    "analogies": Layout(
        "Analogies",
        "Test accuracy (%) on a sub-population, among all classes of both halves, mean over"
        " sub-populations as target: of the edit by τ_C + (τ_B − τ_A) of the three others, whose"
        " α is chosen on validation images of B and C, and of models fine-tuned on labelled images"
        " of the target from the pre-trained model and from that edit",
        (Metric("accuracy", "Accuracy (↑)"), _ALPHA),
        (),
    ),
}


def render(name: str, table: pd.DataFrame, format: Literal["markdown", "latex"]) -> str:
    """Lay out a table.

    Args:
        name: The function of `merging_tables` that made it.
        table: What it returns.
        format: The markup language.

    Returns:
        The text of the file.
    """
    if name == "subsets":
        return _render_subsets(table, format)
    if name == "similarity":
        return _render_similarity(table, format)
    if name == "ablations":
        lines = {"run": {run: run for run in table["run"].unique()}}
    elif name == "analogies":
        table, lines = _analogy_lines(table)
    elif name == "negation_baselines":
        lines = {"method": BASELINES}
    else:
        present = set(table["method"])
        lines = {"method": {key: head for key, (head, _) in METHODS.items() if key in present}}
    return render_grid(name, LAYOUTS[name], table, lines, format)


def _render_subsets(table: pd.DataFrame, format: Literal["markdown", "latex"]) -> str:
    means, tasks = subset_means(table), table["task"].nunique()
    models, seeds, modes = axes(means)
    cells = {}
    for (model, mode), part in means.groupby(["model", "mode"]):
        for column, heading in (("all", "All tasks"), ("own", "Own tasks")):
            of_size = part.dropna(subset=column).groupby("size")[column]
            cells[model, mode, heading] = {
                size: _interval(values, comb(tasks, size) * len(seeds)) for size, values in of_size
            }
    ordered = [
        (model, mode, heading)
        for model in models
        for mode in modes
        for heading in ("All tasks", "Own tasks")
        if (model, mode, heading) in cells
    ]
    frame = pd.DataFrame(cells, index=range(1, tasks + 1)).fillna("–")[ordered]
    frame.index.name = "tasks"
    return render_cells(
        "subsets",
        "Sums over subsets",
        "Normalized test accuracy (%) of one model edited with the sum over a subset of the task"
        " vectors: mean over subsets of each size, of the mean over all tasks and over the"
        " subset's own. ±: half-width of the 95 % interval where subsets are a sample of their"
        " size; no ± where all are measured (or one alone).",
        frame,
        format,
    )


def _render_similarity(table: pd.DataFrame, format: Literal["markdown", "latex"]) -> str:
    models, _, modes = axes(table)
    sizes = table.assign(cosine=table["cosine"].abs()).groupby(["model", "mode", "layer"])["cosine"]
    of = {"Mean": sizes.mean(), "Greatest": sizes.max()}
    cells = {
        (model, mode, heading): values[model, mode].map("{:.3f}".format)
        for model in models
        for mode in modes
        for heading, values in of.items()
        if (model, mode) in values.index.droplevel("layer")
    }
    frame = pd.DataFrame(cells).reindex(table["layer"].unique()).fillna("–")
    frame.index.name = "layer"
    return render_cells(
        "similarity",
        "Cosine similarity of task vectors",
        "Size |cos(τ_s, τ_t)| of the cosine between the task vectors of two tasks, mean and"
        " greatest over pairs (and seeds). Post-hoc linearization moves along the non-linear"
        " vectors.",
        frame,
        format,
    )


def _analogy_lines(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, dict[str, str]]]:
    """Return the table with a column of lines, and these in order."""
    counts = sorted(table["samples"].dropna().unique())[1:]
    heads = {
        f"{method} {count}": heading.format(count)
        for method, heading in ANALOGIES.items()
        for count in (counts if "samples" in method else [0])
    }
    line = table["method"] + " " + table["samples"].fillna(0).astype(str)
    return table.assign(method=line), {"method": heads}


def _interval(values: pd.Series, population: int) -> str:
    width = half_width(values, population)
    return f"{100 * values.mean():.1f}" + (f" ± {100 * width:.1f}" if width > 0 else "")
