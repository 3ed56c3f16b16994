"""Merging methods: pure functions from task vectors τ_1 … τ_T to one merged vector τ_m.

The merged model is θ0 + α·τ_m (in the tangent modes f0 + α·Jτ_m), with α chosen on validation data
like that of plain addition, so that methods differ in τ_m alone. Each function names its paper and
writes its definition out; θ0 is never needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from task_arithmetic.layers import OUTPUT, STEM, layers_of
from task_arithmetic.vectors import TaskVector


def addition(vectors: Sequence[TaskVector]) -> TaskVector:
    """Return the plain sum τ_m = Σ_t τ_t (Ilharco et al. 2023, section 2).

    Args:
        vectors: The task vectors.

    Returns:
        The merged vector.
    """
    return TaskVector.sum(vectors)


def ties(vectors: Sequence[TaskVector], keep: float) -> TaskVector:
    """Trim, elect signs, and average what agrees (TIES; Yadav et al. 2023, algorithm 1).

    Each vector keeps its largest entries τ̂_t; γ = sgn(Σ_t τ̂_t) elects a sign per parameter; τ_m is
    the mean of those non-zero τ̂_t whose sign is γ.

    Args:
        vectors: The task vectors.
        keep: The share k of entries of each whole vector to keep, the largest in magnitude.

    Returns:
        The merged vector.
    """
    trimmed = [_trimmed(vector, keep) for vector in vectors]

    def elect(tensors: Tensor) -> Tensor:
        agreeing = (tensors.sign() == tensors.sum(dim=0).sign()) & (tensors != 0)
        return (tensors * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)

    return _by_tensor(trimmed, elect)


def dare(vectors: Sequence[TaskVector], drop: float, seed: int) -> TaskVector:
    """Drop entries at random, rescale the rest, and sum (DARE; Yu et al. 2024, arXiv 2311.03099).

    m_t ~ Bernoulli(p) and τ̂_t = (1 − m_t) ⊙ τ_t / (1 − p), whose expectation is τ_t.

    Args:
        vectors: The task vectors.
        drop: The probability p that an entry is dropped.
        seed: Decides which are.

    Returns:
        The merged vector Σ_t τ̂_t.
    """
    generator = torch.Generator().manual_seed(seed)

    def thin(tensors: Tensor) -> Tensor:
        kept = torch.rand(tensors.shape, generator=generator) >= drop
        return (tensors * kept / (1 - drop)).sum(dim=0)

    return _by_tensor(vectors, thin)


def breadcrumbs(vectors: Sequence[TaskVector], low: float, high: float) -> TaskVector:
    """Mask each tensor's outliers and small entries, and sum (Breadcrumbs; arXiv 2312.06795).

    Davari & Belilovsky 2024: m_t is 1 where |τ_t| lies above the share β of its tensor's smallest
    entries and within the share γ, and τ_m = Σ_t m_t ⊙ τ_t.

    Args:
        vectors: The task vectors.
        low: β, the share of smallest entries of each tensor to mask.
        high: γ; the share 1 − γ of largest entries is masked.

    Returns:
        The merged vector.
    """

    def masked(tensor: Tensor) -> Tensor:
        sizes = tensor.abs()
        above = sizes > _order_statistic(sizes, low)
        return tensor * (above & (sizes <= _order_statistic(sizes, high)))

    return _by_tensor(vectors, lambda tensors: torch.stack([*map(masked, tensors)]).sum(dim=0))


def consensus(vectors: Sequence[TaskVector], threshold: float, agreeing: int) -> TaskVector:
    """Keep the parameters that several tasks need (consensus merging; arXiv 2405.07813).

    Wang et al. 2024: with the sum τ_s = Σ_t τ_t, task t needs the parameters where
    |τ_t| ≥ λ·|τ_s − τ_t| (its TALL mask); τ_m is τ_s where at least k tasks need it, 0 elsewhere.

    Args:
        vectors: The task vectors.
        threshold: λ; smaller values keep more.
        agreeing: k, the number of tasks.

    Returns:
        The merged vector.
    """

    def agree(tensors: Tensor) -> Tensor:
        total = tensors.sum(dim=0)
        needed = tensors.abs() >= threshold * (total - tensors).abs()
        return total * (needed.sum(dim=0) >= agreeing)

    return _by_tensor(vectors, agree)


def tsv(vectors: Sequence[TaskVector]) -> TaskVector:
    """Merge decorrelated singular vectors (TSV-Merge; Gargiulo et al. 2025, arXiv 2412.00081).

    For each weight matrix τ_t = U_t Σ_t V_tᵀ the r/T leading singular triplets of every task are
    put side by side: U = [U_1 … U_T], Σ = diag(Σ_1 … Σ_T), V likewise. U and V are replaced by the
    nearest matrices with orthonormal columns (Procrustes: U = P D Qᵀ ↦ P Qᵀ), and
    τ_m = U⊥ Σ V⊥ᵀ. Tensors that are not matrices are averaged.

    Args:
        vectors: The task vectors.

    Returns:
        The merged vector.
    """

    def decorrelate(tensors: Tensor) -> Tensor:
        rank = max(1, min(tensors.shape[1:]) // len(tensors))
        left, sizes, right = torch.linalg.svd(tensors, full_matrices=False)
        u = _nearest_orthonormal(torch.cat([*left[:, :, :rank]], dim=1))
        v = _nearest_orthonormal(torch.cat([*right[:, :rank]], dim=0))
        return u @ (sizes[:, :rank].flatten()[:, None] * v)

    return _by_tensor(vectors, lambda tensors: _matrices(tensors, decorrelate))


def iso_c(vectors: Sequence[TaskVector]) -> TaskVector:
    """Give the summed matrices a flat spectrum (Iso-C; Marczak et al. 2025, arXiv 2502.04959).

    For each weight matrix Σ_t τ_t = U diag(σ) Vᵀ, and τ_m = σ̄·U Vᵀ with σ̄ the mean of σ. Tensors
    that are not matrices are averaged.

    Args:
        vectors: The task vectors.

    Returns:
        The merged vector.
    """

    def flatten(tensors: Tensor) -> Tensor:
        left, sizes, right = torch.linalg.svd(tensors.sum(dim=0), full_matrices=False)
        return sizes.mean() * left @ right

    return _by_tensor(vectors, lambda tensors: _matrices(tensors, flatten))


def lines(vectors: Sequence[TaskVector], slope: float) -> TaskVector:
    """Scale the sum more in deeper layers (LiNeS; Wang et al. 2025, arXiv 2410.17146).

    With layers l = 1 … L, τ_m is Σ_t τ_t times 1 + β·(l − 1)/(L − 1) in layer l. What stands before
    the first block counts as the first layer, what stands after the last one as the last.

    Args:
        vectors: The task vectors.
        slope: β, in units of the scale of the first layer.

    Returns:
        The merged vector.
    """
    total = TaskVector.sum(vectors)
    layers = layers_of(total)
    depth = sum(layer not in (STEM, OUTPUT) for layer in layers)
    scales, block = {}, 0
    for layer, names in layers.items():
        block = depth if layer == OUTPUT else block + (layer != STEM)
        position = max(block - 1, 0) / max(depth - 1, 1)
        scales |= dict.fromkeys(names, 1 + slope * position)
    return TaskVector({name: scales[name] * tensor for name, tensor in total.items()})


MERGE: dict[str, Callable[..., TaskVector]] = {
    "addition": addition, "ties": ties, "dare": dare, "breadcrumbs": breadcrumbs,
    "consensus": consensus, "tsv": tsv, "iso_c": iso_c, "lines": lines,
}  # fmt: skip


def merge(
    name: str, vectors: Sequence[TaskVector], settings: dict[str, Any], seed: int
) -> TaskVector:
    """Merge task vectors by the method of a name.

    Args:
        name: A key of `MERGE`.
        vectors: The task vectors.
        settings: The method's own arguments.
        seed: What a method that draws (DARE) draws from.

    Returns:
        The merged vector.
    """
    drawn = {"seed": seed} if name == "dare" else {}
    return MERGE[name](vectors, **settings, **drawn)


def _by_tensor(
    vectors: Sequence[TaskVector], merge_tensors: Callable[[Tensor], Tensor]
) -> TaskVector:
    """Merge name by name: `merge_tensors` maps `[tasks, *shape]` to `shape`."""
    # Sorted: a method that draws must draw alike however the names are ordered.
    return TaskVector({
        name: merge_tensors(torch.stack([vector[name] for vector in vectors]))
        for name in sorted(vectors[0])
    })


def _trimmed(vector: TaskVector, keep: float) -> TaskVector:
    """Return a vector with only the share `keep` of its entries, the largest in magnitude."""
    sizes = torch.cat([tensor.abs().flatten() for tensor in vector.values()])
    least = _order_statistic(sizes, 1 - keep)
    return TaskVector({name: tensor * (tensor.abs() > least) for name, tensor in vector.items()})


def _order_statistic(sizes: Tensor, share: float) -> Tensor:
    """Return the largest of the `share` smallest entries; −1 if there are none."""
    count = round(share * sizes.numel())
    return sizes.flatten().kthvalue(count).values if count else sizes.new_tensor(-1.0)


def _nearest_orthonormal(matrix: Tensor) -> Tensor:
    """Return the nearest matrix whose rows or columns, whichever are fewer, are orthonormal."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


def _matrices(tensors: Tensor, merge_matrices: Callable[[Tensor], Tensor]) -> Tensor:
    """Merge stacked matrices by `merge_matrices`, and average anything else."""
    return merge_matrices(tensors) if tensors.dim() == 3 else tensors.mean(dim=0)
