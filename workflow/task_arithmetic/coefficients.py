"""Coefficients: choosing the scaling coefficient α of an edit on validation splits.

The rules are those of Ortiz-Jimenez et al. 2023, section 2 and appendix B: addition maximizes the
mean normalized accuracy; negation minimizes the target's accuracy while the control keeps 95 % of
its pre-trained accuracy. The first, and so smallest, best α wins a tie.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

SELECTION_COLUMNS = ["model", "seed", "mode", "edit", "alpha", "feasible", "objective"]


@dataclass(frozen=True)
class Selection:
    """A chosen coefficient.

    Attributes:
        alpha: The chosen α; None if no α is feasible.
        objective: The value that it reaches: the mean (normalized) accuracy of a sum, the target
            accuracy of a negation; None if no α is feasible.
    """

    alpha: float | None
    objective: float | None

    @property
    def feasible(self) -> bool:
        """Whether some α met the constraint."""
        return self.alpha is not None


def select_addition(curve: pd.DataFrame, singles: pd.DataFrame) -> Selection:
    """Choose the α with the greatest mean normalized accuracy over the tasks.

    Args:
        curve: Validation rows of the addition edit (`dataset`, `alpha`, `accuracy`), every task at
            every α.
        singles: Validation rows of the fine-tuned models, same mode; the rows at α = 1 count.

    Returns:
        The selection; its objective is the mean normalized accuracy.

    Raises:
        ValueError: If a single-task accuracy is missing or zero: nothing can be divided by it.
    """
    fine_tuned = singles[(singles.split == "validation") & (singles.alpha == 1)]
    reference = fine_tuned.set_index("dataset").accuracy
    tasks = sorted(curve.dataset.unique())
    unusable = [task for task in tasks if not reference.get(task, 0) > 0]
    if unusable:
        raise ValueError(
            f"expected a positive single-task validation accuracy of {unusable}, found none"
        )
    return _highest(_by_alpha(curve).div(reference[tasks], axis="columns"))


def select_mean(curve: pd.DataFrame) -> Selection:
    """Choose the α with the greatest mean accuracy over datasets.

    Args:
        curve: Validation rows of an edit (`dataset`, `alpha`, `accuracy`), every dataset at every
            α.

    Returns:
        The selection; its objective is the mean accuracy.
    """
    return _highest(_by_alpha(curve))


def select_negation(curve: pd.DataFrame, target: str, control: str, threshold: float) -> Selection:
    """Choose the α with the least target accuracy among those that keep the control's.

    Args:
        curve: Validation rows of the negation edit (`dataset`, `alpha`, `accuracy`), with the
            target and the control at every α.
        target: The task to forget.
        control: The dataset whose accuracy must be kept.
        threshold: The share of the pre-trained control accuracy (α = 0) to keep, such as 0.95.

    Returns:
        The selection; its objective is the target accuracy. No feasible α is an outcome.
    """
    accuracies = _by_alpha(curve)
    feasible = accuracies[accuracies[control] >= threshold * accuracies.loc[0.0, control]]
    if feasible.empty:
        return Selection(None, None)
    best = feasible[target].idxmin()
    return Selection(float(best), float(feasible.loc[best, target]))


def _highest(by_alpha: pd.DataFrame) -> Selection:
    """Choose the α with the greatest mean over the columns."""
    means = by_alpha.mean(axis="columns")
    best = means.idxmax()  # the first maximum, in order of α
    return Selection(float(best), float(means[best]))


def _by_alpha(curve: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies with one row per α, ascending, and one column per dataset."""
    return curve.pivot(index="alpha", columns="dataset", values="accuracy").sort_index()
