"""Variants of a fine-tuning: what negation and addition are compared with.

Every variant runs the one loop of `finetune` with other settings. Gradient ascent and snapshots are
hung onto it from outside, by hooks, so that they share its protocol to the letter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from task_arithmetic.artifacts import digest, read_tensors, write_tensors
from task_arithmetic.encoders import Encoder
from task_arithmetic.finetune import FinetuneSettings, finetune
from task_arithmetic.loading import Images
from task_arithmetic.vectors import TaskVector

KIND = "task_vectors"


@dataclass(frozen=True)
class Variant:
    """How a fine-tuning differs from the ordinary one.

    Attributes:
        name: What to call its task vector.
        changes: Settings of the protocol that differ, such as the learning rate.
        ascend: Climb the loss instead of descending it.
        snapshots: Numbers of steps after which to keep a task vector as well.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    ascend: bool = False
    snapshots: Sequence[int] = ()


def train_variant(
    variant: Variant,
    encoder: Encoder,
    head: Tensor,
    images: Images | Tensor,
    labels: Tensor,
    settings: FinetuneSettings,
    resume_path: Path,
    fingerprint: str,
) -> dict[str, TaskVector]:
    """Fine-tune one variant from θ0.

    Args:
        variant: The variant.
        encoder: The pre-trained tower θ0; it stays as it is.
        head: The frozen classifier, `[classes, features]`.
        images: Training images, `[examples, height, width, 3]`.
        labels: Class indices, `[examples]`.
        settings: The ordinary protocol.
        resume_path: Where resumable states are kept.
        fingerprint: Identifies everything else that decides the result.

    Returns:
        The variant's task vector under its name, and one per snapshot under `NAME@STEPS`.
    """
    tower = copy.deepcopy(encoder.tower)
    pretrained = {name: value.detach().clone() for name, value in tower.named_parameters()}
    changed = replace(settings, **variant.changes)
    if variant.snapshots:
        # A resumed run would not take the snapshots that it had passed: it starts over instead.
        resume_path.unlink(missing_ok=True)
    climbing = ascending(tower) if variant.ascend else nullcontext()
    with climbing, snapshots(tower, variant.snapshots) as taken:
        final, _ = finetune(
            replace(encoder, tower=tower),
            head,
            images,
            labels,
            changed,
            resume_path,
            digest([fingerprint, variant.name, variant.ascend, dict(variant.changes)]),
            description=f"variant {variant.name}",
        )
    ends = {variant.name: final} | {f"{variant.name}@{step}": at for step, at in taken.items()}
    return {name: TaskVector.between(pretrained, theta) for name, theta in ends.items()}


def train_variants(
    trainings: Iterable[tuple[Variant, np.ndarray, Images, np.ndarray]],
    encoder: Encoder,
    settings: FinetuneSettings,
    output: Path,
    fingerprint: str,
) -> dict[str, TaskVector]:
    """Fine-tune several variants from θ0, one after another; each resumes by itself.

    Args:
        trainings: Each variant with its classifier `[classes, features]`, images and labels.
        encoder: The pre-trained tower θ0; it stays as it is.
        settings: The ordinary protocol.
        output: The file that the vectors are for; resumable states are kept beside it.
        fingerprint: Identifies everything else that decides the result.

    Returns:
        The task vectors by name, as `train_variant` names them.
    """
    made = {}
    for variant, head, images, labels in trainings:
        made |= train_variant(
            variant,
            encoder,
            torch.from_numpy(head),
            images,
            torch.from_numpy(labels),
            settings,
            resume_path(output, variant.name),
            fingerprint,
        )
    return made


def resume_path(output: Path, name: str) -> Path:
    """Return where the resumable state of a variant is kept, beside the file it is for."""
    return output.with_suffix(f".{name}.resume.safetensors")


@contextmanager
def ascending(tower: nn.Module) -> Iterator[None]:
    """Reverse the gradients of a tower's parameters, so that its optimizer climbs the loss.

    Args:
        tower: The network; its outputs stay as they are.

    Yields:
        Nothing.
    """
    hook = tower.register_forward_hook(lambda module, inputs, output: _Reversal.apply(output))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def snapshots(tower: nn.Module, steps: Sequence[int]) -> Iterator[dict[int, dict[str, Tensor]]]:
    """Copy a tower's parameters after given numbers of optimizer steps.

    Args:
        tower: The network that is trained.
        steps: After which steps, counted from one.

    Yields:
        Named parameters by step, filled while the block runs.
    """
    taken: dict[int, dict[str, Tensor]] = {}
    done = 0

    def after_step(*_: Any) -> None:
        nonlocal done
        done += 1
        if done in steps:
            parameters = tower.named_parameters()
            taken[done] = {name: value.detach().cpu().clone() for name, value in parameters}

    hook = register_optimizer_step_post_hook(after_step)
    try:
        yield taken
    finally:
        hook.remove()


def random_like(vector: TaskVector, seed: int) -> TaskVector:
    """Return a random vector whose every tensor has the norm of a task vector's.

    Args:
        vector: The task vector.
        seed: Decides the directions, which are uniform.

    Returns:
        The random vector (Ilharco et al. 2023, baseline of section 3).
    """
    generator = torch.Generator().manual_seed(seed)
    directions = {
        name: torch.randn(vector[name].shape, generator=generator, dtype=vector[name].dtype)
        for name in sorted(vector)
    }
    return TaskVector({
        name: direction * (vector[name].norm() / direction.norm())
        for name, direction in directions.items()
    })


def save_variants(
    path: Path, vectors: Mapping[str, TaskVector], metadata: Mapping[str, str]
) -> None:
    """Write several task vectors to one safetensors file."""
    tensors = {
        f"{name}/{parameter}": tensor
        for name, vector in vectors.items()
        for parameter, tensor in vector.items()
    }
    write_tensors(path, tensors, {**metadata, "kind": KIND})


def load_variant(path: Path, name: str) -> TaskVector:
    """Read one task vector of a file that `save_variants` wrote.

    Args:
        path: The file.
        name: The variant's name.

    Returns:
        The task vector.

    Raises:
        PipelineError: If the file is damaged or has no such variant.
    """
    return TaskVector(read_tensors(path, kind=KIND, prefix=f"{name}/")[0])


class _Reversal(torch.autograd.Function):
    """The identity, with the opposite gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient
