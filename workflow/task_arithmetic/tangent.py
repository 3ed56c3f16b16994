"""First-order Taylor models of networks: exact training step and Jacobian-vector products.

The linearized model of f at θ0 is (Ortiz-Jimenez et al. 2023, eq. 3)

    f_lin(x; θ) = f(x; θ0) + J(x; θ0) · (θ − θ0),     J = ∂f/∂θ.

Its gradient needs no second-order graph: ∂L/∂θ = Jᵀ · ∂L/∂f_lin is an ordinary backward pass of the
*pre-trained* network with the cotangent of the linearized output. A training step is therefore one
primal pass that keeps its activations, one tangent pass carried beside it that keeps nothing, and
one backward pass.
"""

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from task_arithmetic.tangent_rules import CONSTANT, RULES, jvp_of


class _Tangents(TorchDispatchMode):
    """Carries tangents beside every tensor that a network computes from tangent-bearing ones.

    Tangents are an attribute of the tensor object, a tuple with one entry per vector (None is
    zero), and so live exactly as long as the network itself holds on to the tensor.
    """

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tangents = [getattr(x, "_tangents", None) for x in tree_leaves((args, kwargs))]
        tangents = [t for t in tangents if t is not None]
        if not tangents or operation in CONSTANT:
            return operation(*args, **kwargs)
        rule = RULES.get(operation)
        if rule is None:
            # Under inference mode composite operations arrive whole: take them apart.
            with self:
                out = operation.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
            if operation._schema.is_mutable:
                return self._in_place(operation, args, kwargs)
            rule = jvp_of(operation)
        out = operation(*args, **kwargs)
        _attach(out, _push(rule, out, args, kwargs, len(tangents[0])))
        return out

    def _in_place(self, operation, args, kwargs):
        name = operation._schema.name.removeprefix("aten::")
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
        functional = getattr(packet, operation._overloadname, None)
        target = args[0]
        if not name.endswith("_") or functional is None:
            raise NotImplementedError(f"{operation} has no tangent rule")
        with self:
            out = functional(*args, **kwargs)
        if torch.Tag.inplace_view in operation.tags:
            target = operation(*args, **kwargs)
            target._tangents = out._tangents
            return target
        before, after = (getattr(x, "_tangents", None) for x in (target, out))
        if after is not None:
            if before is None and target._is_view():
                raise NotImplementedError(
                    f"{operation} writes into a view of a tensor that has no tangent"
                )
            if before is None:
                target._tangents = after
            else:
                # Written in place as well, so that views of the target see it.
                for old, new in zip(before, after, strict=True):
                    if (old is None) != (new is None):
                        raise NotImplementedError(f"{operation} starts or ends a tangent in place")
                    if old is not None:
                        old.copy_(new)
        elif before is not None:
            raise NotImplementedError(f"{operation} ends a tangent in place")
        return target.copy_(out)


def _push(rule, out, args, kwargs, count: int) -> list[Any]:
    if not any(_is_real(x) for x in tree_leaves(out)):
        return [None] * count
    tangent = rule(out, *args, **kwargs)
    leaves = [x for x in tree_leaves((args, kwargs)) if hasattr(x, "_tangents")]
    results = []
    for v in range(count):

        def lookup(x: Any, v: int = v) -> Tensor | None:
            tangents = getattr(x, "_tangents", None)
            return None if tangents is None else tangents[v]

        moving = any(lookup(x) is not None for x in leaves)
        results.append(tangent(lookup) if moving else None)
    return results


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _attach(out: Any, results: list[Any]) -> None:
    if all(r is None for r in results):
        return
    if isinstance(out, Tensor):
        out._tangents = tuple(results)
        return
    for i, part in enumerate(out):
        tangents = tuple(None if r is None else r[i] for r in results)
        if any(t is not None for t in tangents):
            part._tangents = tangents


@contextmanager
def _saving_aliases() -> Generator[None, None, None]:
    # Autograd would keep the tensor object, and with it its tangents, until the backward pass. It
    # is given an alias of the same memory instead.
    with torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda alias: alias):
        yield


class _At(torch.autograd.Function):
    """The value of θ0 with the gradient of θ: ∂f_lin/∂θ is taken at θ0."""

    @staticmethod
    def forward(ctx, theta: Tensor, theta0: Tensor) -> Tensor:
        return theta0.detach()

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, None]:
        return cotangent, None


class LinearizedModule(nn.Module):
    """f_lin(x; θ) = f(x; θ0) + J(x; θ0) · (θ − θ0), with θ as its parameters.

    Parameters and state-dict entries have the names they have in the linearized module.
    """

    def __init__(self, module: nn.Module, trainable: Callable[[str], bool] | None = None):
        super().__init__()
        theta = copy.deepcopy(module)
        origin = copy.deepcopy(module).eval()
        for (name, p), p0 in zip(theta.named_parameters(), origin.parameters(), strict=True):
            wanted = p.requires_grad and (trainable is None or trainable(name))
            p.requires_grad_(wanted)
            p0.requires_grad_(wanted)
        # Same names as the module: its children and parameters become this module's own.
        self._modules, self._parameters, self._buffers = (
            theta._modules,
            theta._parameters,
            theta._buffers,
        )
        self._non_persistent_buffers_set = theta._non_persistent_buffers_set
        # In a tuple, θ0 is neither a parameter nor part of the state dict.
        self._origin = (origin,)
        self._tangent_names = {n for n, p in theta.named_parameters() if p.requires_grad}
        self.train(False)

    def train(self, mode: bool = True) -> "LinearizedModule":
        """Set the training flag of this module only: the network is linearized around `eval()`.

        Args:
            mode: value of the flag.

        Returns:
            This module.
        """
        super().train(False)
        self.training = mode
        return self

    def _apply(self, fn, recurse=True):
        self._origin[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate f(x; θ0) + J(x; θ0) · (θ − θ0).

        Args:
            *args: what the module takes.
            **kwargs: what the module takes.

        Returns:
            What the module returns, every tensor in it to first order.
        """
        origin = self._origin[0]
        theta0 = dict(origin.named_parameters())
        at, tangents = {}, {}
        for name, p in self.named_parameters():
            if name not in self._tangent_names:
                continue
            at[name] = _At.apply(p, theta0[name])
            if not torch.equal(p, theta0[name]):
                tangents[name] = (p.detach() - theta0[name].detach(),)
        out = _forward(origin, at, tangents, args, kwargs)
        return tree_map(lambda x: _taylor(x), out)


def _taylor(x: Any) -> Any:
    tangents = getattr(x, "_tangents", None)
    if tangents is None:
        return x
    return x + tangents[0]


def _forward(module, parameters, tangents, args, kwargs):
    for name, t in tangents.items():
        parameters[name]._tangents = t
    with _saving_aliases(), _Tangents():
        return functional_call(module, parameters, args, kwargs)


def linearize(
    module: nn.Module, trainable: Callable[[str], bool] | None = None
) -> LinearizedModule:
    """Linearize a module in its parameters, around their present values θ0 and `eval()`.

    Args:
        module: any module; it is copied and left as it is.
        trainable: which parameters, by name, the Taylor expansion is taken in; all parameters that
            require a gradient if None. The others stay frozen at θ0.

    Returns:
        f_lin with θ = θ0, to be trained like any module (Ortiz-Jimenez et al. 2023, eq. 3).
    """
    return LinearizedModule(module, trainable)


def tangent_features(
    module: nn.Module, vectors: Sequence[Mapping[str, Tensor]], inputs: Float[Tensor, "batch ..."]
) -> tuple[Float[Tensor, "batch features"], Float[Tensor, "vectors batch features"]]:
    """Evaluate f(x; θ0) and J(x; θ0) · τ for several vectors τ on one batch.

    Args:
        module: the network at θ0; it is evaluated as in `eval()`.
        vectors: each maps names of parameters to tangents of their shape; parameters that it does
            not name have zero tangent.
        inputs: x.

    Returns:
        f(x; θ0), and J(x; θ0) · τ for every vector, without autograd graph.

    Raises:
        ValueError: if a vector names no parameter of the module or has another shape.
    """
    theta0 = {n: p.detach() for n, p in module.named_parameters()}
    for v, vector in enumerate(vectors):
        for name, t in vector.items():
            if name not in theta0:
                raise ValueError(f"vector {v}: the module has no parameter named {name!r}")
            if t.shape != theta0[name].shape:
                raise ValueError(
                    f"vector {v}: {name}: expected shape {tuple(theta0[name].shape)}, "
                    f"found {tuple(t.shape)}"
                )
    named = {name for vector in vectors for name in vector}
    tangents = {name: tuple(vector.get(name) for vector in vectors) for name in named}
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            out = _forward(module, theta0, tangents, (inputs,), {})
    finally:
        for m, mode in modes.items():
            m.training = mode
    found = getattr(out, "_tangents", (None,) * len(vectors))
    zero = torch.zeros_like(out)
    stacked = [zero if t is None else t.to(out.dtype) for t in found]
    return out, torch.stack(stacked) if stacked else out.new_zeros((0, *out.shape))
