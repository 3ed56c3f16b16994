"""The papers' tables as data: accuracies of edits joined into one tidy observation per row.

Everything comes from the CSV files of measured accuracies and selected coefficients; no model is
known here. The joins are strict: a number is found exactly once or the table is not made.
`rendering` lays these tables out for reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import pandas as pd

# The methods in the order and wording of the papers; a mode not listed here shows its own name.
MODES = {
    "pretrained": "Pre-trained",
    "nonlinear": "Non-linear FT.",
    "posthoc": "Post-hoc linearized",
    "linear": "Linearized FT.",
}
SPLITS = ("validation", "test")


def single_task(accuracies: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Tabulate each task's own model, and the pre-trained one, on that task.

    Args:
        accuracies: Rows of every `single-{task}/accuracy.csv`.
        tasks: Task names in the order wanted.

    Returns:
        Columns model, seed, mode, task, split, accuracy (fraction). Mode `pretrained` is α = 0.

    Raises:
        ValueError: If a model, seed, mode, task and split has no accuracy or several.
    """
    models, seeds, modes = axes(accuracies)

    def at(alpha: float, modes: Sequence[str]) -> pd.DataFrame:
        grid = _grid(model=models, seed=seeds, mode=modes, task=tasks, split=SPLITS)
        wanted = grid.assign(edit="single-" + grid["task"], dataset=grid["task"], alpha=alpha)
        return grid.assign(accuracy=_accuracy(wanted, accuracies))

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
        normalized_accuracy (accuracy ÷ single-task test accuracy of the same mode).

    Raises:
        ValueError: If a selection, test accuracy or single-task accuracy is missing or repeated.
    """
    models, seeds, modes = axes(tests, selections)
    table = _grid(model=models, seed=seeds, mode=modes, task=tasks).assign(
        edit="addition", split="test"
    )
    table["alpha"] = _look_up(table, selections, ["model", "seed", "mode", "edit"], "alpha")
    table["accuracy"] = _accuracy(table.assign(dataset=table["task"]), tests)
    own = _look_up(table, singles, ["model", "seed", "mode", "task", "split"], "accuracy")
    table["normalized_accuracy"] = table["accuracy"] / own
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
        pretrained_target_accuracy, pretrained_control_accuracy (fractions, test split), feasible.
        Where no α is feasible, alpha and the accuracies of the edited model are missing.

    Raises:
        ValueError: If a selection or test accuracy is missing or repeated.
    """
    models, seeds, modes = axes(tests, selections)
    table = _grid(model=models, seed=seeds, mode=modes, task=tasks)
    wanted = table.assign(edit="negation-" + table["task"], split="test")
    found = partial(_look_up, wanted, selections, ["model", "seed", "mode", "edit"])
    wanted["alpha"] = table["alpha"] = found("alpha")
    target, bystander = wanted.assign(dataset=wanted["task"]), wanted.assign(dataset=control)
    return table.assign(
        target_accuracy=_accuracy(target, tests),
        control_accuracy=_accuracy(bystander, tests),
        pretrained_target_accuracy=_accuracy(target.assign(alpha=0.0), tests),
        pretrained_control_accuracy=_accuracy(bystander.assign(alpha=0.0), tests),
        feasible=found("feasible"),
    )


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


def _grid(**levels: Sequence) -> pd.DataFrame:
    return pd.MultiIndex.from_product(levels.values(), names=list(levels)).to_frame(index=False)


def _accuracy(wanted: pd.DataFrame, measured: pd.DataFrame) -> pd.Series:
    """Return the accuracy of each wanted row; missing where α is, which needs no measurement."""
    keys = ["model", "seed", "mode", "edit", "dataset", "split", "alpha"]
    # α has been through text and arithmetic: 0.15 and 0.15000000000000002 are one coefficient.
    wanted = wanted.dropna(subset="alpha").astype({"alpha": float}).round({"alpha": 9})
    measured = measured.astype({"alpha": float}).round({"alpha": 9})
    return _look_up(wanted, measured.dropna(subset="accuracy"), keys, "accuracy")


def _look_up(wanted: pd.DataFrame, rows: pd.DataFrame, keys: list[str], value: str) -> pd.Series:
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
