"""The edited network θ0 + Σ α_t τ_t as a function of the coefficients, evaluated by passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from task_arithmetic.encoders import Encoder
from task_arithmetic.features import default_device, preprocessed
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
