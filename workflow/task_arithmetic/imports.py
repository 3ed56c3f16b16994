"""Imported checkpoints: towers that others fine-tuned, under our names, checked against θ0.

Three families are known besides files with open_clip's own names: pickled encoders of the papers'
repositories (a prefix before the names), their linearized ones (numbered lists of θ0 and θ), and
vision towers of transformers (other names, and queries, keys and values apart).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.foreign import below_prefix, read_foreign
from task_arithmetic.transformers_names import is_transformers, vision_tower

logger = logging.getLogger(__name__)
# The linearized encoders of Ortiz-Jimenez et al. 2023 number θ0 and θ as `params0.3`, `params.3`.
NUMBERED = re.compile(r"(?:^|.*\.)(params0?)\.(\d+)$")


def import_checkpoint(path: Path | str, tower: nn.Module, mode: str) -> dict[str, Tensor]:
    """Read a fine-tuned tower of another project.

    Args:
        path: Anything that `read_foreign` reads.
        tower: The pre-trained image tower θ0 that the checkpoint was fine-tuned from.
        mode: `nonlinear` or `linear`: how it was fine-tuned.

    Returns:
        The fine-tuned parameters θt in float32, by the tower's names.

    Raises:
        PipelineError: If the file cannot be read safely, or names, shapes or values show that it is
            no fine-tuning of this tower in this mode; the message names the tensors.
    """
    if mode not in {"nonlinear", "linear"}:
        raise PipelineError(f"{path}: expected the mode nonlinear or linear, found '{mode}'")
    tensors = read_foreign(path)
    pretrained = {name: value.detach() for name, value in tower.named_parameters()}
    buffers = {name for name, _ in tower.named_buffers()}
    if any(NUMBERED.match(name) for name in tensors):
        if mode != "linear":
            raise PipelineError(
                f"{path}: a linearized checkpoint (it has params0); expected one of mode {mode}"
            )
        found = _from_numbered(tensors, pretrained, path)
    elif is_transformers(tensors):
        found = vision_tower(tensors)
        # Vision towers are published without the projection when it was not fine-tuned.
        found.setdefault("proj", pretrained["proj"])
    else:
        found = below_prefix(tensors, list(pretrained))
        found = {name: tensor for name, tensor in found.items() if name not in buffers}
    _check_names(found, pretrained, path)
    finetuned = {name: found[name].float() for name in pretrained}
    _check_values(finetuned, pretrained, path)
    return finetuned


def _from_numbered(
    tensors: Mapping[str, Tensor], pretrained: Mapping[str, Tensor], path: Path | str
) -> dict[str, Tensor]:
    """Name the numbered tensors: the one whose θ0 is ours is ours."""
    numbered: dict[str, dict[str, Tensor]] = {"params0": {}, "params": {}}
    for name, tensor in tensors.items():
        if found := NUMBERED.match(name):
            numbered[found[1]][found[2]] = tensor
    origin, current = numbered["params0"], numbered["params"]
    if set(origin) != set(current):
        only = sorted(set(origin) ^ set(current), key=int)
        raise PipelineError(f"{path}: expected params0 and params in pairs, found {only} once")
    named = {}
    for name, value in pretrained.items():
        same = [number for number, tensor in origin.items() if _equal(tensor, value)]
        if len(same) != 1:
            found = f"several (params0.{', params0.'.join(same)})" if same else "none"
            raise PipelineError(
                f"{path}: expected one tensor in params0 equal to the encoder's {name} "
                f"{list(value.shape)}, found {found}; import with the encoder it started from"
            )
        named[name] = current[same[0]]
    return named


def _equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding in half precision."""
    if a.shape != b.shape:
        return False
    # Most are told apart by their first numbers.
    first, other = a.flatten()[:64].float(), b.flatten()[:64].float()
    close = {"rtol": 1e-3, "atol": 1e-6}
    return torch.allclose(first, other, **close) and torch.allclose(a.float(), b.float(), **close)


def _check_names(
    found: Mapping[str, Tensor], pretrained: Mapping[str, Tensor], path: Path | str
) -> None:
    problems = [
        f"{what} {', '.join(f'{name} {list(of[name].shape)}' for name in names)}"
        for what, names, of in (
            ("missing", sorted(set(pretrained) - set(found)), pretrained),
            ("unknown", sorted(set(found) - set(pretrained)), found),
        )
        if names
    ]
    problems += [
        f"{name}: expected shape {list(pretrained[name].shape)}, found {list(tensor.shape)}"
        for name, tensor in found.items()
        if name in pretrained and tensor.shape != pretrained[name].shape
    ]
    if problems:
        raise PipelineError(
            f"{path}: expected the {len(pretrained)} tensors of the encoder's image tower; "
            + "; ".join(problems)
        )


def _check_values(
    finetuned: Mapping[str, Tensor], pretrained: Mapping[str, Tensor], path: Path | str
) -> None:
    """Refuse what cannot be a fine-tuning of θ0: NaN, θ0 itself, or weights of another model."""
    broken = [name for name, tensor in finetuned.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise PipelineError(f"{path}: expected finite weights, found NaN or infinity in {broken}")
    moved = sum(float((finetuned[name] - pretrained[name]).square().sum()) for name in pretrained)
    size = sum(float(tensor.square().sum()) for tensor in pretrained.values())
    if moved == 0:
        raise PipelineError(f"{path}: expected fine-tuned weights, found those of the encoder")
    distance = (moved / size) ** 0.5
    logger.info("%s: distance from the encoder %.3g of its norm", path, distance)
    # Fine-tuning moves CLIP by some hundredths of its norm; other models are more than 1 away.
    if distance > 0.5:
        raise PipelineError(
            f"{path}: expected weights near the encoder's, found them {distance:.2f} of its norm "
            "away; import with the encoder they were fine-tuned from"
        )
