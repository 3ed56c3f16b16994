"""Figures of the analyses, in the style of the other figures.

Everything is drawn from the tidy tables of the analyses; several seeds are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from task_arithmetic.figures import GREY, SPARE, looks_of, mode_legend, panel_grid, styled
from task_arithmetic.tables import MODES, axes, ordered_modes

# Bars differ in hatching too, to stay apart in grey.
HATCHES = {"posthoc": "///", "linear": "..."}
PERCENT = PercentFormatter(1, decimals=0, symbol=None)
FINE_TUNING = {"nonlinear": "Non-linear fine-tuning", "linear": "Linearized fine-tuning"}
START_NAMES = {"step-0": "random initialization", "pretrained": "pre-trained"}
DISTANCE_LABELS = {
    "prediction": "Error ξ (% of predictions)",
    "logit": "Error ξ (logits)",
}


def bar_look(mode: str, look: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the bar of a mode is drawn: in the mode's colour, with a hatch of its own."""
    return {"color": look["color"], "hatch": HATCHES.get(mode), "edgecolor": "white"}


@styled
def linear_regime(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw fine-tuned networks against their first-order models, and the non-linear advantage.

    One row per model. A point per task: on the diagonal, the network and its first-order model are
    equally accurate (Ortiz-Jimenez et al. 2023, section 3). On the right, bars of the non-linear
    advantage.

    Args:
        table: What `regimes.linear_regime` returns.
        tasks: The tasks in the order wanted.

    Returns:
        The figure.
    """
    keys = ["model", "fine_tuning", "task"]
    means = table.groupby(keys, sort=False).mean(numeric_only=True)
    models = list(table["model"].unique())
    trained = [name for name in FINE_TUNING if name in set(table["fine_tuning"])]
    low = float(means[["network_accuracy", "first_order_accuracy"]].min(axis=None))
    figure, panels = panel_grid(len(models), len(trained) + 1)
    for row, model in zip(panels, models, strict=True):
        for panel, name in zip(row, trained, strict=False):
            points = means.loc[model, name].reindex(tasks)
            look = looks_of([name])[name] | {"linestyle": ""}
            panel.plot(points["network_accuracy"], points["first_order_accuracy"], **look)
            panel.axline((1, 1), slope=1, color=GREY, linewidth=0.9, zorder=1)
            panel.set(xlim=(low - 0.03, 1.02), ylim=(low - 0.03, 1.02))
            panel.set(title=f"{model}: {FINE_TUNING[name].lower()}")
            panel.set_xlabel("Accuracy of the network (%)")
            panel.set_ylabel("Accuracy of its first-order model (%)")
            panel.xaxis.set_major_formatter(PERCENT)
        _advantages(row[-1], means.loc[model], trained, tasks)
        row[-1].set_title(f"{model}: non-linear advantage")
    mode_legend(figure, trained)
    return figure


def _advantages(
    panel: Axes, means: pd.DataFrame, trained: Sequence[str], tasks: Sequence[str]
) -> None:
    height = 0.8 / len(trained)
    places = np.arange(len(tasks))
    for position, (name, look) in enumerate(looks_of(trained).items()):
        values = means.loc[name].reindex(tasks)["nonlinear_advantage"]
        middles = places + (position + 0.5) * height - 0.4
        panel.barh(middles, values, height, **bar_look(name, look))
    panel.set_axisbelow(True)
    panel.axvline(0, color=GREY, linewidth=0.9)
    panel.set_yticks(places, tasks)
    panel.invert_yaxis()
    panel.xaxis.set_major_formatter(PERCENT)
    panel.set_xlabel("(network − first-order) ÷ (1 − 1/C) (%)")


@styled
def disentanglement_planes(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw ξ(α1, α2) of the pairs measured on a plane as heat maps, one column per mode.

    The square is [0, 1]², the coefficients used in practice. One scale holds for all panels.

    Args:
        table: Rows of `disentanglement.disentanglement_errors` with model, seed and mode.
        tasks: The tasks, in whose order the pairs are shown.

    Returns:
        The figure.
    """
    table = table[table["distance"] == "prediction"]
    planes = table[table["alpha_first"] != table["alpha_second"]]
    order = {task: position for position, task in enumerate(tasks)}
    pairs = sorted(
        set(zip(planes["first"], planes["second"], strict=True)),
        key=lambda pair: (order[pair[0]], order[pair[1]]),
    )
    models, _, modes = axes(table)
    highest = float(table["error"].max()) or 1.0
    size = (2.5 * len(modes) + 1.1, 2.5 * len(pairs) * len(models) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(pairs) * len(models), len(modes), squeeze=False)
    rows = [(model, pair) for model in models for pair in pairs]
    for line, (model, (first, second)) in zip(panels, rows, strict=True):
        of_pair = table[(table["first"] == first) & (table["second"] == second)]
        of_pair = of_pair[of_pair["model"] == model]
        # The diagonal of all pairs has points that are not on the plane.
        off_diagonal = of_pair["alpha_first"] != of_pair["alpha_second"]
        grid = of_pair.loc[off_diagonal, "alpha_first"].unique()
        for panel, mode in zip(line, modes, strict=True):
            plane = of_pair[
                (of_pair["mode"] == mode) & of_pair["alpha_first"].isin(grid)
            ].pivot_table(
                index="alpha_second", columns="alpha_first", values="error", aggfunc="mean"
            )
            mesh = panel.pcolormesh(
                plane.columns, plane.index, plane, cmap="cividis", vmin=0, vmax=highest,
                shading="nearest", rasterized=True,
            )  # fmt: skip
            box = Rectangle((0, 0), 1, 1, fill=False, edgecolor="white", linewidth=1.6)
            panel.add_patch(box)
            panel.set(aspect="equal", xlabel=f"α of {first}")
            panel.grid(visible=False)
        line[0].set_ylabel(f"{model}\nα of {second}" if len(models) > 1 else f"α of {second}")
    for panel, mode in zip(panels[0], modes, strict=True):
        panel.set_title(MODES.get(mode, mode))
    bar = figure.colorbar(mesh, ax=panels, shrink=0.7, format=PERCENT)
    bar.set_label(DISTANCE_LABELS["prediction"])
    return figure


@styled
def disentanglement_diagonals(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw ξ(α, α) of all pairs against α: predictions on the left, logits on the right.

    The line is the mean over pairs and seeds, the band holds the middle half of the pairs.

    Args:
        table: Rows of `disentanglement.disentanglement_errors` with model, seed and mode.
        tasks: The tasks; pairs of others are not drawn.

    Returns:
        The figure.
    """
    drawn = table[
        (table["alpha_first"] == table["alpha_second"])
        & (table["alpha_first"] >= 0)
        & (table["alpha_first"] <= 1)
        & table["first"].isin(tasks)
        & table["second"].isin(tasks)
    ]
    # The planes of some pairs have more points on their diagonals than all pairs share.
    pairs = drawn.groupby("alpha_first")["second"].count()
    drawn = drawn[drawn["alpha_first"].isin(pairs.index[pairs == pairs.max()])]
    models, modes = list(drawn["model"].unique()), ordered_modes(drawn["mode"])
    figure, panels = panel_grid(len(models), len(DISTANCE_LABELS))
    for row, model in zip(panels, models, strict=True):
        for panel, (distance, label) in zip(row, DISTANCE_LABELS.items(), strict=True):
            rows = drawn[(drawn["model"] == model) & (drawn["distance"] == distance)]
            for mode, look in looks_of(modes).items():
                of = rows[rows["mode"] == mode]
                per_pair = of.groupby(["alpha_first", "first", "second"])["error"].mean()
                by_alpha = per_pair.groupby(level="alpha_first")
                quartiles = by_alpha.quantile(0.25), by_alpha.quantile(0.75)
                alphas = quartiles[0].index
                panel.fill_between(alphas, *quartiles, color=look["color"], alpha=0.18, lw=0)
                panel.plot(alphas, by_alpha.mean(), **look)
            panel.set(title=model, xlabel="Scaling coefficient α1 = α2", ylabel=label)
            if distance == "logit":
                panel.yaxis.set_major_formatter("{x:g}")
    mode_legend(figure, modes)
    return figure


@styled
def kernel(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw the local energy of eigenfunctions on their own and on another task's images.

    One row per model; random initialization on the left, pre-trained on the right. Each thin line
    is a task and its other, the thick one their mean over the ranks that all of them have.

    Args:
        table: Rows of `kernel.localization` with model, start, task and other.
        tasks: The tasks; others are not drawn.

    Returns:
        The figure.
    """
    table = table[table["task"].isin(tasks) & table["other"].isin(tasks)]
    models, starts = list(table["model"].unique()), list(table["start"].unique())
    figure, panels = panel_grid(len(models), len(starts))
    sides = {"energy_own": ("own task, unseen images", SPARE[0]),
             "energy_other": ("other task", SPARE[1])}  # fmt: skip
    for row, model in zip(panels, models, strict=True):
        of_model = table[table["model"] == model]
        for panel, start in zip(row, starts, strict=True):
            of = of_model[of_model["start"] == start]
            for column, (label, look) in sides.items():
                wide = of.pivot(index="rank", columns=["task", "other"], values=column)
                panel.plot(wide.index, wide, color=look["color"], linewidth=0.6, alpha=0.6)
                mean = wide.dropna().mean(axis="columns")
                panel.plot(mean.index, mean, label=label, **look)
            panel.axhline(1, color=GREY, linewidth=0.9, zorder=1)
            panel.set(title=f"{model}: {START_NAMES.get(start, start)}", yscale="log")
            energies = of_model[list(sides)]
            panel.set_ylim(energies.min(axis=None) / 1.5, energies.max(axis=None) * 1.5)
            panel.set(xlabel="Rank ρ of the eigenfunction")
            panel.yaxis.set_major_formatter("{x:g}")
        row[0].set_ylabel("Local energy E[φ(x)²]")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, handlelength=3)
    return figure


@styled
def costs(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw time and memory of the modes beside the accuracy that they reach.

    One row per model. Left: seconds of fine-tuning on all tasks and of measuring all edits; middle:
    peak memory of the largest step of each; right: mean test accuracy of the sum of all task
    vectors, normalized, and of the target after negation.

    Args:
        table: Rows of the table `costs`.
        tasks: Not drawn one by one; the costs are those of all of them.

    Returns:
        The figure.
    """
    models, _, modes = axes(table)
    means = table.groupby(["model", "mode"]).mean(numeric_only=True)
    figure, panels = panel_grid(len(models), 3)
    sides = (
        (("training_seconds", "evaluation_seconds"), "Seconds", "{x:g}"),
        (("training_memory_mb", "evaluation_memory_mb"), "Peak memory (MB)", "{x:g}"),
        (("addition_normalized", "negation_target_accuracy"), "Test accuracy (%)", PERCENT),
    )
    names = {"training": f"training\n({len(tasks)} tasks)", "evaluation": "evaluation\n(all edits)",
             "addition": "addition,\nnormalized", "negation": "negation,\ntarget"}  # fmt: skip
    for row, model in zip(panels, models, strict=True):
        for panel, (columns, label, form) in zip(row, sides, strict=True):
            width = 0.8 / len(modes)
            for position, (mode, look) in enumerate(looks_of(modes).items()):
                values = means.loc[model, mode][list(columns)]
                places = np.arange(2) + (position + 0.5) * width - 0.4
                panel.bar(places, values, width, **bar_look(mode, look))
            panel.set_axisbelow(True)
            panel.set_xticks(range(2), [names[column.split("_")[0]] for column in columns])
            panel.set(title=model, ylabel=label)
            panel.yaxis.set_major_formatter(form)
            panel.grid(visible=False, axis="x")
    mode_legend(figure, modes)
    return figure
