"""Figures of the experiment: accuracy against α, and single-task against edited accuracy.

Everything is drawn from the tidy tables; no model is known here. Modes differ in colour, in line
style and in marker, so that they stay apart in grey and for colour-blind readers. Figures are
made without pyplot: no global state, no window system.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from task_arithmetic.artifacts import atomic_path
from task_arithmetic.tables import MODES, axes

STYLE = {
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.alpha": 0.5,
    "grid.color": "#d0d0d0",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "pdf.fonttype": 42,  # text in the PDF stays text
    "savefig.dpi": 200,
}
# Colours of Okabe and Ito; the two tangent modes are both blue.
PALETTE: dict[str, dict[str, Any]] = {
    "pretrained": {"color": "#595959", "linestyle": ":", "marker": "D"},
    "nonlinear": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "posthoc": {"color": "#56B4E9", "linestyle": "--", "marker": "s"},
    "linear": {"color": "#0072B2", "linestyle": "-.", "marker": "^"},
}
SPARE = [
    {"color": "#009E73", "linestyle": (0, (5, 1, 1, 1)), "marker": "v"},
    {"color": "#CC79A7", "linestyle": (0, (1, 1)), "marker": "P"},
    {"color": "#000000", "linestyle": (0, (8, 2)), "marker": "X"},
]
PANEL = (3.3, 2.8)  # inches, width and height
GREY = "#595959"


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Return `draw` as it draws under `STYLE`, without changing anybody else's settings."""

    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


@styled
def addition_curves(
    curves: pd.DataFrame, selections: pd.DataFrame, singles: pd.DataFrame, tasks: Sequence[str]
) -> Figure:
    """Draw mean normalized validation accuracy of the sum of all task vectors against α.

    One panel per model, one curve per mode. With several seeds the thin curves are seeds and the
    thick one is their mean. A marker stands at the selected α of each seed.

    Args:
        curves: Rows of every `addition/validation.csv`.
        selections: Rows of every `addition/selection.csv`.
        singles: What `tables.single_task` returns.
        tasks: The tasks to average over.

    Returns:
        The figure.

    Raises:
        ValueError: If a curve misses a task, a seed or an α, or has one twice.
    """
    own = singles[singles["split"] == "validation"].rename(columns={"task": "dataset"})
    rows = curves.merge(own, "left", ["model", "seed", "mode", "dataset"], suffixes=("", "_own"))
    rows["normalized"] = rows["accuracy"] / rows["accuracy_own"]
    models, seeds, modes = axes(rows)
    figure, panels = panel_grid(1, len(models))
    for panel, model in zip(panels[0], models, strict=True):
        for mode, look in looks_of(modes).items():
            wide = _wide(rows_of(rows, model, mode), "normalized", seeds, "dataset", tasks)
            by_seed = wide.T.groupby(level=0).mean().T
            chosen = rows_of(selections, model, mode).dropna(subset="alpha")
            marks = [
                (alpha, np.interp(alpha, by_seed.index, by_seed[seed]))
                for seed, alpha in zip(chosen["seed"], chosen["alpha"], strict=True)
            ]
            _curve(panel, by_seed, marks, look)
        panel.axhline(1, color=GREY, linewidth=0.9, zorder=1)
        panel.text(1, 1.01, "single-task models", ha="right", va="bottom", color=GREY)
        panel.set(title=model, xlabel="Scaling coefficient α")
    panels[0][0].set_ylabel("Normalized validation accuracy (%)")
    mode_legend(figure, modes, _MARK)
    return figure


@styled
def negation_curves(
    curves: pd.DataFrame,
    selections: pd.DataFrame,
    tasks: Sequence[str],
    control: str,
    retention: float = 0.95,
) -> Figure:
    """Draw validation accuracy on targets and on the control of negated task vectors against α.

    One row per model; target on the left, control on the right. Curves are means over tasks, as
    in `addition_curves`; the small markers are the single tasks at their own selected α.

    Args:
        curves: Rows of every `negation-{task}/validation.csv`.
        selections: Rows of every `negation-{task}/selection.csv`.
        tasks: The tasks to average over.
        control: Name of the control dataset.
        retention: Least share of the pre-trained control accuracy that an edit has to keep.

    Returns:
        The figure.

    Raises:
        ValueError: If a curve misses a task, a seed or an α, or has one twice.
    """
    edits = [f"negation-{task}" for task in tasks]
    on_control = curves["dataset"] == control
    on_target = curves["edit"] == "negation-" + curves["dataset"]
    models, seeds, modes = axes(curves)
    figure, panels = panel_grid(len(models), 2)
    for row, model in zip(panels, models, strict=True):
        for panel, chosen_rows in zip(row, (on_target, on_control), strict=True):
            for mode, look in looks_of(modes).items():
                rows = rows_of(curves[chosen_rows], model, mode)
                wide = _wide(rows, "accuracy", seeds, "edit", edits)
                chosen = rows_of(selections, model, mode).dropna(subset="alpha")
                marks = [
                    (alpha, np.interp(alpha, wide.index, wide[seed, edit]))
                    for seed, edit, alpha in zip(
                        chosen["seed"], chosen["edit"], chosen["alpha"], strict=True
                    )
                ]
                _curve(panel, wide.T.groupby(level=0).mean().T, marks, look, small=True)
            panel.set_xlabel("Scaling coefficient α")
        at_start = curves[on_control & (curves["model"] == model) & (curves["alpha"] == 0)]
        floor = retention * at_start["accuracy"].mean()
        row[1].axhline(floor, color=GREY, linewidth=0.9, zorder=1)
        row[1].text(0, floor, f"{retention:.0%} of pre-trained", va="top", color=GREY)
        row[0].set(title=f"{model}: target tasks", ylabel="Validation accuracy (%)")
        row[1].set(title=f"{model}: control ({control})")
    mode_legend(figure, modes, f"{_MARK}, one task")
    return figure


@styled
def single_task_against_edited(
    single: pd.DataFrame, addition: pd.DataFrame, negation: pd.DataFrame
) -> Figure:
    """Draw the accuracy that a task keeps in an edited model against that of its own model.

    One row per model; addition on the left, negation on the right; a point per task and mode,
    mean over seeds, test split. Edits without a feasible α have no point.

    Args:
        single: What `tables.single_task` returns.
        addition: What `tables.task_addition` returns.
        negation: What `tables.task_negation` returns.

    Returns:
        The figure.
    """
    keys = ["model", "mode", "task"]
    own = single[single["split"] == "test"].groupby(keys, sort=False)["accuracy"].mean()
    edited = {
        "Addition": addition.groupby(keys, sort=False)["accuracy"].mean(),
        "Negation": negation.groupby(keys, sort=False)["target_accuracy"].mean(),
    }
    models, _, modes = axes(addition)
    low = own.drop("pretrained", level="mode").min()
    figure, panels = panel_grid(len(models), 2)
    for row, model in zip(panels, models, strict=True):
        for panel, (name, accuracy) in zip(row, edited.items(), strict=True):
            points = pd.DataFrame({"x": own, "y": accuracy}).dropna().loc[model]
            for mode, look in looks_of(modes).items():
                if mode in points.index:
                    panel.plot(*points.loc[mode].to_numpy().T, **(look | {"linestyle": ""}))
            for _, same in points.groupby(level="task"):
                panel.plot(*same.to_numpy().T, color=GREY, linewidth=0.5, alpha=0.5, zorder=1)
            panel.axline((1, 1), slope=1, color=GREY, linewidth=0.9, zorder=1)
            panel.set(xlim=(low - 0.03, 1.01), ylim=(0, 1.01), title=f"{model}: {name.lower()}")
            panel.set_xlabel("Single-task test accuracy (%)")
            panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
            _label_at_the_margin(panel, points.groupby(level="task", sort=False).last())
        row[0].set_ylabel("Test accuracy after the edit (%)")
    mode_legend(figure, modes)
    return figure


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure as PNG and as PDF, each whole or not at all, the same bytes every time.

    Args:
        figure: What one of the functions above returns.
        path: The file's name; its suffix is replaced by `.png` and by `.pdf`.
    """
    # Metadata that would name the moment or the version of matplotlib.
    moment = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    for suffix, metadata in moment.items():
        with mpl.rc_context(STYLE), atomic_path(Path(path).with_suffix(suffix)) as temporary:
            figure.savefig(temporary, metadata=metadata)


_MARK = "at the selected α"


def panel_grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Return a new figure and its panels, `[rows, columns]`, whose y axes are in percent."""
    # A single panel is made wider, for the legend below it.
    size = (max(PANEL[0] * columns, 1.4 * PANEL[0]), PANEL[1] * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
    return figure, panels


def looks_of(modes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return each mode's look: its own from `PALETTE`, or a spare one."""
    spare = cycle(SPARE)
    return {mode: PALETTE.get(mode) or next(spare) for mode in modes}


def rows_of(rows: pd.DataFrame, model: str, mode: str) -> pd.DataFrame:
    """Return the rows of one model and mode."""
    return rows[(rows["model"] == model) & (rows["mode"] == mode)]


def mean_with_error(rows: pd.DataFrame, column: str) -> tuple[float, float]:
    """Return the mean of a column over tasks and seeds, and its standard error.

    Args:
        rows: One row per task and seed, with the column's own standard errors beside it (`_se`).
        column: An accuracy.

    Returns:
        Mean and error; missing if there are no rows.
    """
    if rows.empty:
        return np.nan, np.nan
    by_seed = rows.groupby("seed")[column].mean()
    squares = (rows[f"{column}_se"] ** 2).groupby(rows["seed"]).sum()
    of_images = (squares**0.5 / rows.groupby("seed").size()).mean()
    of_seeds = by_seed.std() / len(by_seed) ** 0.5 if len(by_seed) > 1 else 0.0
    return by_seed.mean(), float(np.hypot(of_images, of_seeds))


def _wide(
    rows: pd.DataFrame, value: str, seeds: Sequence[int], key: str, names: Sequence[str]
) -> pd.DataFrame:
    """Return `value` with one row per α and one column per (seed, name).

    Raises:
        ValueError: If a value is missing or there twice: a mean must not be over fewer tasks.
    """
    columns = pd.MultiIndex.from_product([seeds, names])
    wide = rows.pivot(index="alpha", columns=["seed", key], values=value).reindex(columns=columns)
    if wide.empty or wide.isna().any(axis=None):
        gaps = wide.columns[wide.isna().any()].to_list() or columns.to_list()
        raise ValueError(f"expected {value} at every α for every seed and {key}; missing: {gaps}")
    return wide


def _curve(
    panel: Axes,
    by_seed: pd.DataFrame,
    marks: Sequence[tuple[float, float]],
    look: dict[str, Any],
    small: bool = False,
) -> None:
    """Draw the mean over seeds, the seeds if there are several, and the marks."""
    line = {"color": look["color"], "linestyle": look["linestyle"]}
    if by_seed.shape[1] > 1:
        panel.plot(by_seed.index, by_seed, color=look["color"], linewidth=0.6, alpha=0.6)
    panel.plot(by_seed.index, by_seed.mean(axis="columns"), **line)
    dots = {"color": look["color"], "marker": look["marker"], "linestyle": ""}
    outline = {"markeredgecolor": "white", "markeredgewidth": 0.7, "zorder": 3}
    size = {"markersize": 4 if small else 7, "alpha": 0.8 if small else 1}
    panel.plot(*np.array(marks).reshape(-1, 2).T, **dots, **outline, **size)


def _label_at_the_margin(panel: Axes, points: pd.DataFrame, gap: float = 0.06) -> None:
    """Name each task right of the panel, with a thin line to its point.

    Labels keep the order of their points and a distance of `gap` (share of the y axis), so none
    overlaps another however close the points are.
    """
    points = points.sort_values("y")
    wanted = points["y"].to_numpy() / panel.get_ylim()[1]
    steps = min(gap, 1 / len(wanted)) * np.arange(len(wanted))
    # Pushed apart upwards and downwards alike, then kept within the panel; each step keeps gaps.
    upwards = np.maximum.accumulate(wanted - steps)
    downwards = np.minimum.accumulate((wanted - steps)[::-1])[::-1]
    heights = np.clip((upwards + downwards) / 2, 0, 1 - steps[-1]) + steps
    for task, x, y, height in zip(points.index, points["x"], points["y"], heights, strict=True):
        panel.annotate(
            task,
            (x, y),
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=7.5,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "shrinkB": 3},
        )


def mode_legend(figure: Figure, modes: Sequence[str], mark: str | None = None) -> None:
    """Explain modes below the panels, with line and marker both, and what the markers mean."""
    handles = [Line2D([], [], label=MODES.get(m, m), **look) for m, look in looks_of(modes).items()]
    if mark:
        handles.append(Line2D([], [], color=GREY, linestyle="", marker="o", label=mark))
    # An entry takes about 2.1 inches.
    ncols = len(handles) if figure.get_figwidth() >= 2.1 * len(handles) else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, handlelength=3)
