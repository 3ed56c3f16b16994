"""The whole experiment on one function of edit and dataset: singles, addition and negations.

What the pipeline spreads over many jobs, done at once for a small set of tasks: the same curves,
rules of selection and tables, whether features come from the network or from its first-order model.
No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from task_arithmetic import tables
from task_arithmetic.coefficients import (
    SELECTION_COLUMNS,
    Selection,
    select_addition,
    select_negation,
)
from task_arithmetic.curves import Edit, count_correct, curve_frame, curve_rows
from task_arithmetic.disentanglement import FeaturesOf

RESULT_COLUMNS = [
    "model", "seed", "mode", "task", "start_accuracy", "single_accuracy", "addition_alpha",
    "addition_accuracy", "addition_normalized", "negation_alpha", "target_accuracy",
    "control_accuracy", "start_control_accuracy",
]  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A function to experiment on.

    Attributes:
        model: The encoder's name.
        seed: The seed of the fine-tuned models.
        mode: `nonlinear`, `posthoc` or `linear`.
        features: By split, the features of an edit on a dataset.
        labels: Class indices by split, then by dataset.
        heads: W by dataset, `[classes, features]`.
    """

    model: str
    seed: int
    mode: str
    features: Mapping[str, FeaturesOf]
    labels: Mapping[str, Mapping[str, np.ndarray]]
    heads: Mapping[str, np.ndarray]

    def accuracies(
        self, edit: Edit, datasets: Iterable[str], split: str, alphas: Iterable[float]
    ) -> pd.DataFrame:
        """Measure an edit.

        Args:
            edit: The edit.
            datasets: The datasets to evaluate it on.
            split: Their split.
            alphas: Scaling coefficients.

        Returns:
            The rows of its curve.
        """
        rows, alphas = [], list(alphas)
        for dataset in datasets:
            labels = self.labels[split][dataset]
            correct = {}
            for alpha in alphas:
                scaled = {task: alpha * weight for task, weight in edit.weights.items()}
                features = self.features[split](scaled, dataset)
                correct[alpha] = count_correct(features, labels, self.heads[dataset])
            rows += curve_rows(edit, dataset, split, len(labels), correct)
        return curve_frame(rows)


def run_experiment(
    subject: Subject,
    tasks: Sequence[str],
    alphas: Sequence[float],
    control: str | None,
    control_threshold: float,
) -> pd.DataFrame:
    """Add all task vectors, and negate each, with α selected on validation images.

    Args:
        subject: The function, with images of all tasks and of the control.
        tasks: The tasks.
        alphas: The grid of α, with 0.
        control: The dataset whose accuracy a negation must keep; None for no negations.
        control_threshold: The share of it to keep.

    Returns:
        One row per task, fractions of the test split: model, seed, mode, task, start_accuracy (of
        θ0), single_accuracy, addition_alpha, addition_accuracy, addition_normalized; and, missing
        without a control or a feasible α, negation_alpha, target_accuracy, control_accuracy and
        start_control_accuracy.
    """
    identity = subject.model, subject.seed, subject.mode
    singles = pd.concat([
        subject.accuracies(Edit(*identity, f"single-{task}", {task: 1}), [task], split, [0.0, 1.0])
        for task in tasks
        for split in tables.SPLITS
    ])
    single = tables.single_task(singles, tasks)

    def edited(edit: Edit, datasets: Sequence[str], select) -> tuple[pd.DataFrame, pd.DataFrame]:
        chosen: Selection = select(subject.accuracies(edit, datasets, "validation", alphas))
        tested = sorted({0.0} if chosen.alpha is None else {0.0, chosen.alpha})
        row = [*identity, edit.name, chosen.alpha, chosen.feasible, chosen.objective]
        return (
            subject.accuracies(edit, datasets, "test", tested),
            pd.DataFrame([row], columns=SELECTION_COLUMNS),
        )

    summed = Edit(*identity, "addition", dict.fromkeys(tasks, 1))
    tests, chosen = edited(summed, tasks, lambda curve: select_addition(curve, singles))
    added = tables.task_addition(tests, chosen, single, tasks).rename(
        columns={
            "alpha": "addition_alpha",
            "accuracy": "addition_accuracy",
            "normalized_accuracy": "addition_normalized",
        }
    )
    test = single[single["split"] == "test"].pivot(index="task", columns="mode", values="accuracy")
    added["start_accuracy"] = added["task"].map(test["pretrained"])
    added["single_accuracy"] = added["task"].map(test[subject.mode])
    negated = pd.DataFrame({"task": tasks})
    if control is not None:
        outcomes = [
            edited(
                Edit(*identity, f"negation-{task}", {task: -1}),
                [task, control],
                lambda curve, task=task: select_negation(curve, task, control, control_threshold),
            )
            for task in tasks
        ]
        tests, chosen = (pd.concat(parts) for parts in zip(*outcomes, strict=True))
        negated = tables.task_negation(tests, chosen, tasks, control).rename(
            columns={
                "alpha": "negation_alpha",
                "pretrained_control_accuracy": "start_control_accuracy",
            }
        )
    return added.merge(negated, on="task", suffixes=("", "_again")).reindex(columns=RESULT_COLUMNS)
