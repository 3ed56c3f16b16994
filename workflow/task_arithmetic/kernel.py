"""The neural tangent kernel of an encoder's logits, and where its eigenfunctions live.

Linearized fine-tuning on a task moves its function within the span of k(·, x_i), x_i the training
images (Ortiz-Jimenez et al. 2023, section 6). If the eigenfunctions that it uses vanish on another
task's images, the task vector does nothing there: localized eigenfunctions disentangle weights.

The kernel is exact. Jacobians come from vector-Jacobian products, a block of images and classes at
a time, and are contracted with those of another block; two blocks are in memory at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

LOCALIZATION_COLUMNS = [
    "model", "start", "task", "other", "rank", "eigenvalue", "share", "energy_own", "energy_other",
]  # fmt: skip


@dataclass(frozen=True)
class Eigenfunctions:
    """Leading eigenfunctions of a kernel on the images of one task.

    Attributes:
        values: Eigenvalues λ_ρ of K/n, descending.
        vectors: Orthonormal eigenvectors u_ρ of K, `[images, eigenfunctions]`.
        trace: The sum of all eigenvalues of K/n.
    """

    values: Float[np.ndarray, " eigenfunctions"]
    vectors: Float[np.ndarray, "images eigenfunctions"]
    trace: float

    def at(
        self, kernel: Float[np.ndarray, "others images"]
    ) -> Float[np.ndarray, "others eigenfunctions"]:
        """Evaluate the eigenfunctions at other images (Nyström's extension).

        Args:
            kernel: k(x, x_i) of the other images x with the task's own x_i.

        Returns:
            φ_ρ(x) = Σ_i k(x, x_i) u_ρi / (√n λ_ρ), of which the task's own images have the mean
            square 1.
        """
        return kernel @ self.vectors / (np.sqrt(len(self.vectors)) * self.values)


def eigenfunctions(kernel: Float[np.ndarray, "images images"], share: float) -> Eigenfunctions:
    """Diagonalize a kernel matrix and keep what explains most of it.

    Args:
        kernel: K, symmetric and positive semi-definite.
        share: Keep the fewest leading eigenfunctions whose eigenvalues sum to this share of the
            trace.

    Returns:
        The eigenfunctions.
    """
    values, vectors = np.linalg.eigh(kernel.astype(np.float64) / len(kernel))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = 1 + int(np.searchsorted(np.cumsum(values), share * values.sum()))
    return Eigenfunctions(values[:kept], vectors[:, :kept], float(values.sum()))


def localization(
    own: Float[np.ndarray, "images images"],
    unseen: Float[np.ndarray, "others images"],
    other: Float[np.ndarray, "others images"],
    share: float,
) -> pd.DataFrame:
    """Measure where the eigenfunctions of a task's kernel have their energy.

    The local energy of an eigenfunction on a domain D is E_{x∼D}[φ_ρ(x)²] (Ortiz-Jimenez et al.
    2023, section 6). On the images that the kernel was diagonalized on it is 1 by
    definition, so the task's own domain is represented by images that it has not seen.

    Args:
        own: K between a task's images.
        unseen: K between other images of that task and those.
        other: K between images of another task and those.
        share: The share of the trace that the eigenfunctions explain.

    Returns:
        Columns rank (from 1), eigenvalue, share (of the trace), energy_own and energy_other.
    """
    found = eigenfunctions(own, share)
    return pd.DataFrame({
        "rank": np.arange(1, len(found.values) + 1),
        "eigenvalue": found.values,
        "share": found.values / found.trace,
        "energy_own": (found.at(unseen) ** 2).mean(axis=0),
        "energy_other": (found.at(other) ** 2).mean(axis=0),
    })


def tangent_kernel(
    tower: nn.Module,
    head: Float[Tensor, "classes features"],
    left: Float[Tensor, "rows ..."],
    right: Float[Tensor, "columns ..."],
    memory: int,
    advance: Callable[[int], None] = lambda pairs: None,
) -> Float[np.ndarray, "rows columns"]:
    """Compute the kernel k(x, x') = tr[J(x) J(x')ᵀ] / C of the logits W·z/‖z‖ at θ0.

    J = ∂logits/∂θ is the Jacobian in the trainable parameters of the tower; C counts the classes.

    Args:
        tower: The image tower at θ0.
        head: W.
        left: Preprocessed images x.
        right: Preprocessed images x'.
        memory: Bytes that the Jacobians of two blocks may take; at least one class of one image is
            always computed at a time.
        advance: Called with the number of finished entries of K.

    Returns:
        K, in float32 if the tower is.
    """
    theta = {n: p.detach() for n, p in tower.named_parameters() if p.requires_grad}
    rows = memory // sum(p.numel() * p.element_size() for p in theta.values())
    # Every block on the left costs a pass over all images on the right, so it is the larger one.
    classes = max(1, min(rows // 2, len(head)))
    many, few = (max(1, share // classes) for share in (rows * 3 // 4, rows // 4))
    kernel = torch.zeros(len(left), len(right), dtype=head.dtype, device=head.device)
    # A part of the classes at a time: the trace is a sum over them.
    for directions in torch.eye(len(head), dtype=head.dtype, device=head.device).split(classes):
        for top, block in _blocks(left, many):
            jacobian = _jacobian(tower, theta, head, block, directions)
            for first, other in _blocks(right, few):
                columns = _jacobian(tower, theta, head, other, directions)
                kernel[top : top + len(block), first : first + len(other)] += sum(
                    jacobian[name].flatten(1) @ columns[name].flatten(1).T for name in theta
                )
                advance(len(block) * len(other))
    return (kernel / len(head)).cpu().numpy()


def _blocks(images: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(images), size):
        yield start, images[start : start + size]


def _jacobian(
    tower: nn.Module, theta: dict[str, Tensor], head: Tensor, images: Tensor, directions: Tensor
) -> dict[str, Tensor]:
    """Return eᵀJ(x) for each image x and direction e, by parameter: `[images, directions, …]`."""

    def pull_back(image: Tensor) -> dict[str, Tensor]:
        def logits(theta: dict[str, Tensor]) -> Tensor:
            z = functional_call(tower, theta, (image[None],))
            return (F.normalize(z, dim=-1) @ head.T)[0]

        _, pull = vjp(logits, theta)
        return vmap(pull)(directions)[0]

    # Fused attention cannot be mapped over images.
    with sdpa_kernel(SDPBackend.MATH):
        return vmap(pull_back)(images)
