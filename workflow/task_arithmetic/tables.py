"""The papers' tables as data: accuracies of edits joined into one tidy observation per row.

Everything comes from the CSV files of measured accuracies and selected coefficients; no model is
known here. The joins are strict: a number is found exactly once or the table is not made. Every
accuracy `x` has its binomial standard error beside it as `x_se`.
`rendering` lays these tables out for reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import pandas as pd

# The methods in the order and wording of the papers; a mode not listed here shows its own name.
MODES = {
    "pretrained": "Pre-trained",
    "nonlinear": "Non-linear FT.",
    "posthoc": "Post-hoc linearized",
    "linear": "Linearized FT.",
}
SPLITS = ("validation", "test")


def standard_error(accuracy: pd.Series, total: pd.Series) -> pd.Series:
    """Return the binomial standard error √(p (1 − p) / n) of accuracies.

    It is what drawing another test set of the same size would change, not what another fine-tuning
    seed would.

    Args:
        accuracy: p, as fractions.
        total: n, the number of examples each was measured on.

    Returns:
        The standard errors, as fractions.
    """
    return np.sqrt(accuracy * (1 - accuracy) / total)


def with_normalized(table: pd.DataFrame, own: pd.Series, own_se: pd.Series) -> pd.DataFrame:
    """Add accuracy ÷ single-task accuracy and its standard error by error propagation.

    Both accuracies count as independent. They come from the same images, so the error is an upper
    bound wherever the two models tend to be right on the same ones.

    Args:
        table: Rows with `accuracy` and `accuracy_se`.
        own: The single-task accuracy of each row's task and mode.
        own_se: Its standard error.

    Returns:
        The table with `normalized_accuracy` and `normalized_accuracy_se`.
    """
    ratio = table["accuracy"] / own
    error = np.hypot(table["accuracy_se"], ratio * own_se) / own
    return table.assign(normalized_accuracy=ratio, normalized_accuracy_se=error)


def single_task(accuracies: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Tabulate each task's own model, and the pre-trained one, on that task.

    Args:
        accuracies: Rows of every `single-{task}/accuracy.csv`.
        tasks: Task names in the order wanted.

    Returns:
        Columns model, seed, mode, task, split, accuracy (fraction) and its standard error
        accuracy_se. Mode `pretrained` is α = 0.

    Raises:
        ValueError: If a model, seed, mode, task and split has no accuracy or several.
    """
    models, seeds, modes = axes(accuracies)

    def at(alpha: float, modes: Sequence[str]) -> pd.DataFrame:
        grid = _grid(model=models, seed=seeds, mode=modes, task=tasks, split=SPLITS)
        wanted = grid.assign(edit="single-" + grid["task"], dataset=grid["task"], alpha=alpha)
        return _with_accuracy(grid, "accuracy", wanted, accuracies)

    # Every mode starts from the same pre-trained model, so its accuracy is taken from one of them.
    pretrained = at(0.0, modes[:1]).assign(mode="pretrained")
    return pd.concat([pretrained, at(1.0, modes)], ignore_index=True)


def task_addition(
    tests: pd.DataFrame, selections: pd.DataFrame, singles: pd.DataFrame, tasks: Sequence[str]
) -> pd.DataFrame:
    """Tabulate the sum of all task vectors at its selected α (Ortiz-Jimenez et al. 2023, table 1).

    Args:
        tests: Rows of every `addition/test.csv`.
        selections: Rows of every `addition/selection.csv`.
        singles: What `single_task` returns.
        tasks: Task names in the order wanted.

    Returns:
        Columns model, seed, mode, task, alpha, accuracy (fraction, test split) and
        normalized_accuracy (accuracy ÷ single-task test accuracy of the same mode), each followed
        by its standard error (`_se`).

    Raises:
        ValueError: If a selection, test accuracy or single-task accuracy is missing or repeated.
    """
    models, seeds, modes = axes(tests, selections)
    table = _grid(model=models, seed=seeds, mode=modes, task=tasks).assign(
        edit="addition", split="test"
    )
    table["alpha"] = look_up(table, selections, ["model", "seed", "mode", "edit"], "alpha")
    table = _with_accuracy(table, "accuracy", table.assign(dataset=table["task"]), tests)
    found = partial(look_up, table, singles, ["model", "seed", "mode", "task", "split"])
    table = with_normalized(table, found("accuracy"), found("accuracy_se"))
    return table.drop(columns=["edit", "split"])


def task_negation(
    tests: pd.DataFrame, selections: pd.DataFrame, tasks: Sequence[str], control: str
) -> pd.DataFrame:
    """Tabulate each negated task vector at its selected α (Ortiz-Jimenez et al. 2023, table 2).

    Args:
        tests: Rows of every `negation-{task}/test.csv`.
        selections: Rows of every `negation-{task}/selection.csv`.
        tasks: Task names in the order wanted.
        control: Name of the control dataset.

    Returns:
        Columns model, seed, mode, task, alpha, target_accuracy, control_accuracy,
        pretrained_target_accuracy, pretrained_control_accuracy (fractions, test split; each
        followed by its standard error, `_se`), feasible. Where no α is feasible, alpha and the
        accuracies of the edited model are missing.

    Raises:
        ValueError: If a selection or test accuracy is missing or repeated.
    """
    models, seeds, modes = axes(tests, selections)
    table = _grid(model=models, seed=seeds, mode=modes, task=tasks)
    wanted = table.assign(edit="negation-" + table["task"], split="test")
    found = partial(look_up, wanted, selections, ["model", "seed", "mode", "edit"])
    wanted["alpha"] = table["alpha"] = found("alpha")
    target, bystander = wanted.assign(dataset=wanted["task"]), wanted.assign(dataset=control)
    for name, rows in (
        ("target_accuracy", target),
        ("control_accuracy", bystander),
        ("pretrained_target_accuracy", target.assign(alpha=0.0)),
        ("pretrained_control_accuracy", bystander.assign(alpha=0.0)),
    ):
        table = _with_accuracy(table, name, rows, tests)
    return table.assign(feasible=found("feasible"))


def with_imported(table: pd.DataFrame, imported: Iterable[Sequence[str]]) -> pd.DataFrame:
    """Mark the rows of tasks whose fine-tuned model was imported instead of trained.

    Args:
        table: What one of the functions above returns.
        imported: Triples of model, mode and task.

    Returns:
        The table with a column `imported`; without one if nothing was imported.
    """
    triples = {tuple(triple) for triple in imported}
    if not triples:
        return table
    rows = zip(table["model"], table["mode"], table["task"], strict=True)
    return table.assign(imported=[row in triples for row in rows])


def ordered_modes(modes: Iterable[str]) -> list[str]:
    """Return the distinct modes in the order of `MODES`, unknown ones last."""
    present = list(dict.fromkeys(modes))
    return [mode for mode in MODES if mode in present] + [m for m in present if m not in MODES]


def axes(*frames: pd.DataFrame) -> tuple[list[str], list[int], list[str]]:
    """Return models, seeds and modes of all the frames together, in display order."""
    rows = pd.concat([frame[["model", "seed", "mode"]] for frame in frames])
    return list(rows["model"].unique()), sorted(rows["seed"].unique()), ordered_modes(rows["mode"])


def in_task_order(
    rows: pd.DataFrame,
    groups: Sequence[str],
    tasks: Sequence[str],
    columns: Sequence[str] = ("task",),
) -> pd.DataFrame:
    """Sort rows by their tasks within each group; the groups stay in the order they come in.

    Args:
        rows: Rows of a table.
        groups: The columns that name a group.
        tasks: Task names in the order wanted.
        columns: The columns that name tasks, the most significant first.

    Returns:
        The rows, numbered anew.
    """
    places = {task: place for place, task in enumerate(tasks)}
    order = pd.DataFrame({
        "group": rows.groupby(list(groups), sort=False).ngroup(),
        **{column: rows[column].map(places) for column in columns},
    })
    return rows.loc[order.sort_values(list(order), kind="stable").index].reset_index(drop=True)


def _grid(**levels: Sequence) -> pd.DataFrame:
    return pd.MultiIndex.from_product(levels.values(), names=list(levels)).to_frame(index=False)


def _with_accuracy(
    table: pd.DataFrame, name: str, wanted: pd.DataFrame, measured: pd.DataFrame
) -> pd.DataFrame:
    """Add the accuracy of each wanted row and its error; missing where α is, as there is none."""
    keys = ["model", "seed", "mode", "edit", "dataset", "split", "alpha"]
    # α has been through text and arithmetic: 0.15 and 0.15000000000000002 are one coefficient.
    wanted = wanted.dropna(subset="alpha").astype({"alpha": float}).round({"alpha": 9})
    measured = measured.astype({"alpha": float}).round({"alpha": 9})
    found = partial(look_up, wanted, measured.dropna(subset="accuracy"), keys)
    accuracy = found("accuracy")
    return table.assign(**{name: accuracy, f"{name}_se": standard_error(accuracy, found("total"))})


def look_up(wanted: pd.DataFrame, rows: pd.DataFrame, keys: list[str], value: str) -> pd.Series:
    """Return `value` of the one row that agrees with each wanted row in `keys`.

    Raises:
        ValueError: If there is no such row or several; the message names all keys.
    """
    index = pd.MultiIndex.from_frame(wanted[keys])
    counts = rows.groupby(keys).size().reindex(index, fill_value=0)
    wrong = counts[counts != 1]
    if len(wrong):
        named = ", ".join(f"{key} {part}" for key, part in zip(keys, wrong.index[0], strict=True))
        raise ValueError(f"expected one row with {value} for {named}; found {wrong.iloc[0]}")
    return rows.drop_duplicates(keys).set_index(keys)[value].reindex(index).set_axis(wanted.index)
