"""How much memory fine-tuning takes, computed without weights, images or a GPU.

A training step is run on fake tensors, which have shapes and types but no numbers; what autograd
would keep for the backward pass is added up. A linearized step keeps the activations of the
non-linear one (its tangents live for a layer at a time), and θ0 besides θ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from task_arithmetic.architectures import default_preprocess
from task_arithmetic.encoders import build_clip

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class MemoryBudget:
    """What a training step keeps in memory, in bytes.

    Attributes:
        parameters: θ, in float32.
        origin: θ0 besides θ, in linear mode.
        gradients: ∂L/∂θ.
        optimizer: AdamW's two moments.
        activations: What autograd keeps from the forward for the backward pass.
    """

    parameters: int
    origin: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum: an upper bound of tensors alive, as activations go while gradients come."""
        return sum(vars(self).values())


def finetuning_memory(
    architecture: Mapping[str, Any],
    batch_size: int,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    mode: Literal["nonlinear", "linear"] = "nonlinear",
) -> MemoryBudget:
    """Compute the memory of one step of fine-tuning an image tower.

    Args:
        architecture: An open_clip model configuration.
        batch_size: Images that are computed at once: the batch over `accumulation`.
        precision: Arithmetic of the passes; the parameters are in float32.
        mode: The fine-tuning mode.

    Returns:
        The budget.
    """
    size = default_preprocess(architecture)["size"]
    autocast = AUTOCAST[precision]
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FakeTensorMode():
        tower = build_clip(architecture).visual
        with (
            saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None),
        ):
            tower(torch.empty(batch_size, 3, size, size)).float().sum().backward()
        own = {parameter.untyped_storage()._cdata for parameter in tower.parameters()}
        parameters = sum(parameter.nbytes for parameter in tower.parameters())
        gradients = sum(parameter.grad.nbytes for parameter in tower.parameters())
        activations = sum(
            tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own
        )
    return MemoryBudget(
        parameters=parameters,
        origin=parameters if mode == "linear" else 0,
        gradients=gradients,
        optimizer=2 * parameters,
        activations=activations,
    )
