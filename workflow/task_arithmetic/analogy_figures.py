"""Figure of the analogies, in the style of `figures`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from task_arithmetic.figures import (
    GREY,
    PALETTE,
    looks_of,
    mean_with_error,
    panel_grid,
    rows_of,
    styled,
)
from task_arithmetic.tables import MODES, axes

START = "From the pre-trained model"
OWN = "Fine-tuned on all images"
HOLLOW = {"linestyle": "", "markerfacecolor": "white"}


@styled
def analogies(table: pd.DataFrame) -> Figure:
    """Draw what analogies give where there is no labelled image of the target, or few.

    One row per model and pair of styles. Left: accuracy, mean over targets and seeds, against the
    number of labelled images, from θ0 and from the analogy; bars reach two standard errors. Right:
    each target, from the pre-trained model to its analogies and to its own models.

    Args:
        table: What `merging_tables.analogies` returns.

    Returns:
        The figure.
    """
    models, _, modes = axes(table)
    shown = list(product(models, table["styles"].unique()))
    looks = looks_of(modes)
    figure, panels = panel_grid(len(shown), 2)
    figure.set_size_inches(8.2, 3.1 * len(shown) + 0.7)
    for row, (model, styles) in zip(panels, shown, strict=True):
        part = table[table["styles"] == styles]
        by_mode = {mode: rows_of(part, model, mode) for mode in modes}
        _draw_samples(row[0], by_mode, looks)
        _draw_targets(row[1], by_mode, looks)
        low = min(panel.get_ylim()[0] for panel in row)
        title = f"{model}: {styles.replace('+', ' and ')}"
        for panel, of in zip(row, ("mean over targets", "by target"), strict=True):
            panel.set(title=f"{title}, {of}", ylim=(low, 1.02))
        row[0].set(xlabel="Labelled images of the target", ylabel="Test accuracy on the target (%)")
    handles = [
        Line2D([], [], label=START, **PALETTE["pretrained"]),
        *(Line2D([], [], label=f"Analogy, {MODES[m]}", **look) for m, look in looks.items()),
        Line2D([], [], color=GREY, marker="o", label=OWN, **HOLLOW),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=3)
    return figure


def _draw_samples(
    panel: Axes, by_mode: Mapping[str, pd.DataFrame], looks: Mapping[str, dict[str, Any]]
) -> None:
    """Draw accuracy against the number of labelled images, from none to all."""
    counts = sorted({int(n) for rows in by_mode.values() for n in rows["samples"].dropna()})
    for place, (mode, rows) in enumerate(by_mode.items()):
        lines = {"analogy": looks[mode]}
        if place == 0:
            # The pre-trained model is that of all modes; samples belong to the first.
            lines |= {"zero-shot": PALETTE["pretrained"]}
        for method, look in lines.items():
            more = {"zero-shot": "samples"}.get(method, "analogy-samples")
            along = rows[rows["method"].isin([method, more])]
            points = [mean_with_error(part, "accuracy") for _, part in along.groupby("samples")]
            means, errors = np.array(points).T
            # Modes without samples stand beside the others, at none.
            where = np.arange(len(points)) + (0.12 * place if len(points) == 1 else 0)
            panel.errorbar(where, means, yerr=2 * errors, elinewidth=0.9, **look)
        own, _ = mean_with_error(rows[rows["method"] == "fine-tuned"], "accuracy")
        colour = {"color": looks[mode]["color"]}
        panel.axhline(own, linewidth=0.8, linestyle=looks[mode]["linestyle"], zorder=1, **colour)
        panel.plot(len(counts), own, **(looks[mode] | HOLLOW))
    panel.set_xticks(range(len(counts) + 1), [*counts, "all"])
    panel.grid(axis="x", visible=False)


def _draw_targets(
    panel: Axes, by_mode: Mapping[str, pd.DataFrame], looks: Mapping[str, dict[str, Any]]
) -> None:
    """Draw each target's way from the pre-trained model over the analogy to its own model."""
    offsets = np.linspace(-0.25, 0.25, len(by_mode)) if len(by_mode) > 1 else [0.0]
    for (mode, rows), offset in zip(by_mode.items(), offsets, strict=True):
        of = rows.groupby(["method", "target"], sort=False)["accuracy"].mean()
        where = np.arange(len(of["analogy"])) + offset
        colour = {"color": looks[mode]["color"]}
        panel.vlines(where, of["zero-shot"], of["fine-tuned"], linewidth=0.9, **colour)
        start = PALETTE["pretrained"] | {"linestyle": "", "markersize": 4}
        panel.plot(where, of["zero-shot"], **start)
        panel.plot(where, of["fine-tuned"], **(looks[mode] | HOLLOW))
        panel.plot(where, of["analogy"], **(looks[mode] | {"linestyle": ""}))
        names = [",\n".join(name.rsplit("-", 1)) for name in of["analogy"].index]
        panel.set_xticks(range(len(where)), names, fontsize=7.5)
    panel.grid(axis="x", visible=False)
