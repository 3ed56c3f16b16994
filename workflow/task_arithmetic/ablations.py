"""Ablations: how addition depends on learning rate, training length and seed.

A run is one fine-tuning of every task. All runs are measured alike: the sum of their vectors at its
own α, normalized by the ordinary single-task models, so that runs compare. The questions are those
of Ilharco et al. 2023, section 6: learning rates and intermediate task vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from task_arithmetic.coefficients import select_addition
from task_arithmetic.measuring import Bench, Examples
from task_arithmetic.vectors import TaskVector

RUN_COLUMNS = [
    "model", "seed", "mode", "run", "task", "alpha", "total", "accuracy", "single_accuracy",
    "cosine", "other_cosine",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A task vector of each task.

    Attributes:
        name: What the run is.
        vectors: Task vectors by task.
        reference: The vectors that its own are compared with, by task.
    """

    name: str
    vectors: Mapping[str, TaskVector]
    reference: Mapping[str, TaskVector]


def interchanged(
    first: Mapping[str, TaskVector], second: Mapping[str, TaskVector]
) -> dict[str, TaskVector]:
    """Take the vectors of every other task from another run.

    Args:
        first: Task vectors by task.
        second: Those of another run.

    Returns:
        The first task's vector from `first`, the second one's from `second`, and so on.
    """
    return {
        task: (second if place % 2 else first)[task] for place, task in enumerate(sorted(first))
    }


def measure_run(
    bench: Bench,
    run: Run,
    alphas: Sequence[float],
    singles: pd.DataFrame,
    validation: Sequence[Examples],
    test: Sequence[Examples],
) -> pd.DataFrame:
    """Measure one run: its single-task models, their sum, and its vectors' angles.

    Args:
        bench: The encoder and the mode.
        run: The run.
        alphas: The grid of α for the sum.
        singles: Rows of the ordinary fine-tuned models, for normalization.
        validation: Validation images of the tasks.
        test: Their test images, in the same order.

    Returns:
        One row per task with `RUN_COLUMNS`: test accuracy of the sum and of the run's own
        single-task model; the cosine with the reference's vector of the task, and the mean cosine
        with its vectors of the other tasks.
    """
    total = {run.name: TaskVector.sum(run.vectors[task] for task in sorted(run.vectors))}
    curve = bench.measure(total, {run.name: alphas}, validation)
    alpha = select_addition(curve, singles).alpha
    sums = bench.measure(total, {run.name: [alpha]}, test).set_index("dataset")
    rows = []
    for of in test:
        task, one = of.dataset, {"single": run.vectors[of.dataset]}
        (own,) = bench.measure(one, {"single": [1.0]}, [of]).accuracy
        angles = {
            other: float(run.vectors[task].cosine(vector))
            for other, vector in run.reference.items()
        }
        others = [cosine for other, cosine in angles.items() if other != task]
        rows.append([
            bench.encoder.model, bench.seed, bench.mode, run.name, task, alpha,
            sums.total[task], sums.accuracy[task], own, angles[task], np.mean(others),
        ])  # fmt: skip
    return pd.DataFrame(rows, columns=RUN_COLUMNS)
