"""Edited models as functions of the coefficients: the network by passes, its tangents by sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from task_arithmetic.disentanglement import FirstOrder
from task_arithmetic.encoders import Encoder
from task_arithmetic.features import default_device, first_order_features, preprocessed
from task_arithmetic.loading import Images
from task_arithmetic.vectors import TaskVector


@dataclass(frozen=True)
class EditedNetwork:
    """The features f(x; θ0 + Σ α_t τ_t) of a dataset, by forward passes.

    Attributes:
        encoder: The pre-trained tower θ0, which every call leaves as it was.
        vectors: Task vectors τ_t by task.
        images: Images by dataset.
        batch_size: Images per forward pass.
    """

    encoder: Encoder
    vectors: Mapping[str, TaskVector]
    images: Mapping[str, Images | UInt8[np.ndarray, "examples height width 3"]]
    batch_size: int

    @torch.no_grad()
    def __call__(
        self, edit: Mapping[str, float], dataset: str
    ) -> Float[np.ndarray, "examples features"]:
        """Return the features of the edit, α by task, on a dataset's images."""
        device = default_device()
        tower = self.encoder.tower.to(device)
        theta = {name: tensor.detach() for name, tensor in tower.named_parameters()}
        for task, alpha in sorted(edit.items()):
            theta = self.vectors[task].apply_to(theta, alpha)
        inputs = preprocessed(self.encoder, self.images[dataset], self.batch_size, device)
        parts = [
            torch.func.functional_call(tower, theta, (batch,)).float().cpu() for batch in inputs
        ]
        return torch.cat(parts).numpy()


def first_order_models(
    encoder: Encoder,
    vectors: Mapping[str, Mapping[str, TaskVector]],
    images: Mapping[str, Images | UInt8[np.ndarray, "examples height width 3"]],
    batch_size: int,
) -> dict[str, FirstOrder]:
    """Evaluate first-order models of several modes at once: all share the primal passes.

    Args:
        encoder: The pre-trained tower θ0.
        vectors: Task vectors by mode and task; the modes have the same tasks.
        images: Images by dataset.
        batch_size: Images per pass.

    Returns:
        The first-order model of each mode; none without modes.
    """
    if not vectors:
        return {}
    every = [vector for by_task in vectors.values() for vector in by_task.values()]
    found = {
        name: first_order_features(encoder, every, of, batch_size) for name, of in images.items()
    }
    f0, models, first = {name: f0 for name, (f0, _) in found.items()}, {}, 0
    for mode, by_task in vectors.items():
        moved = {
            name: dict(zip(by_task, tangents[first : first + len(by_task)], strict=True))
            for name, (_, tangents) in found.items()
        }
        models[mode], first = FirstOrder(f0, moved), first + len(by_task)
    return models
