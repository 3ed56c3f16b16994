"""The neural tangent kernel of an encoder's logits, and where its eigenfunctions live.

Linearized fine-tuning on a task moves its function within the span of k(·, x_i), x_i the training
images (Ortiz-Jimenez et al. 2023, section 6). If the eigenfunctions that it uses vanish on another
task's images, the task vector does nothing there: localized eigenfunctions disentangle weights.

The kernel is exact. Jacobians come from vector-Jacobian products, a few images and classes at a
time, and are contracted with a block of others that is kept. How many fit into memory is found by
counting what is allocated on the way, activations, cotangents and copies among it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, vjp, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
        memory: Bytes that all tensors made here may take at any time, K among them; a test
            compares them with torch's profile of its allocations. At least one class of one image
            is computed, and one kept, at a time, even if they need more.
        advance: Called with the number of finished entries of K.

    Returns:
        K, in float32 if the tower is.
    """
    theta = {n: p.detach() for n, p in tower.named_parameters() if p.requires_grad}
    kernel = torch.zeros(len(left), len(right), dtype=head.dtype, device=head.device)
    identity = torch.eye(len(head), dtype=head.dtype, device=head.device)
    # K, and the sum and the next summand of the block that is added to it.
    memory -= 3 * kernel.nbytes + identity.nbytes
    classes, few, many = _block_sizes(tower, theta, head, right, identity, memory)
    kept = {
        name: p.new_empty(min(many, len(left)), classes * p.numel()) for name, p in theta.items()
    }
    # A part of the classes at a time: the trace is a sum over them.
    for directions in identity.split(classes):
        for top, block in _blocks(left, many):
            for first, images in _blocks(block, few):
                found = _jacobian(tower, theta, head, images, directions)
                for name, rows in found.items():
                    kept[name][first : first + len(rows), : rows.shape[1]] = rows
                del found, rows
            for first, images in _blocks(right, few):
                columns = _jacobian(tower, theta, head, images, directions)
                kernel[top : top + len(block), first : first + len(images)] += sum(
                    kept[name][: len(block), : rows.shape[1]] @ rows.T
                    for name, rows in columns.items()
                )
                # The next one must not be made while this one is still there.
                del columns
                advance(len(block) * len(images))
    return kernel.div_(len(head)).cpu().numpy()


def _block_sizes(
    tower: nn.Module,
    theta: dict[str, Tensor],
    head: Tensor,
    images: Tensor,
    identity: Tensor,
    memory: int,
) -> tuple[int, int, int]:
    """Return how many classes and images are computed at a time, and of how many images are kept.

    What a computation allocates is found on fake tensors, which have shapes but no numbers.
    """

    def allocated(count: int, classes: int) -> int:
        with FakeTensorMode(allow_non_fake_inputs=True):
            fakes = {name: torch.empty_like(p) for name, p in theta.items()}
            batch = torch.empty(count, *images.shape[1:], dtype=images.dtype, device=images.device)
            directions = torch.empty_like(identity[:classes])
            with AllocationCount() as made:
                _jacobian(tower, fakes, torch.empty_like(head), batch, directions)
        return made.peak

    # A kept image saves a pass over all images on the right: it gets the larger share.
    share, row = memory // 4, sum(p.nbytes for p in theta.values())
    most = max(1, min((memory - share) // row, len(head)))
    fitting = _largest(most, lambda classes: allocated(1, classes), share)
    # 9 + 1 classes would cost as many passes as 5 + 5.
    classes = ceil(len(head) / ceil(len(head) / fitting))
    few = _largest(len(images), lambda count: allocated(count, classes), share)
    rest = memory - allocated(few, classes)
    return classes, few, max(1, rest // (classes * row))


def _largest(count: int, needed: Callable[[int], int], memory: int) -> int:
    """Return a count, at most the given one, whose need fits into memory; or 1, if none does."""
    # Needs are almost proportional to counts, so a step or two will do.
    while count > 1 and (need := needed(count)) > memory:
        count = max(1, min(count - 1, count * memory // need))
    return count


class AllocationCount(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make inside it, also below `vmap` and `vjp`.

    Attributes:
        peak: The most that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count what it made, which a view or a result in place is not."""
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given | self._alive.keys():
                    self._alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._alive.pop, storage._cdata)
        self.peak = max(self.peak, sum(self._alive.values()))
        return made


def _blocks(images: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(images), size):
        yield start, images[start : start + size]


def _jacobian(
    tower: nn.Module, theta: dict[str, Tensor], head: Tensor, images: Tensor, directions: Tensor
) -> dict[str, Tensor]:
    """Return eᵀJ(x) for each image x and all directions e, by parameter: `[images, …]`."""

    def pull_back(image: Tensor) -> dict[str, Tensor]:
        def logits(theta: dict[str, Tensor]) -> Tensor:
            z = functional_call(tower, theta, (image[None],))
            return (F.normalize(z, dim=-1) @ head.T)[0]

        _, pull = vjp(logits, theta)
        return vmap(pull)(directions)[0]

    # Fused attention cannot be mapped over images.
    with sdpa_kernel(SDPBackend.MATH), _UnfoldedConvolutions():
        return {name: rows.flatten(1) for name, rows in vmap(pull_back)(images).items()}


class _UnfoldedConvolutions(TorchFunctionMode):
    """Computes convolutions as products with unfolded images.

    The weight's gradient of each image is a product then, too. As a convolution with a group per
    image and class it takes longer, and several times its size unseen within the operation.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace a convolution without groups, and run all else as it is."""
        if func is not F.conv2d or kwargs or isinstance(args[4], str) or args[6] != 1:
            return func(*args, **(kwargs or {}))
        images, weight, bias, stride, padding, dilation, _ = args
        kernel = weight.shape[2:]
        patches = F.unfold(images, kernel, dilation, padding, stride)
        rows, columns = (
            (size + 2 * pad - gap * (side - 1) - 1) // step + 1
            for size, pad, gap, side, step in zip(
                images.shape[2:], padding, dilation, kernel, stride, strict=True
            )
        )
        z = (weight.flatten(1) @ patches).unflatten(-1, (rows, columns))
        return z if bias is None else z + bias[:, None, None]
