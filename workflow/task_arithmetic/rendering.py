"""The papers' tables as text: Markdown and LaTeX in percent, and Markdown on a terminal.

A table is a summary, methods by measures as in the tangent-space paper, and the same numbers task
by task below it. Means, spreads and the marking of the best are the same for both markups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markdown import Markdown

from task_arithmetic.markup import IMPORTED, Sheet, latex, markdown
from task_arithmetic.published import Published
from task_arithmetic.tables import MODES, axes, with_imported


@dataclass(frozen=True)
class Metric:
    """A column of numbers: its heading, which direction is better, its unit, what a gap means."""

    column: str
    heading: str
    better: Literal["max", "min"] | None = None
    percent: bool = True
    absent: str = "infeasible"


@dataclass(frozen=True)
class Layout:
    """What a table says about itself, its summary columns and its per-task tables."""

    title: str
    caption: str
    summary: tuple[Metric, ...]
    per_task: tuple[Metric, ...]


_VALIDATION = Metric("validation", "Validation (↑)", "max")
_TEST = Metric("test", "Test (↑)", "max")
_ABSOLUTE = Metric("accuracy", "Absolute (↑)", "max")
_NORMALIZED = Metric("normalized_accuracy", "Normalized (↑)", "max")
_TARGET = Metric("target_accuracy", "Target (↓)", "min")
# The control is a constraint, not a contest: no value of it is marked as the best.
_CONTROL = Metric("control_accuracy", "Control")
_ALPHA = Metric("alpha", "α", percent=False)

LAYOUTS = {
    "single_task": Layout(
        "Single-task accuracy",
        "Accuracy (%) of each task's own model on that task",
        (_VALIDATION, _TEST),
        (_TEST,),
    ),
    "task_addition": Layout(
        "Task addition",
        "Test accuracy (%) of one model edited with the sum of all task vectors, absolute and"
        " relative to the single-task models of the same method (layout of Ortiz-Jimenez et al."
        " 2023, table 1)",
        (_ABSOLUTE, _NORMALIZED, _ALPHA),
        (_ABSOLUTE, _NORMALIZED),
    ),
    "task_negation": Layout(
        "Task negation",
        "Test accuracy (%) on the target task, to be lowered, and on the control, to be kept,"
        " after subtracting the target's task vector (layout of Ortiz-Jimenez et al. 2023,"
        " table 2)",
        (_TARGET, _CONTROL),
        (_TARGET, _CONTROL, _ALPHA),
    ),
}


def render(
    name: str,
    table: pd.DataFrame,
    tasks: Sequence[str],
    format: Literal["markdown", "latex"],
    singles: pd.DataFrame | None = None,
    expected: Mapping[str, Any] | None = None,
) -> str:
    """Lay a tidy table out as in the papers: methods by measures, then task by task.

    Args:
        name: `single_task`, `task_addition` or `task_negation`.
        table: What the function of that name returns.
        tasks: Task names in the order wanted.
        format: The markup language.
        singles: What `single_task` returns; gives `task_addition` its pre-trained row.
        expected: Published numbers, as in a configuration, for columns beside ours.

    Returns:
        The text of the file: percent with one decimal, mean ± sample standard deviation over
        seeds (no ± for one seed), the best mean in bold, a mark on means that are far from the
        published ones. Edits without a feasible α are never
        part of a mean unsaid: the cell says of how many of how many it is the mean.
    """
    layout, rows = LAYOUTS[name], _with_pretrained(name, table, singles)
    marked = table[table["imported"]] if "imported" in table else table[:0]
    triples = set(zip(marked["model"], marked["mode"], marked["task"], strict=True))
    rows = with_imported(rows, triples)
    markup, bold = _markup(name, format)
    models, seeds, modes = axes(rows)
    of = {model: rows[rows["model"] == model] for model in models}
    methods = [MODES.get(mode, mode) for mode in modes]

    published, shown = Published.of(expected, name), []
    for model, metric in product(models, layout.summary):
        verdict = partial(published.mark, model)
        shown.append((model, metric.heading, _compare(of[model], metric, modes, bold, verdict)))
        if published.has(metric.column):
            cells = [published.cell(model, mode, metric.column) for mode in modes]
            shown.append((model, "Paper", cells))
    heads = ["Method", *(heading for _, heading, _ in shown)]
    lines = [list(line) for line in zip(methods, *(cells for *_, cells in shown), strict=True)]
    caption = f"{layout.caption}; {_spread(len(tasks), len(seeds))}. {_legend(lines)}".strip()
    caption += published.legend
    sheets = [Sheet(layout.title, caption, [model for model, *_ in shown], [heads, *lines])]

    for model, metric in product(models, layout.per_task):
        # The pre-trained model has no coefficient and no normalized accuracy: no column for it.
        known = of[model].loc[of[model]["mode"] == "pretrained", metric.column].notna().any()
        shown = [mode for mode in modes if mode != "pretrained" or known]
        heads = ["Task", *(MODES.get(mode, mode) for mode in shown)]
        by_task = {task: of[model][of[model]["task"] == task] for task in tasks}
        lines = [[task, *_compare(part, metric, shown, bold)] for task, part in by_task.items()]
        sheets.append(Sheet(f"{metric.heading} by task", "", [model] * len(shown), [heads, *lines]))
    return markup(sheets)


def render_grid(
    name: str,
    layout: Layout,
    table: pd.DataFrame,
    lines: Mapping[str, Mapping[Any, str]],
    format: Literal["markdown", "latex"],
) -> str:
    """Lay a tidy table out with other lines than modes, which become groups of columns.

    Args:
        name: Name of the table, for its label.
        layout: Title, caption and the columns of each group; its tables by task are not used.
        table: Rows with model, seed, mode, the columns of the layout and that of the lines.
        lines: The column whose values are the lines, with the heading of each, in order.
        format: The markup language.

    Returns:
        The text of the file, with the marks that `render` describes.
    """
    _, bold = _markup(name, format)
    models, seeds, modes = axes(table)
    ((column, headings),) = lines.items()
    of = {
        (model, mode): part.assign(mode=part[column])
        for model, mode in product(models, modes)
        if len(part := table[(table["model"] == model) & (table["mode"] == mode)])
    }
    cells = {
        (*group, metric.heading): _compare(part, metric, list(headings), bold)
        for group, part in of.items()
        for metric in layout.summary
    }
    frame = pd.DataFrame(cells, index=pd.Index(headings.values(), name=column))
    note = "One seed" if len(seeds) == 1 else f"Mean ± std over n = {len(seeds)} seeds"
    return render_cells(name, layout.title, f"{layout.caption}. {note}.", frame, format)


def render_cells(
    name: str,
    title: str,
    caption: str,
    cells: pd.DataFrame,
    format: Literal["markdown", "latex"],
) -> str:
    """Write a table of ready cells.

    Args:
        name: Name of the table, for its label.
        title: Its title.
        caption: What it shows; the meaning of marks is added.
        cells: Texts; the index holds the headings of the lines, the columns are (model, mode,
            heading).
        format: The markup language.

    Returns:
        The text of the file.
    """
    markup, _ = _markup(name, format)
    groups = [f"{model}, {MODES.get(mode, mode)}" for model, mode, _ in cells.columns]
    heads = [str(cells.index.name).capitalize(), *(heading for *_, heading in cells.columns)]
    lines = [[str(heading), *line] for heading, line in zip(cells.index, cells.values, strict=True)]
    caption = f"{caption} {_legend(lines)}".strip()
    return markup([Sheet(title, caption, groups, [heads, *lines])])


def show(paths: Iterable[Path], console: Console | None = None) -> None:
    """Print the summaries of rendered tables, and where to read the same task by task.

    Args:
        paths: Files written from `render(..., "markdown")`, in the order wanted.
        console: Where to print; standard output by default.
    """
    console = console or Console()
    for path in paths:
        summary = Path(path).read_text(encoding="utf-8").partition("\n### ")[0]
        console.print(Markdown(summary))
        console.print(f"Task by task: {path}\n", highlight=False, soft_wrap=True)


def _markup(name: str, format: str) -> tuple[Callable[[list[Sheet]], str], str]:
    """Return what writes sheets in a markup language, and its pattern of bold text."""
    return {
        "markdown": (markdown, "**{}**"),
        "latex": (partial(latex, name), r"\textbf{{{}}}"),
    }[format]


def _with_pretrained(name: str, table: pd.DataFrame, singles: pd.DataFrame | None) -> pd.DataFrame:
    """Return one column per metric and the pre-trained model as a method among the others."""
    keys = ["model", "seed", "mode", "task"]
    if name == "single_task":
        wide = table.pivot(index=keys, columns="split", values=["accuracy", "accuracy_se"])
        wide.columns = [split + kind.removeprefix("accuracy") for kind, split in wide.columns]
        return wide.reset_index()
    if name == "task_addition" and singles is not None:
        baseline = (singles["mode"] == "pretrained") & (singles["split"] == "test")
        return pd.concat([singles[baseline].drop(columns="split"), table], ignore_index=True)
    if name == "task_negation":
        measured = [column for column in table if column.startswith("pretrained_")]
        baseline = table[keys + measured].drop_duplicates(["model", "seed", "task"])
        baseline = baseline.rename(columns=lambda column: column.removeprefix("pretrained_"))
        return pd.concat([baseline.assign(mode="pretrained"), table], ignore_index=True)
    return table


def _compare(
    rows: pd.DataFrame,
    metric: Metric,
    modes: list[str],
    bold: str,
    verdict: Callable[[str, str, float], str] = lambda *_: "",
) -> list[str]:
    """Return one cell per mode: mean ± spread over seeds of the mean over the tasks in `rows`."""
    cells, contest = [], {}
    for mode in modes:
        values = rows[rows["mode"] == mode].set_index("seed")[metric.column]
        values = values * 100 if metric.percent else values
        known, total = values.notna().sum(), len(values)
        if not known:
            cells.append("–" if mode == "pretrained" or not total else metric.absent)
            continue
        by_seed = values.groupby(level="seed").mean().dropna()
        places = 1 if metric.percent else 2
        mean = f"{by_seed.mean():.{places}f}"
        spread = f" ± {by_seed.std():.{places}f}" if len(by_seed) > 1 else ""
        # A mean over fewer tasks is another quantity than the published ones.
        whole = known == total
        note = verdict(mode, metric.column, by_seed.mean()) if whole else f" ({known} of {total})"
        here = rows["mode"] == mode
        mark = IMPORTED if "imported" in rows and rows[here]["imported"].any() else ""
        cells.append(mean + spread + note + mark)
        # Nor does it compete, and the pre-trained model is no contestant.
        if whole and mode != "pretrained":
            contest[len(cells) - 1] = mode, mean
    if metric.better and len(contest) > 1:
        # Compared as printed: numbers that look equal are marked alike.
        best = {"min": min, "max": max}[metric.better](
            (mean for _, mean in contest.values()), key=float
        )
        errors = {
            place: _error_of_mean(rows[rows["mode"] == mode], metric)
            for place, (mode, _) in contest.items()
        }
        least = min(errors[place] for place, (_, mean) in contest.items() if mean == best)
        for place, (_, mean) in contest.items():
            if mean == best:
                cells[place] = cells[place].replace(mean, bold.format(mean), 1)
            elif abs(float(mean) - float(best)) < 2 * np.hypot(errors[place], least):
                cells[place] = f"≈ {cells[place]}"
    return cells


def _error_of_mean(rows: pd.DataFrame, metric: Metric) -> float:
    """Return the standard error, in percent, of a mean over tasks and seeds.

    The test images of a task are the same for every seed, so their share does not shrink with
    seeds; that of the spread over seeds does.
    """
    by_seed = 100 * rows.groupby("seed")[metric.column].mean()
    squares = (100 * rows[f"{metric.column}_se"]) ** 2
    of_images = np.sqrt(squares.groupby(rows["seed"]).sum()) / rows.groupby("seed").size()
    of_seeds = by_seed.std() / np.sqrt(len(by_seed)) if len(by_seed) > 1 else 0.0
    return float(np.hypot(of_images.mean(), of_seeds))


def _spread(tasks: int, seeds: int) -> str:
    mean = f"mean over {tasks} tasks"
    return f"{mean}, one seed (n = 1)" if seeds == 1 else f"{mean} ± std over n = {seeds} seeds"


def _legend(lines: list[list[str]]) -> str:
    """Return what the marks that the cells bear mean."""
    cells = [cell for line in lines for cell in line[1:]]
    meanings = []
    if any("**" in cell or "textbf" in cell for cell in cells):
        meanings.append("Bold: best method.")
    if any("≈" in cell for cell in cells):
        meanings.append(
            "≈: within noise of the best (nearer than twice the standard error of the difference,"
            " from the number of test images and the spread over seeds)."
        )
    if any("infeasible" in cell or " of " in cell for cell in cells):
        meanings.append(
            "Infeasible: no coefficient keeps the control accuracy on validation data;"
            " (k of n): mean over the k edits of n for which one does."
        )
    if any(IMPORTED in cell for cell in cells):
        meanings.append(f"{IMPORTED} with fine-tuned models that were imported, not trained here.")
    return " ".join(meanings)
