"""First-order Taylor models of networks: an exact training step and Jacobian-vector products.

The linearized model of a network f around θ0 is (Ortiz-Jimenez et al. 2023, eq. 3)

    f_lin(x; θ) = f(x; θ0) + J(x; θ0) · (θ − θ0),    J = ∂f/∂θ.

Its gradient needs no derivative of the tangent pass: ∂L/∂θ = Jᵀ · ∂L/∂f_lin is an ordinary backward
pass of the *pre-trained* network with the cotangent of the linearized output. A training step is
one primal pass that keeps its activations, one tangent pass beside it that keeps nothing, and one
backward pass: in units of a forward pass 1 + 2 + 2, where non-linear training takes 1 + 2.
"""

import copy
import ctypes
import os
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from task_arithmetic.tangent_rules import CONSTANT, RULES, Rule, jvp_of

# Bounds the memory of `tangent_features`: as many tangents of every activation live at a time.
VECTORS_AT_ONCE = 8


class LinearizedModule(nn.Module):
    """f_lin(x; θ) = f(x; θ0) + J(x; θ0) · (θ − θ0), with θ as its parameters.

    Parameters, buffers and state-dict entries have the names they have in the linearized module.
    θ0 moves with the module but is neither a parameter nor part of its state dict.
    """

    def __init__(self, module: nn.Module, trainable: Callable[[str], bool] | None = None):
        super().__init__()
        theta, origin = copy.deepcopy(module), copy.deepcopy(module)
        self._expanded = set()
        for (name, p), p0 in zip(theta.named_parameters(), origin.parameters(), strict=True):
            if p.requires_grad and (trainable is None or trainable(name)):
                self._expanded.add(name)
            p.requires_grad_(name in self._expanded)
            # Activation checkpointing runs blocks again on θ0 and expects the same graph.
            p0.requires_grad_(name in self._expanded)
            if p0.requires_grad:
                p0.register_hook(_refuse_gradient)
        # The children become this module's own, and so keep their names.
        self._modules, self._parameters = theta._modules, theta._parameters
        self._buffers = theta._buffers
        self._non_persistent_buffers_set = theta._non_persistent_buffers_set
        # The tuple hides θ0 from the registration of submodules.
        self._origin = (origin.eval(),)
        self._moved = set()
        self.train(module.training)

    def train(self, mode: bool = True) -> "LinearizedModule":
        """Set this module's own flag; the network stays linearized around `eval()`.

        Args:
            mode: the flag.

        Returns:
            This module.
        """
        super().train(False)
        self.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LinearizedModule":
        self._origin[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    # A compiler that traced through this would meet the dispatch mode, which is a tracer itself.
    @torch.compiler.disable
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate f(x; θ0) + J(x; θ0) · (θ − θ0).

        Args:
            *args: what the linearized module takes.
            **kwargs: what the linearized module takes.

        Returns:
            What the linearized module returns, every tensor in it to first order.

        Raises:
            ValueError: if an input requires a gradient, which would need second derivatives of f.
        """
        if any(isinstance(x, Tensor) and x.requires_grad for x in tree_leaves((args, kwargs))):
            raise ValueError(
                "a linearized module has gradients with respect to its parameters only: "
                "expected inputs without requires_grad"
            )
        origin = self._origin[0]
        theta0 = dict(origin.named_parameters())
        values, tangents = {}, {}
        for name, p in self.named_parameters():
            if name not in self._expanded:
                continue
            p0 = theta0[name]
            values[name] = _AtOrigin.apply(p, p0.detach())
            # Compared only until it has moved: on a GPU each comparison waits for the device.
            if name not in self._moved and not torch.equal(p, p0):
                self._moved.add(name)
            if name in self._moved:
                tangents[name] = _Displacement(p, p0)
        out = _dual_pass(origin, values, tangents, args, kwargs)

        def taylor(x: Any) -> Any:
            moved = _tangents_of(x)
            return x if moved is None else x + moved[0]

        return tree_map(taylor, out)


def linearize(
    module: nn.Module, trainable: Callable[[str], bool] | None = None
) -> LinearizedModule:
    """Linearize a module in its parameters around their present values θ0, in `eval()` mode.

    Args:
        module: any module. It is copied and left as it is.
        trainable: tells by its name whether a parameter takes part in the expansion; None means
            all that require a gradient. The others stay frozen at θ0 and cost nothing.

    Returns:
        f_lin (Ortiz-Jimenez et al. 2023, eq. 3) at θ = θ0, to be trained like any module.
        Activation checkpointing in it has to be of the non-reentrant kind.
    """
    return LinearizedModule(module, trainable)


def tangent_features(
    module: nn.Module, vectors: Sequence[Mapping[str, Tensor]], inputs: Float[Tensor, "batch ..."]
) -> tuple[Float[Tensor, "batch features"], Float[Tensor, "vectors batch features"]]:
    """Evaluate f(x; θ0) and J(x; θ0) · τ for several vectors τ on one batch.

    The primal pass is shared between vectors, `VECTORS_AT_ONCE` at a time: T of them cost 1 + 2T
    forward passes.

    Args:
        module: the network at θ0, evaluated in `eval()` mode.
        vectors: the τ, each by names of parameters; a parameter that is not named does not move.
        inputs: x.

    Returns:
        f(x; θ0), and J(x; θ0) · τ for each vector. Neither has an autograd graph.

    Raises:
        ValueError: if a vector names no parameter of the module or has another shape.
    """
    theta0 = {name: p.detach() for name, p in module.named_parameters()}
    for i, vector in enumerate(vectors):
        for name, t in vector.items():
            if name not in theta0:
                raise ValueError(f"vectors[{i}]: the module has no parameter named {name!r}")
            if t.shape != theta0[name].shape:
                raise ValueError(
                    f"vectors[{i}][{name!r}]: expected shape {tuple(theta0[name].shape)}, "
                    f"found {tuple(t.shape)}"
                )
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        parts = []
        for first in range(0, max(len(vectors), 1), VECTORS_AT_ONCE):
            chunk = vectors[first : first + VECTORS_AT_ONCE]
            values = {name: p.detach() for name, p in theta0.items()}
            tangents = {
                name: tuple(v[name].to(p) if name in v else None for v in chunk)
                for name, p in theta0.items()
                if any(name in v for v in chunk)
            }
            with torch.no_grad():
                out = _dual_pass(module, values, tangents, (inputs,), {})
            moved = _tangents_of(out) or [None] * len(chunk)
            parts += [torch.zeros_like(out) if t is None else t for t in moved]
    finally:
        for m in training:
            m.training = True
    return out, torch.stack(parts) if parts else out.new_zeros(0, *out.shape)


class _AtOrigin(torch.autograd.Function):
    """The value θ0 with the gradient of θ."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, theta0: Tensor) -> Tensor:
        return theta0.view_as(theta0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return cotangent, None


def _refuse_gradient(cotangent: Tensor) -> None:
    raise RuntimeError(
        "a gradient arrived at θ0 instead of θ: expected activation checkpointing "
        "with use_reentrant=False"
    )


class _Displacement:
    """θ − θ0 as a one-vector tuple of tangents, computed where it is used and not kept."""

    def __init__(self, theta: Tensor, theta0: Tensor):
        self.theta, self.theta0 = theta, theta0

    def __len__(self) -> int:
        return 1

    def __getitem__(self, vector: int) -> Tensor:
        return self.theta - self.theta0


def _tangents_of(x: Any) -> Sequence[Tensor | None] | None:
    return getattr(x, "_tangents", None) if isinstance(x, Tensor) else None


def _dual_pass(
    module: nn.Module,
    values: dict[str, Tensor],
    tangents: Mapping[str, Sequence[Tensor | None]],
    args: tuple,
    kwargs: dict,
) -> Any:
    """Run a module on some parameter values, carrying the tangents of some of them along."""
    for name, moved in tangents.items():
        values[name]._tangents = moved
    with _saving_aliases(), _freed_memory_kept(), _unfused_attention_modules(), _Tangents():
        return functional_call(module, values, args, kwargs)


@contextmanager
def _unfused_attention_modules() -> Generator[None, None, None]:
    # In inference nn.MultiheadAttention is one opaque operation; without that it is projections
    # and scaled_dot_product_attention, which have rules.
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class _Tangents(TorchDispatchMode):
    """Carries tangents beside every tensor that is computed from tensors with tangents.

    They are an attribute of the tensor object, with one entry per vector, and so live exactly as
    long as the network itself holds on to the tensor. The mode sees operations below autograd and
    autocast: these record and cast the primal as ever, and nothing of the tangents.
    """

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operands = _with_tangents(args)
        if kwargs:
            operands += _with_tangents(kwargs.values())
        if not operands or operation in CONSTANT:
            return operation(*args, **kwargs)
        rule = RULES.get(operation)
        if rule is None:
            # Composite operations arrive whole in inference mode; their parts have rules.
            with self:
                out = operation.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
            if operation._schema.is_mutable:
                return self._in_place(operation, args, kwargs)
            rule = jvp_of(operation)
        out = operation(*args, **kwargs)
        first = out[0] if isinstance(out, (list, tuple)) else out
        if isinstance(first, Tensor) and first.is_floating_point():
            _attach(out, _push(rule, out, operands, args, kwargs))
        return out

    def _in_place(self, operation: Any, args: tuple, kwargs: dict) -> Tensor:
        """Do an in-place operation out of place, then write result and tangents back."""
        packet = operation._schema.name.removeprefix("aten::")
        functional = getattr(torch.ops.aten, packet.removesuffix("_"), None)
        functional = getattr(functional, operation._overloadname, None)
        if functional is None or not packet.endswith("_"):
            raise NotImplementedError(f"no tangent rule for {operation}")
        target = args[0]
        with self:
            out = functional(*args, **kwargs)
        after = _tangents_of(out) or [None] * len(_tangents_of(target))
        if torch.Tag.inplace_view in operation.tags:
            operation(*args, **kwargs)
            target._tangents = after
            return target
        before = _tangents_of(target) or [None] * len(after)
        base = _tangents_of(target._base) if target._is_view() else before
        for v, new in enumerate(after):
            old = before[v]
            if old is None and new is None:
                continue
            if base is None or (old is not base[v] and not _share_memory(old, base[v])):
                raise NotImplementedError(f"{operation} on a view whose tangent is not a view")
            # Views of the target share its tangents' memory as they share its own.
            if old is not None:
                after[v] = old.zero_() if new is None else old.copy_(new)
        target._tangents = after
        return target.copy_(out)


def _with_tangents(operands: Iterable[Any]) -> list[Tensor]:
    found = []
    for x in operands:
        if isinstance(x, Tensor):
            if hasattr(x, "_tangents"):
                found.append(x)
        elif isinstance(x, (list, tuple)):
            found += _with_tangents(x)
    return found


def _share_memory(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return False
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _push(rule: Rule, out: Any, operands: list[Tensor], args: tuple, kwargs: dict) -> list[Any]:
    """Apply a rule to each vector: the tangents of the result, None where no operand moves."""
    tangent = rule(out, *args, **kwargs)
    results = []
    for v in range(len(operands[0]._tangents)):
        moved = {id(x): x._tangents[v] for x in operands}
        moves = any(t is not None for t in moved.values())
        results.append(tangent(lambda x, moved=moved: moved.get(id(x))) if moves else None)
    return results


def _attach(out: Any, results: list[Any]) -> None:
    if isinstance(out, Tensor):
        if any(r is not None for r in results):
            # Under autocast an operand that does not move may have decided the type.
            out._tangents = [None if r is None else r.to(out.dtype) for r in results]
        return
    for i, part in enumerate(out):
        if isinstance(part, Tensor):
            _attach(part, [None if r is None else r[i] for r in results])


@contextmanager
def _saving_aliases() -> Generator[None, None, None]:
    # Autograd keeps the tensor objects it saves alive, and with them their tangents, until the
    # backward pass. It is given an alias of the same memory in their place.
    with torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda alias: alias):
        yield


_mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# What glibc's own adaptation of the two thresholds ends at.
_ADAPTED = {_M_TRIM_THRESHOLD: 64 << 20, _M_MMAP_THRESHOLD: 32 << 20}


@contextmanager
def _freed_memory_kept() -> Generator[None, None, None]:
    # The tangent pass frees what it allocates within a few operations. glibc would hand it back to
    # the system, to be faulted in again for the next: 0.3 s of system time per forward pass of
    # ViT-B/32 on 32 images and two cores, against 0.1 s if it is kept until the pass ends.
    if _mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        yield
        return
    for threshold in _ADAPTED:
        _mallopt(threshold, 1 << 30)
    try:
        yield
    finally:
        for threshold, value in _ADAPTED.items():
            _mallopt(threshold, value)
