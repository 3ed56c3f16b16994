"""Figures of merging methods and of sums over subsets, in the style of `figures`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from math import comb

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from task_arithmetic.analogy_figures import analogies as analogies
from task_arithmetic.figures import (
    GREY,
    PALETTE,
    looks_of,
    mean_with_error,
    mode_legend,
    panel_grid,
    rows_of,
    styled,
)
from task_arithmetic.merging_tables import BASELINES, METHODS, half_width, subset_means
from task_arithmetic.similarity import ALL_LAYERS
from task_arithmetic.tables import MODES, axes, in_task_order

_NORMALIZED = "normalized_accuracy"


@styled
def merging_methods(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw the mean normalized test accuracy of every merging method, by mode.

    One panel per model. A bar reaches two standard errors to both sides (test images, and spread
    over seeds).

    Args:
        table: What `merging_tables.merging` returns.
        tasks: The tasks; others are not drawn.

    Returns:
        The figure.
    """
    table = table[table["task"].isin(tasks)]
    models, _, modes = axes(table)
    methods = [name for name in METHODS if name in set(table["method"])]
    figure, panels = panel_grid(1, len(models))
    figure.set_size_inches(max(4.6, 3.6 * len(models)), 1.2 + 0.28 * len(methods))
    offsets = dict(zip(modes, np.linspace(-0.2, 0.2, len(modes)), strict=True))
    for panel, model in zip(panels[0], models, strict=True):
        for mode, look in looks_of(modes).items():
            rows = rows_of(table, model, mode)
            heights = [place + offsets[mode] for place, _ in enumerate(methods)]
            means, errors = zip(
                *(mean_with_error(rows[rows["method"] == m], _NORMALIZED) for m in methods),
                strict=True,
            )
            panel.errorbar(
                means,
                heights,
                xerr=2 * np.array(errors),
                color=look["color"],
                marker=look["marker"],
                linestyle="",
                elinewidth=0.9,
            )
        panel.axhline(0.5, color=GREY, linewidth=0.6)
        panel.set_yticks(range(len(methods)), [METHODS[name][0] for name in methods])
        panel.invert_yaxis()
        panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
        panel.set(title=model, xlabel="Normalized test accuracy (%)")
        panel.grid(axis="y", visible=False)
    mode_legend(figure, modes)
    return figure


@styled
def pairs(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw both normalized accuracies of every model edited with the sum of two task vectors.

    One row per model, one panel per mode; a point per pair and seed, mean over seeds. The upper
    right corner is a model that does both tasks as well as their own models.

    Args:
        table: What `merging_tables.subsets` returns.
        tasks: The tasks in the order wanted: the first of a pair is drawn along the x axis.

    Returns:
        The figure.
    """
    own = in_task_order(table[(table["size"] == 2) & table["member"]], ["subset"], tasks)
    models, _, modes = axes(own)
    figure, panels = panel_grid(len(models), len(modes))
    figure.set_size_inches(2.5 * len(modes) + 0.4, 2.5 * len(models) + 0.5)
    low = own["normalized_accuracy"].min() - 0.02
    high = max(own["normalized_accuracy"].max(), 1) + 0.02
    for row, model in zip(panels, models, strict=True):
        for panel, (mode, look) in zip(row, looks_of(modes).items(), strict=True):
            of_task = rows_of(own, model, mode).groupby(["subset", "task"], sort=False)
            means = of_task["normalized_accuracy"].mean()
            points = means.groupby("subset").agg(["first", "last"])
            panel.plot(
                points["first"],
                points["last"],
                **(look | {"linestyle": "", "markersize": 4.5, "alpha": 0.75}),
            )
            for line in (panel.axhline, panel.axvline):
                line(1, color=GREY, linewidth=0.9, zorder=1)
            panel.text(
                0.04, 0.04, f"mean {means.mean():.1%}", transform=panel.transAxes, color=GREY
            )
            panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
            panel.set(title=f"{model}: {MODES.get(mode, mode)}")
            panel.set_xlabel("Normalized accuracy,\nfirst task (%)")
        row[0].set_ylabel("Normalized accuracy,\nsecond task (%)")
    return figure


@styled
def subsets(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw normalized accuracy against the number of task vectors in the sum.

    One row per model: mean over all tasks on the left, over the tasks of the sum on the right. A
    line is the mean over subsets; the bars are the 95 % interval of that mean where subsets are a
    sample, the band reaches from the worst subset to the best.

    Args:
        table: What `merging_tables.subsets` returns.
        tasks: All tasks that vectors were summed of.

    Returns:
        The figure.
    """
    means = subset_means(table)
    models, seeds, modes = axes(means)
    figure, panels = panel_grid(len(models), 2)
    for row, model in zip(panels, models, strict=True):
        for panel, column in zip(row, ("all", "own"), strict=True):
            for mode, look in looks_of(modes).items():
                of_size = rows_of(means, model, mode).dropna(subset=column).groupby("size")[column]
                widths = [half_width(v, comb(len(tasks), size) * len(seeds)) for size, v in of_size]
                sizes = of_size.mean().index
                panel.errorbar(sizes, of_size.mean(), yerr=np.nan_to_num(widths), **look)
                panel.fill_between(
                    sizes, of_size.min(), of_size.max(), color=look["color"], alpha=0.1, linewidth=0
                )
            panel.axhline(1, color=GREY, linewidth=0.9, zorder=1)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_xlabel("Task vectors in the sum")
        row[0].set(title=f"{model}: all tasks", ylabel="Normalized test accuracy (%)")
        row[1].set(title=f"{model}: tasks of the sum")
    mode_legend(figure, modes)
    return figure


@styled
def cosine_similarity(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw cosines between task vectors: over all parameters, and of each pair in each layer.

    One row per model and fine-tuning mode: a square of tasks on the left, pairs by layers on the
    right. Means over seeds.

    Args:
        table: What `merging_tables.similarity` returns.
        tasks: The tasks in the order wanted.

    Returns:
        The figure.
    """
    models, _, modes = axes(table)
    rows = list(product(models, modes))
    means = table.groupby(["model", "mode", "layer", "first", "second"], sort=False)[
        "cosine"
    ].mean()
    figure = Figure(figsize=(8.6, 0.4 + 3.3 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(1, 1.35))
    # One scale for all, so that shades compare; its lightness alone tells values apart in grey.
    shades = {"cmap": "cividis", "vmin": means.min(), "vmax": means.max()}
    for row, (model, mode) in zip(panels, rows, strict=True):
        by_layer = means[model, mode].unstack("layer", sort=False)
        square = by_layer[ALL_LAYERS].unstack("second").reindex(index=tasks, columns=tasks)
        square = square.fillna(square.T)
        row[0].imshow(square, **shades)
        for (y, x), value in np.ndenumerate(square.to_numpy()):
            if y != x:
                dark = value < (means.min() + means.max()) / 2
                colour = "white" if dark else "black"
                row[0].text(x, y, f"{value:.2f}", ha="center", va="center", color=colour, size=6.5)
        row[0].set_xticks(range(len(tasks)), tasks, rotation=90)
        row[0].set_yticks(range(len(tasks)), tasks)
        row[0].set_title(f"{model}: {MODES.get(mode, mode)}, all layers")
        layers = by_layer.drop(columns=ALL_LAYERS).reindex(combinations(tasks, 2))
        shaded = row[1].imshow(layers.T, aspect="auto", **shades)
        pairs = [f"{first}, {second}" for first, second in layers.index]
        row[1].set_xticks(range(len(pairs)), pairs, rotation=90, size=6)
        row[1].set_yticks(range(layers.shape[1]), layers.columns)
        row[1].set_title(f"{model}: {MODES.get(mode, mode)}, by layer")
        for panel in row:
            panel.grid(visible=False)
        figure.colorbar(shaded, ax=row[1], label="Cosine of task vectors")
    return figure


@styled
def negation_baselines(
    table: pd.DataFrame, negations: pd.DataFrame, tasks: Sequence[str]
) -> Figure:
    """Draw target against control accuracy of negations and of what they are compared with.

    One panel per model. A large marker is the mean over tasks (and seeds), small ones are single
    tasks; edits without a feasible α have none. Down and to the right is better.

    Args:
        table: What `merging_tables.negation_baselines` returns.
        negations: What `tables.task_negation` returns.
        tasks: The tasks; others are not drawn.

    Returns:
        The figure.
    """
    table, negations = (rows[rows["task"].isin(tasks)] for rows in (table, negations))
    models, _, modes = axes(negations)
    others = [method for method in BASELINES if method not in {"pretrained", "negated"}]
    markers = dict(zip(others, ("*", "X", "v", "P"), strict=True))
    looks = {f"Negated, {MODES.get(m, m)}": look for m, look in looks_of(modes).items()}
    looks |= {
        BASELINES[method]: {"color": "#000000", "marker": marker}
        for method, marker in markers.items()
    }
    looks["Pre-trained"] = PALETTE["pretrained"]
    figure, panels = panel_grid(1, len(models))
    figure.set_size_inches(3.4 * len(models) + 2.6, 3.4)
    for panel, model in zip(panels[0], models, strict=True):
        shown = {f"Negated, {MODES.get(m, m)}": rows_of(negations, model, m) for m in modes}
        of_model = table[table["model"] == model]
        shown |= {
            BASELINES[method]: of_model[of_model["method"] == method]
            for method in ("pretrained", *others)
        }
        for label, rows in shown.items():
            points = rows[["control_accuracy", "target_accuracy"]].dropna()
            look = looks[label] | {"linestyle": ""}
            panel.plot(*points.to_numpy().T, **look, markersize=3, alpha=0.3)
            mean = points.mean()
            panel.plot(*mean, **look, markersize=8, markeredgecolor="white", zorder=3)
        panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
        panel.set(
            title=model, xlabel="Control test accuracy (%)", xlim=(0, 1.02), ylim=(-0.02, 1.02)
        )
    panels[0][0].set_ylabel("Target test accuracy (%)")
    handles = [
        Line2D([], [], label=label, **(look | {"linestyle": ""})) for label, look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside right center")
    return figure


@styled
def ablations(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw how addition depends on learning rate, on the number of steps, and on the seed.

    One row per model. Accuracies are means over tasks and seeds, relative to the ordinary
    single-task models; bars reach two standard errors. Right: the sums of the vectors of one seed,
    of another, and of both mixed.

    Args:
        table: What `merging_tables.ablations` returns.
        tasks: The tasks; others are not drawn.

    Returns:
        The figure.
    """
    table = table[table["task"].isin(tasks)]
    models, _, _ = axes(table)
    single = table["single_accuracy"] * table["normalized_accuracy"] / table["accuracy"]
    table = table.assign(normalized_single=single)
    figure, panels = panel_grid(len(models), 3)
    for row, model in zip(panels, models, strict=True):
        runs = dict(list(table[table["model"] == model].groupby("run", sort=False)))
        rates = sorted((float(run[5:]), run) for run in runs if run.startswith("rate-"))
        base, again = next(iter(runs)), runs["reseeded"]
        _run_panel(row[0], runs, {f"{rate:g}": run for rate, run in rates})
        steps = {run[6:]: run for run in runs if run.startswith("steps-")} | {"all": "reseeded"}
        _run_panel(row[1], runs, steps)
        # The finished vectors are what those of fewer steps are compared with.
        cosines = [1 if end == "all" else runs[run]["cosine"].mean() for end, run in steps.items()]
        row[1].plot(cosines, color="#000000", linestyle=":", marker="x", label=_COSINE)
        seeds = {"one seed": base, "another": "reseeded", "both mixed": "interchanged"}
        _run_panel(row[2], runs, seeds, alone=False)
        note = f"cosine of the two seeds' vectors:\n{again['cosine'].mean():.2f} of the same task, "
        note += f"{again['other_cosine'].mean():.2f} of others"
        row[2].text(0.5, 0.05, note, transform=row[2].transAxes, color=GREY, ha="center")
        titles = ("learning rate", "training length", "seeds")
        labels = ("Peak learning rate", "Optimizer steps", "Task vectors in the sum")
        low = min(panel.get_ylim()[0] for panel in row)
        for panel, title, label in zip(row, titles, labels, strict=True):
            panel.set(title=f"{model}: {title}", xlabel=label, ylim=(low - 0.05, 1.08))
        row[0].set_ylabel("Normalized test accuracy (%)")
    figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


_COSINE = "Cosine with the final vector (× 100)"


def _run_panel(
    panel: Axes, runs: dict[str, pd.DataFrame], shown: dict[str, str], alone: bool = True
) -> None:
    """Draw the sums of some runs' vectors and, unless told not to, their single-task models."""
    means, errors = zip(
        *(mean_with_error(runs[run], _NORMALIZED) for run in shown.values()), strict=True
    )
    # Seeds have no order: no line joins them.
    look = PALETTE["nonlinear"] | ({} if alone else {"linestyle": ""})
    bars = {"yerr": 2 * np.array(errors), "elinewidth": 0.9}
    panel.errorbar(range(len(shown)), means, **bars, **look, label="Sum of vectors")
    if alone:
        own = [runs[run]["normalized_single"].mean() for run in shown.values()]
        panel.plot(own, **PALETTE["pretrained"], label="Single-task models")
    panel.set_xticks(range(len(shown)), shown)
    panel.axhline(1, color=GREY, linewidth=0.9, zorder=1)
