"""Summaries of an experiment: few numbers and one set of curves, to compare commits by."""

from __future__ import annotations

from typing import Any

import pandas as pd

from task_arithmetic.tables import ordered_modes


def summarize(
    single: pd.DataFrame, addition: pd.DataFrame, negation: pd.DataFrame
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Average the papers' tables over tasks and seeds.

    Args:
        single: The table `single_task`; its test split counts.
        addition: The table `task_addition`.
        negation: The table `task_negation`; where no α is feasible, only `feasible` counts.

    Returns:
        Means by table, model, mode and column: fractions in [0, 1], and α.
    """
    columns = {
        "single_task": (single[single.split == "test"], ["accuracy"]),
        "task_addition": (addition, ["alpha", "accuracy", "normalized_accuracy"]),
        "task_negation": (
            negation,
            ["alpha", "target_accuracy", "control_accuracy", "feasible"],
        ),
    }
    return {name: _means(frame, wanted) for name, (frame, wanted) in columns.items()}


def mean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Average validation curves of the addition over tasks, seeds and models.

    Args:
        curves: Rows of curves (`mode`, `alpha`, `accuracy`), every task at every α.

    Returns:
        One row per α, ascending, with columns `alpha` and one per mode.
    """
    by_alpha = curves.pivot_table(index="alpha", columns="mode", values="accuracy")
    return by_alpha[ordered_modes(by_alpha.columns)].reset_index()


def _means(frame: pd.DataFrame, columns: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    means: dict[str, dict[str, dict[str, Any]]] = {}
    for (model, mode), rows in frame.groupby(["model", "mode"], sort=False):
        values = rows[columns].astype(float).mean().dropna().round(6)
        means.setdefault(model, {})[mode] = values.to_dict()
    return means
