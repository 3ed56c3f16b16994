"""Measuring: right answers of edited models, for several task vectors in one process.

The same call serves every mode: a non-linear edit runs the network at θ0 + α·τ for each α; a
tangent one runs it once, for f0 and Jτ of all vectors, and is then linear in α.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8

from task_arithmetic.curves import Edit, count_correct, curve_frame, curve_rows, tangent_correct
from task_arithmetic.encoders import Encoder
from task_arithmetic.features import edited_features, first_order_features
from task_arithmetic.loading import Images
from task_arithmetic.subsets import ensemble_correct
from task_arithmetic.vectors import TaskVector


@dataclass(frozen=True)
class Examples:
    """A dataset split with the head that classifies it.

    Attributes:
        dataset: The dataset's name.
        split: Its split.
        images: The images, decoded or to be decoded.
        labels: Class indices.
        head: W of the zero-shot head.
    """

    dataset: str
    split: str
    images: Images | UInt8[np.ndarray, "examples height width 3"]
    labels: Int[np.ndarray, " examples"]
    head: Float[np.ndarray, "classes features"]


@dataclass(frozen=True)
class Bench:
    """Where edits are measured: the encoder, and whose they are.

    Attributes:
        encoder: The pre-trained tower θ0.
        seed: The seed of the fine-tuned models.
        mode: `nonlinear`, or a tangent mode.
        batch_size: Images per pass.
    """

    encoder: Encoder
    seed: int
    mode: str
    batch_size: int

    def measure(
        self,
        vectors: Mapping[str, TaskVector],
        alphas: Mapping[str, Sequence[float]],
        examples: Sequence[Examples],
    ) -> pd.DataFrame:
        """Measure the accuracies of edits over α.

        Args:
            vectors: The vector that each edit moves along, by the edit's name.
            alphas: The coefficients of each edit.
            examples: The dataset splits to measure all of them on.

        Returns:
            Rows with the columns `curves.CURVE_COLUMNS`.
        """
        counts = self._nonlinear if self.mode == "nonlinear" else self._tangent
        correct = counts(vectors, alphas, examples)
        rows = []
        for name in vectors:
            edit = Edit(self.encoder.model, self.seed, self.mode, name, {})
            for place, of in enumerate(examples):
                total = len(of.labels)
                rows += curve_rows(edit, of.dataset, of.split, total, correct[name, place])
        return curve_frame(rows)

    def measure_ensemble(
        self, vectors: Mapping[str, TaskVector], examples: Sequence[Examples]
    ) -> pd.DataFrame:
        """Measure the ensemble of the outputs of all non-linear single-task models θ0 + τ_t.

        Args:
            vectors: The task vectors.
            examples: The dataset splits to measure it on.

        Returns:
            Rows of the edit `ensemble` with the columns `curves.CURVE_COLUMNS`; α is missing.
        """
        images = [of.images for of in examples]
        outputs = [
            features
            for task, vector in vectors.items()
            for _, features in edited_features(
                self.encoder, vector, [1.0], images, self.batch_size, f"model of {task}"
            )
        ]
        edit = Edit(self.encoder.model, self.seed, self.mode, "ensemble", {})
        rows = []
        for of, models in zip(examples, zip(*outputs, strict=True), strict=True):
            correct = {np.nan: ensemble_correct(models, of.labels, of.head)}
            rows += curve_rows(edit, of.dataset, of.split, len(of.labels), correct)
        return curve_frame(rows)

    def _nonlinear(
        self,
        vectors: Mapping[str, TaskVector],
        alphas: Mapping[str, Sequence[float]],
        examples: Sequence[Examples],
    ) -> dict[tuple[str, int], dict[float, int]]:
        images = [of.images for of in examples]
        correct = {(name, place): {} for name in vectors for place in range(len(examples))}
        for name, vector in vectors.items():
            for alpha, features in edited_features(
                self.encoder, vector, alphas[name], images, self.batch_size, name
            ):
                for place, (of, values) in enumerate(zip(examples, features, strict=True)):
                    correct[name, place][alpha] = count_correct(values, of.labels, of.head)
        return correct

    def _tangent(
        self,
        vectors: Mapping[str, TaskVector],
        alphas: Mapping[str, Sequence[float]],
        examples: Sequence[Examples],
    ) -> dict[tuple[str, int], dict[float, int]]:
        correct = {}
        for place, of in enumerate(examples):
            title = f"tangents on {of.dataset} ({of.split})"
            f0, tangents = first_order_features(
                self.encoder, [*vectors.values()], of.images, self.batch_size, title
            )
            for name, values in zip(vectors, tangents, strict=True):
                counts = tangent_correct(
                    alphas[name], f0, {name: values}, {name: 1}, of.labels, of.head
                )
                correct[name, place] = dict(zip(alphas[name], counts, strict=True))
        return correct
