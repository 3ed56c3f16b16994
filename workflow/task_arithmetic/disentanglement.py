"""Weight disentanglement: how far one task vector disturbs the function on another task's images.

A network is disentangled with respect to two task vectors (Ortiz-Jimenez et al. 2023, section 4) if
on the images of each task it does not notice the other's vector, whatever the coefficients. The
error ξ(α1, α2) of eq. 5 measures by how much it does. Features come from a function of edit and
dataset, so that the network and its first-order model are measured by the same code. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd

DISTANCES = ("prediction", "logit")
ERROR_COLUMNS = [
    "model", "seed", "mode", "first", "second", "alpha_first", "alpha_second", "distance",
    "error_first", "error_second", "error",
]  # fmt: skip

# Features `[examples, features]` of θ0 + Σ α_t τ_t, given α by task, on a dataset's images.
FeaturesOf = Callable[[Mapping[str, float], str], np.ndarray]
Pair = tuple[str, str]
Point = tuple[float, float]


@dataclass(frozen=True)
class FirstOrder:
    """The features f0 + Σ α_t Jτ_t of a dataset, from stored columns.

    Attributes:
        f0: Features of the pre-trained network by dataset, `[examples, features]`.
        columns: Jτ by dataset, then by task, `[examples, features]`.
    """

    f0: Mapping[str, np.ndarray]
    columns: Mapping[str, Mapping[str, np.ndarray]]

    def __call__(self, edit: Mapping[str, float], dataset: str) -> np.ndarray:
        """Return the features of the edit, α by task, on a dataset."""
        moved = (np.float32(alpha) * self.columns[dataset][t] for t, alpha in sorted(edit.items()))
        return sum(moved, start=self.f0[dataset])


def chosen_examples(total: int, count: int) -> np.ndarray:
    """Return the indices, ascending, of the examples that an analysis looks at.

    Args:
        total: How many examples there are; they may be sorted by class.
        count: How many to take at most.

    Returns:
        The same random choice every time.
    """
    return np.sort(np.random.default_rng(0).permutation(total)[:count])


def logits_of(features: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Return the logits W·z/‖z‖, `[examples, classes]`, of features z and a head W."""
    return features @ head.T / np.linalg.norm(features, axis=1, keepdims=True)


def distances(logits: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Measure how two functions differ on the same examples.

    Args:
        logits: Of the one, `[examples, classes]`.
        others: Of the other.

    Returns:
        The mean over examples of dist(y, y'): `prediction` is 1(ŷ ≠ ŷ'), the distance of
        Ortiz-Jimenez et al. 2023, section 4; `logit` is the standard deviation over the classes of
        y − y', so that a number added to all logits of an example, which changes no probability,
        counts nothing.
    """
    return {
        "prediction": float((logits.argmax(axis=1) != others.argmax(axis=1)).mean()),
        "logit": float((logits - others).std(axis=1).mean()),
    }


def evaluated_points(
    tasks: Sequence[str], pairs: Iterable[Pair], grid: Sequence[float], diagonal: Sequence[float]
) -> dict[Pair, list[Point]]:
    """List where ξ is measured: named pairs on a plane, and every pair along its diagonal.

    Args:
        tasks: The tasks.
        pairs: The pairs to measure on the plane.
        grid: α1, and α2, of the plane.
        diagonal: α1 = α2 along the diagonal.

    Returns:
        The points (α1, α2), ascending, by pair; pairs have the order of the tasks.
    """
    order = {task: position for position, task in enumerate(tasks)}
    named = {tuple(sorted(pair, key=order.__getitem__)) for pair in pairs}
    plane = {(first, second) for first in grid for second in grid}
    line = {(alpha, alpha) for alpha in diagonal}
    return {
        pair: sorted(line | plane if pair in named else line) for pair in combinations(tasks, 2)
    }


def disentanglement_errors(
    points: Mapping[Pair, Sequence[Point]],
    features: FeaturesOf,
    heads: Mapping[str, np.ndarray],
    advance: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """Compute the disentanglement error ξ of pairs of tasks (Ortiz-Jimenez et al. 2023, eq. 5).

    ξ(α1, α2) = Σ_t E_{x∼μ_t}[dist(f(x; θ0 + α_t τ_t), f(x; θ0 + α1 τ1 + α2 τ2))], t = 1, 2.

    Args:
        points: (α1, α2) by pair of tasks.
        features: The features of an edit on a task's images.
        heads: W by task, `[classes, features]`.
        advance: Called with 1 after every point.

    Returns:
        Columns first, second, alpha_first, alpha_second, distance (`prediction` or `logit`), the
        two summands error_first and error_second, and error, which is ξ: between 0 and 2 for
        predictions, in units of logits (100 × cosine) for logits.
    """

    @cache
    def alone(task: str, alpha: float) -> np.ndarray:
        return logits_of(features({task: alpha}, task), heads[task])

    def joint(edit: Mapping[str, float], task: str) -> np.ndarray:
        # Where only the task's own vector moves, nothing is left to compute.
        if all(alpha == 0 for other, alpha in edit.items() if other != task):
            return alone(task, edit[task])
        return logits_of(features(edit, task), heads[task])

    rows = []
    for pair, of_pair in points.items():
        for point in of_pair:
            edit = dict(zip(pair, point, strict=True))
            first, second = (distances(joint(edit, task), alone(task, edit[task])) for task in pair)
            rows += [
                (*pair, *point, name, first[name], second[name], first[name] + second[name])
                for name in DISTANCES
            ]
            advance(1)
    return pd.DataFrame(rows, columns=ERROR_COLUMNS[3:])
