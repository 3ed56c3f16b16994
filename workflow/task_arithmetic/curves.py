"""Curves: accuracies of an edit as a function of α, the waist of the pipeline.

Left of a curve are models, right of it are tables of numbers. An edit is a signed sum of task
vectors Σ w_t τ_t scaled by one α. In the tangent modes its features are f0 + α·Σ w_t Jτ_t, so every
α costs a matrix sum, and no network is run. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

CURVE_COLUMNS = [
    "model", "seed", "mode", "edit", "dataset", "split", "alpha", "correct", "total", "accuracy",
]  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """A signed sum of task vectors, evaluated on some datasets.

    Attributes:
        model: The encoder's name.
        seed: The seed of the fine-tuned models.
        mode: `nonlinear`, `posthoc` or `linear`.
        name: The edit's name, such as `addition` or `negation-digits`.
        weights: The weight w_t of each task vector, by task.
    """

    model: str
    seed: int
    mode: str
    name: str
    weights: Mapping[str, int]


def count_correct(features: np.ndarray, labels: np.ndarray, head: np.ndarray) -> int:
    """Count the examples that a zero-shot head classifies right.

    Args:
        features: Image features z, `[examples, features]`; their norm does not matter, as dividing
            all logits of an example by ‖z‖ changes none of their order.
        labels: Class indices, `[examples]`.
        head: W, `[classes, features]`.

    Returns:
        How many examples have their largest logit at their label.
    """
    return int(((features @ head.T).argmax(axis=1) == labels).sum())


def tangent_correct(
    alphas: Iterable[float],
    f0: np.ndarray,
    columns: Mapping[str, np.ndarray],
    weights: Mapping[str, int],
    labels: np.ndarray,
    head: np.ndarray,
) -> list[int]:
    """Count right answers of the first-order model f0 + α·Σ w_t Jτ_t for every α.

    Args:
        alphas: Scaling coefficients.
        f0: Features of the pre-trained network, `[examples, features]`.
        columns: Jτ_t by task, `[examples, features]`.
        weights: w_t by task.
        labels: Class indices, `[examples]`.
        head: W, `[classes, features]`.

    Returns:
        The counts, one per α.
    """
    direction = sum(weight * columns[task] for task, weight in sorted(weights.items()))
    return [count_correct(f0 + np.float32(alpha) * direction, labels, head) for alpha in alphas]


def curve_rows(
    edit: Edit, dataset: str, split: str, total: int, correct: Mapping[float, int]
) -> list[dict[str, object]]:
    """Return the rows of a curve for one dataset split.

    Args:
        edit: The edit.
        dataset: The dataset evaluated on.
        split: Its split.
        total: How many examples it has.
        correct: Right answers by α.

    Returns:
        One row per α with the columns `CURVE_COLUMNS`.
    """
    return [
        {
            "model": edit.model,
            "seed": edit.seed,
            "mode": edit.mode,
            "edit": edit.name,
            "dataset": dataset,
            "split": split,
            "alpha": alpha,
            "correct": count,
            "total": total,
            "accuracy": count / total,
        }
        for alpha, count in correct.items()
    ]


def curve_frame(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Return the rows of a curve as a table."""
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)
