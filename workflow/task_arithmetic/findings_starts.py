"""Figures of the experiments from other θ0: random weights, and checkpoints of pre-training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from task_arithmetic.figures import GREY, PALETTE, looks_of, mode_legend, panel_grid, styled
from task_arithmetic.findings import bar_look
from task_arithmetic.tables import axes

LARGEST_SHARE = 1.25
START_NAMES = {"step-0": "random", "pretrained": "pre-trained"}


def gain_kept(means: pd.DataFrame | pd.Series) -> np.ndarray:
    """Return the share of what fine-tuning gained that is left after addition.

    Args:
        means: Accuracies under the names addition_accuracy, single_accuracy and start_accuracy.

    Returns:
        (addition − θ0) ÷ (single task − θ0); not-a-number where fine-tuning gained nothing.
        Normalized accuracy would credit a sum with what θ0 knew before, which differs from one θ0
        to another.
    """
    gain = means["single_accuracy"] - means["start_accuracy"]
    left = means["addition_accuracy"] - means["start_accuracy"]
    return np.asarray(left) / np.where(gain > 0, gain, np.nan)


@styled
def initialization(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw addition and negation from random weights beside those from pre-trained ones.

    One row per model. Left: accuracy of θ0, of single-task models and of the sum. Middle: the share
    of the gain that the sum keeps; bars end at `LARGEST_SHARE`. Right: accuracy on the target
    before and after negation.

    Args:
        table: Rows of `experiment.run_experiment` with the column start.
        tasks: The tasks; others are not drawn.

    Returns:
        The figure.
    """
    table = table[table["task"].isin(tasks) & table["start"].isin(START_NAMES)]
    models, _, modes = axes(table)
    means = table.groupby(["model", "start", "mode"]).mean(numeric_only=True)
    figure, panels = panel_grid(len(models), 3)
    places = {
        (start, mode): column * (len(modes) + 1) + position
        for column, start in enumerate(START_NAMES)
        for position, mode in enumerate(modes)
    }
    for row, model in zip(panels, models, strict=True):
        of = means.loc[model]
        for (start, mode), look in _each(places, modes):
            here, place = of.loc[start, mode], places[start, mode]
            span = here["start_accuracy"], here["addition_accuracy"], here["single_accuracy"]
            _span(row[0], place, span, look)
            kept = float(gain_kept(here))
            # Where fine-tuning gained next to nothing, the share is any number and sets no scale.
            top = min(np.nan_to_num(kept), LARGEST_SHARE)
            row[1].bar(place, top, **bar_look(mode, look))
            label = "no gain" if np.isnan(kept) else f"{kept:.0%}"
            row[1].annotate(label, (place, top), xytext=(0, 2),
                            textcoords="offset points", ha="center", fontsize=7)  # fmt: skip
            _span(row[2], place, (here["start_accuracy"], here["target_accuracy"]), look)
        for panel in row:
            panel.set_xticks(
                [np.mean([places[start, mode] for mode in modes]) for start in START_NAMES],
                START_NAMES.values(),
            )
        row[0].set(title=f"{model}: addition", ylabel="Test accuracy (%)")
        row[1].set(title=f"{model}: kept by the sum", ylabel="Gain over θ0 kept (%)")
        row[2].set(title=f"{model}: negation", ylabel="Test accuracy on the target (%)")
        row[1].axhline(0, color=GREY, linewidth=0.9)
        row[1].set_axisbelow(True)
    mode_legend(figure, modes, "edited (◇ θ0, – single-task model)")
    return figure


def _each(places, modes):
    looks = looks_of(modes)
    return (((start, mode), looks[mode]) for start, mode in places)


def _span(panel: Axes, place: float, values: Sequence[float], look: dict) -> None:
    """Draw θ0, the edited model and, if given, the single-task model above each other."""
    before, edited, *own = values
    panel.plot([place, place], [min(values), max(values)], color=look["color"], linewidth=0.8)
    panel.plot(place, before, **PALETTE["pretrained"] | {"markerfacecolor": "white"})
    panel.plot(place, edited, **look | {"linestyle": ""})
    panel.plot([place] * len(own), own, color=look["color"], marker="_", markersize=14)


@styled
def emergence(table: pd.DataFrame, errors: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw addition accuracy and disentanglement errors along pre-training.

    One row per model; only modes measured at every θ0. Left: accuracy of θ0, of single-task models
    and of the sum. Middle: the share of the gain that the sum keeps. Right: ξ(α, α), mean over
    pairs, for every α.

    Args:
        table: Rows of `experiment.run_experiment` with the column start.
        errors: Rows of `disentanglement.disentanglement_errors` with the column start.
        tasks: The tasks; others are not drawn.

    Returns:
        The figure.
    """
    table = table[table["task"].isin(tasks)]
    starts = list(table["start"].unique())
    everywhere = table.groupby("mode")["start"].nunique() == len(starts)
    table = table[table["mode"].isin(everywhere.index[everywhere])]
    errors = errors[(errors["distance"] == "prediction") & (errors["alpha_first"] > 0)]
    models, _, modes = axes(table)
    places = range(len(starts))

    def shade(alpha: float) -> dict[str, float]:
        return {"alpha": 0.25 + 0.75 * alpha, "linewidth": 0.8 + 1.6 * alpha}

    figure, panels = panel_grid(len(models), 3)
    for row, model in zip(panels, models, strict=True):
        for mode, look in looks_of(modes).items():
            of = table[(table["model"] == model) & (table["mode"] == mode)]
            means = of.groupby("start").mean(numeric_only=True).loc[starts]
            row[0].plot(places, means["start_accuracy"], **PALETTE["pretrained"])
            row[0].plot(places, means["single_accuracy"], **look | {"linestyle": "--"})
            row[0].plot(places, means["addition_accuracy"], **look)
            row[1].plot(places, gain_kept(means), **look)
            measured = errors[(errors["model"] == model) & (errors["mode"] == mode)]
            by_alpha = measured.pivot_table(index="start", columns="alpha_first", values="error")
            for alpha, line in by_alpha.loc[starts].items():
                row[2].plot(places, line, **look | shade(alpha))
        for panel in row:
            steps = [start.removeprefix("step-").replace("pretrained", "all") for start in starts]
            panel.set_xticks(places, steps)
            panel.set_xlabel("Steps of pre-training")
        row[0].set(title=f"{model}: accuracy", ylabel="Test accuracy (%)")
        row[1].set(title=f"{model}: kept by the sum", ylabel="Gain over θ0 kept (%)")
        row[2].set(title=f"{model}: disentanglement", ylabel="Error ξ(α, α) (% of predictions)")
    mode_legend(figure, modes)
    extra = [("θ0", PALETTE["pretrained"]), ("single-task models", {"linestyle": "--"}),
             ("sum of all", {"linestyle": "-"})]  # fmt: skip
    handles = [Line2D([], [], label=label, **({"color": GREY} | look)) for label, look in extra]
    panels[0][0].legend(handles=handles, fontsize=7.5)
    # In the corner above lines that fall.
    handles = [
        Line2D([], [], color=GREY, label=f"α = {alpha:g}", **shade(alpha))
        for alpha in sorted(errors["alpha_first"].unique())
    ]
    panels[0][2].legend(handles=handles, fontsize=7.5, loc="upper right")
    return figure
