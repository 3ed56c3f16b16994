"""Task vectors: named tensors τ = θt − θ0, their algebra, and applying them to a model.

Ilharco et al. 2023, section 2: adding task vectors teaches one model several tasks, subtracting one
makes it forget, and `τ_b + (τ_c − τ_a)` carries a difference from one task to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Self, overload

import torch
from torch import Tensor, nn

from task_arithmetic.artifacts import read_tensors, write_tensors


class TaskVector(Mapping[str, Tensor]):
    """A task vector: an immutable mapping from parameter names to differences of parameters."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Wrap named tensors as a task vector.

        Args:
            tensors: Differences by parameter name, all of floating-point type.

        Raises:
            TypeError: If a tensor is not of floating-point type.
        """
        integral = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
        if integral:
            raise TypeError(f"a task vector has floating-point tensors; these have not: {integral}")
        self._tensors = {name: tensor.detach() for name, tensor in tensors.items()}

    @classmethod
    def between(
        cls,
        pretrained: nn.Module | Mapping[str, Tensor],
        finetuned: nn.Module | Mapping[str, Tensor],
    ) -> Self:
        """Return τ = θt − θ0.

        Args:
            pretrained: θ0, a module or named tensors.
            finetuned: θt, with the same names, shapes and types.

        Returns:
            The task vector, over all floating-point tensors of the two.

        Raises:
            ValueError: If names, shapes or types differ; the message names them.
        """
        before, after = _floating(pretrained), _floating(finetuned)
        _check_match(before, after, "pretrained", "finetuned")
        return cls({name: after[name].detach() - before[name].detach() for name in before})

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a task vector from a safetensors file.

        Args:
            path: The file to read.

        Returns:
            The task vector.

        Raises:
            PipelineError: If the file is damaged or holds something else.
        """
        return cls(read_tensors(path, kind="task_vector")[0])

    def save(self, path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
        """Write the task vector atomically to a safetensors file, with more metadata if given."""
        write_tensors(path, self._tensors, {**(metadata or {}), "kind": "task_vector"})

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    # Equality by identity, as of tensors: comparing values is `torch.equal` per name.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} tensors, norm {float(self.norm()):.4g})"

    def __add__(self, other: TaskVector) -> TaskVector:
        if not isinstance(other, TaskVector):
            return NotImplemented
        _check_match(self, other, "left", "right")
        return TaskVector({name: self[name] + other[name] for name in self})

    def __radd__(self, other: object) -> TaskVector:
        # sum() starts from the integer 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: TaskVector) -> TaskVector:
        return self + (-other) if isinstance(other, TaskVector) else NotImplemented

    def __neg__(self) -> TaskVector:
        return self * -1.0

    def __mul__(self, alpha: float) -> TaskVector:
        if isinstance(alpha, TaskVector):
            return NotImplemented
        return TaskVector({name: tensor * alpha for name, tensor in self.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> TaskVector:
        return TaskVector({name: tensor / divisor for name, tensor in self.items()})

    @staticmethod
    def sum(vectors: Iterable[TaskVector]) -> TaskVector:
        """Return the sum of at least one task vector.

        Raises:
            ValueError: If there is none, or they do not match.
        """
        vectors = list(vectors)
        if not vectors:
            raise ValueError("the sum of no task vectors has no names or shapes")
        return reduce(TaskVector.__add__, vectors)

    def dot(self, other: TaskVector) -> Tensor:
        """Return the inner product over all parameters, a scalar accumulated in float64.

        Raises:
            ValueError: If the names, shapes or types of the two differ.
        """
        _check_match(self, other, "left", "right")
        products = [
            torch.dot(self[name].double().flatten(), other[name].double().flatten())
            for name in self
        ]
        return torch.stack(products).sum() if products else torch.zeros((), dtype=torch.float64)

    def norm(self) -> Tensor:
        """Return the Euclidean norm over all parameters, a scalar."""
        return self.dot(self).sqrt()

    def cosine(self, other: TaskVector) -> Tensor:
        """Return the cosine similarity of two task vectors, a scalar in [−1, 1].

        Raises:
            ValueError: If the two do not match, or one of them is zero.
        """
        norms = self.norm() * other.norm()
        if norms == 0:
            raise ValueError("the cosine similarity with a zero task vector is undefined")
        return self.dot(other) / norms

    @overload
    def apply_to(self, model: nn.Module, alpha: float = ...) -> nn.Module: ...
    @overload
    def apply_to(self, model: Mapping[str, Tensor], alpha: float = ...) -> dict[str, Tensor]: ...
    def apply_to(
        self, model: nn.Module | Mapping[str, Tensor], alpha: float = 1.0
    ) -> nn.Module | dict[str, Tensor]:
        """Return θ0 + α·τ.

        Args:
            model: θ0: a module, which is edited in place, or named tensors, which are not. It may
                have names that the task vector lacks; they stay as they are.
            alpha: The scaling coefficient α.

        Returns:
            The edited module, or new named tensors.

        Raises:
            ValueError: If the task vector has names that the model lacks, or shapes or types
                differ.
        """
        is_module = isinstance(model, nn.Module)
        state = dict(model.state_dict()) if is_module else dict(model)
        known = {name: tensor for name, tensor in state.items() if name in self}
        _check_match(known, self, "model", "task vector")
        for name, tensor in known.items():
            edited = tensor + alpha * self[name].to(tensor.device)
            if is_module:
                tensor.copy_(edited)  # state_dict shares memory with the module
            else:
                state[name] = edited
        return model if is_module else state


def _floating(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = model.state_dict() if isinstance(model, nn.Module) else model
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def _check_match(
    left: Mapping[str, Tensor], right: Mapping[str, Tensor], left_name: str, right_name: str
) -> None:
    """Raise a ValueError that names every difference of names, shapes and types."""
    only_left, only_right = sorted(set(left) - set(right)), sorted(set(right) - set(left))
    problems = [
        f"only in {side}: {names}"
        for side, names in ((left_name, only_left), (right_name, only_right))
        if names
    ]
    for name in sorted(set(left) & set(right)):
        a, b = left[name], right[name]
        if a.shape != b.shape:
            problems.append(f"{name}: shapes {list(a.shape)} and {list(b.shape)}")
        elif a.dtype != b.dtype:
            problems.append(f"{name}: types {a.dtype} and {b.dtype}")
    if problems:
        raise ValueError("task vectors do not match; " + "; ".join(problems))
