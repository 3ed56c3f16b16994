"""Sums over subsets of task vectors: which subsets, and all of them exactly in the tangent modes.

The logits of a tangent model are linear in the task vectors up to the positive factor 1/‖z‖, which
moves no argmax: W(f0 + Σ_t α_t Jτ_t) = Wf0 + Σ_t α_t WJτ_t. So each column is multiplied with the
head once, and every subset, every α and every combination of one α per task is a sum of small
arrays. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from task_arithmetic.coefficients import select_addition
from task_arithmetic.curves import Edit, curve_frame, curve_rows


@dataclass(frozen=True)
class TangentLogits:
    """What decides every tangent edit on one dataset split.

    Attributes:
        base: Wf0, up to a positive factor per example.
        moves: WJτ_t of each task vector, up to the same factors.
        labels: Class indices.
    """

    base: Float[np.ndarray, "examples classes"]
    moves: Float[np.ndarray, "tasks examples classes"]
    labels: Int[np.ndarray, " examples"]

    def correct(self, coefficients: Float[np.ndarray, " tasks"]) -> int:
        """Return how many answers of f0 + Σ_t α_t Jτ_t are right.

        Args:
            coefficients: α_t of each task vector.

        Returns:
            The number of examples with the largest logit at their label.
        """
        moved = np.tensordot(coefficients.astype(self.moves.dtype), self.moves, axes=1)
        return int(((self.base + moved).argmax(axis=1) == self.labels).sum())

    def along(
        self, direction: Float[np.ndarray, " tasks"], alphas: Sequence[float]
    ) -> Int[np.ndarray, " alphas"]:
        """Return the right answers of f0 + α·Σ_t w_t Jτ_t for every α.

        Args:
            direction: w_t of each task vector.
            alphas: Scaling coefficients.

        Returns:
            The counts.
        """
        moved = np.tensordot(direction.astype(self.moves.dtype), self.moves, axes=1)
        counts = [
            ((self.base + np.float32(alpha) * moved).argmax(axis=1) == self.labels).sum()
            for alpha in alphas
        ]
        return np.array(counts)


@dataclass(frozen=True)
class TangentSums:
    """All sums of the task vectors of one tangent mode, on every task.

    Attributes:
        model: The encoder's name.
        seed: The seed of the fine-tuned models.
        mode: `posthoc` or `linear`.
        validation: Validation logits by task; their moves are in the order of the keys.
        test: Test logits by task, likewise.
    """

    model: str
    seed: int
    mode: str
    validation: Mapping[str, TangentLogits]
    test: Mapping[str, TangentLogits]

    def subsets(self, alphas: Sequence[float], singles: pd.DataFrame) -> pd.DataFrame:
        """Measure the sum over every subset on every task, at the subset's own α.

        Args:
            alphas: The grid that α is chosen from, on the validation images of the subset's tasks.
            singles: Rows of the fine-tuned models, for normalization.

        Returns:
            Test rows with the columns `curves.CURVE_COLUMNS`; the edit is the tasks joined by `+`.
        """
        tasks, rows = list(self.test), []
        for subset in all_subsets(tasks):
            name, member = "+".join(subset), indicator(subset, tasks).astype(float)
            curve = self._frame(
                name,
                self.validation,
                {
                    task: dict(
                        zip(alphas, self.validation[task].along(member, alphas), strict=True)
                    )
                    for task in subset
                },
            )
            alpha = select_addition(curve, singles).alpha
            counts = {task: {alpha: of.correct(alpha * member)} for task, of in self.test.items()}
            rows.append(self._frame(name, self.test, counts))
        return pd.concat(rows, ignore_index=True)

    def per_task(
        self, start: float, grid: Sequence[float], sweeps: int, singles: pd.DataFrame
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Choose one α per task by coordinate search, and measure the sum on every task.

        Args:
            start: The tied α that the search starts from.
            grid: The values that a coefficient may take.
            sweeps: The most sweeps over the tasks.
            singles: Rows of the fine-tuned models, for normalization.

        Returns:
            Test rows of the edit `per_task`, whose α is missing; and the chosen coefficients, one
            row per task, with the tied one beside them.
        """
        own = singles[(singles.split == "validation") & (singles.alpha == 1)]
        best, _ = coordinate_search(
            self.validation,
            own.set_index("dataset").accuracy.to_dict(),
            np.full(len(self.validation), start),
            grid,
            sweeps,
        )
        counts = {task: {np.nan: of.correct(best)} for task, of in self.test.items()}
        coefficients = pd.DataFrame({
            "model": self.model,
            "seed": self.seed,
            "mode": self.mode,
            "task": list(self.validation),
            "alpha": best,
            "tied": start,
        })
        return self._frame("per_task", self.test, counts), coefficients

    def _frame(
        self,
        name: str,
        logits: Mapping[str, TangentLogits],
        correct: Mapping[str, Mapping[float, int]],
    ) -> pd.DataFrame:
        edit = Edit(self.model, self.seed, self.mode, name, {})
        split = "test" if logits is self.test else "validation"
        return curve_frame([
            row
            for task, counts in correct.items()
            for row in curve_rows(edit, task, split, len(logits[task].labels), counts)
        ])


def tangent_logits(
    f0: Float[np.ndarray, "examples features"],
    columns: Sequence[Float[np.ndarray, "examples features"]],
    labels: Int[np.ndarray, " examples"],
    head: Float[np.ndarray, "classes features"],
) -> TangentLogits:
    """Multiply stored features with a head.

    Args:
        f0: Features of the pre-trained network.
        columns: Jτ_t of each task vector.
        labels: Class indices.
        head: W.

    Returns:
        The logits of f0 and of each column.
    """
    return TangentLogits(f0 @ head.T, np.stack([column @ head.T for column in columns]), labels)


def ensemble_correct(
    features: Sequence[Float[np.ndarray, "examples features"]],
    labels: Int[np.ndarray, " examples"],
    head: Float[np.ndarray, "classes features"],
) -> int:
    """Count right answers of the ensemble of several models' outputs.

    Its logits are the means of theirs, with every model's features normalized first, as its own
    zero-shot logits are.

    Args:
        features: Image features of each model.
        labels: Class indices.
        head: W.

    Returns:
        How many examples have their largest mean logit at their label.
    """
    directions = sum(z / np.linalg.norm(z, axis=1, keepdims=True) for z in features)
    return int(((directions @ head.T).argmax(axis=1) == labels).sum())


def all_subsets(tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all 2^T − 1 non-empty subsets, smaller ones first."""
    sizes = range(1, len(tasks) + 1)
    return [subset for size in sizes for subset in combinations(tasks, size)]


def sampled_subsets(tasks: Sequence[str], samples: int, seed: int) -> list[tuple[str, ...]]:
    """Return at most some subsets of each size, drawn without replacement.

    Args:
        tasks: The tasks.
        samples: How many subsets of each size to draw; all, where there are no more.
        seed: Decides which.

    Returns:
        The subsets, smaller ones first, each in the order of the tasks.
    """
    draw, chosen = np.random.default_rng(seed), []
    for size in range(1, len(tasks) + 1):
        subsets = list(combinations(tasks, size))
        picked = draw.permutation(len(subsets))[:samples]
        chosen += [subsets[place] for place in sorted(picked)]
    return chosen


def indicator(subset: Sequence[str], tasks: Sequence[str]) -> Bool[np.ndarray, " tasks"]:
    """Return which of the tasks are in a subset."""
    return np.array([task in subset for task in tasks])


def coordinate_search(
    logits: Mapping[str, TangentLogits],
    reference: Mapping[str, float],
    start: Float[np.ndarray, " tasks"],
    grid: Sequence[float],
    sweeps: int,
) -> tuple[Float[np.ndarray, " tasks"], float]:
    """Search one α per task that maximizes mean normalized validation accuracy.

    One coordinate after the other takes its best value on the grid while the others stay, until a
    whole sweep changes none. The value never falls below that of the start; a tie changes nothing.

    Args:
        logits: Validation logits by task; the moves of each in the order of these keys.
        reference: The single-task validation accuracy of each task.
        start: The coefficients to start from, such as the best tied α for all.
        grid: The values that a coefficient may take.
        sweeps: The most sweeps.

    Returns:
        The coefficients, and the mean normalized accuracy that they reach.
    """

    def objective(coefficients: np.ndarray) -> float:
        shares = [
            of.correct(coefficients) / len(of.labels) / reference[task]
            for task, of in logits.items()
        ]
        return float(np.mean(shares))

    best, value = start.astype(float), objective(start)
    for _ in range(sweeps):
        before = best.copy()
        for place in range(len(best)):
            for alpha in grid:
                trial = best.copy()
                trial[place] = alpha
                reached = objective(trial)
                if reached > value:
                    best, value = trial, reached
        if (best == before).all():
            break
    return best, value
