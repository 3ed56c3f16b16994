"""Tangent rules: how a first-order perturbation passes through one tensor operation.

For an operation y = g(a, b, …) a rule computes ẏ = ∂g/∂a · ȧ + ∂g/∂b · ḃ + … in as few kernels as
the arithmetic allows. Three remarks give nearly all rules:

* an operation that is linear in an operand is its own tangent (views, sums, casts);
* a bilinear operation is needed twice, the second time accumulating into the first (matrix
  products, convolutions);
* an operation with a symmetric Jacobian (element-wise functions, softmax, normalization) has its
  backward kernel as its tangent, because ∂g · ȧ = (ȧᵀ · ∂g)ᵀ.

An operation without a rule is differentiated by `torch.func.jvp`, of that operation alone.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import enable_reentrant_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

aten = torch.ops.aten

# The tangent of an operand. None is zero, and the answer for operands that are not tensors.
Lookup = Callable[[Any], Tensor | None]
# A rule gets the result and the operands and returns the map from their tangents to the result's:
# whatever several vectors need of the same operands is computed before, once.
Tangent = Callable[[Lookup], Any]
Rule = Callable[..., Tangent]

RULES: dict[Any, Rule] = {}

# To first order these do not depend on their operand.
CONSTANT = {
    aten.detach.default,
    aten.empty_like.default,
    aten.full_like.default,
    aten.new_empty.default,
    aten.new_full.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.ones_like.default,
    aten.zeros_like.default,
}


def _rule(*operations: Any) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, rule))
        return rule

    return register


def _linear_in_first(operation: Any) -> Rule:
    return lambda out, x, *args, **kwargs: lambda d: operation(d(x), *args, **kwargs)


for _operation in (
    aten._adaptive_avg_pool2d.default,
    aten._to_copy.default,
    aten.alias.default,
    aten.avg_pool2d.default,
    aten.clone.default,
    aten.expand.default,
    aten.mean.dim,
    aten.neg.default,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.t.default,
    aten.transpose.int,
    aten.unbind.int,
    aten.unsqueeze.default,
):
    RULES[_operation] = _linear_in_first(_operation)


@_rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(out: Tensor, x: Tensor, shape: list[int]) -> Tangent:
    # A tangent may lie in memory in another order than its primal, where a view cannot follow.
    return lambda d: d(x).reshape(shape)


def _scaled(t: Tensor, factor: float) -> Tensor:
    return t if factor == 1 else factor * t


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return a if b is None else b
    return a + b


def _weighted_sum(sign: int) -> Rule:
    def rule(out: Tensor, a: Any, b: Any, *, alpha: float = 1) -> Tangent:
        def tangent(d: Lookup) -> Tensor:
            da, db = d(a), d(b)
            if da is None or db is None:
                total = da if db is None else _scaled(db, sign * alpha)
                return total if total.shape == out.shape else total.expand(out.shape)
            return torch.add(da, db, alpha=sign * alpha)

        return tangent

    return rule


RULES[aten.add.Tensor] = _weighted_sum(1)
RULES[aten.sub.Tensor] = _weighted_sum(-1)


@_rule(aten.mul.Tensor)
def _mul(out: Tensor, a: Any, b: Any) -> Tangent:
    def tangent(d: Lookup) -> Tensor:
        da, db = d(a), d(b)
        if da is None or db is None:
            return a * db if da is None else da * b
        return torch.addcmul(a * db, da, b)

    return tangent


@_rule(aten.div.Tensor)
def _div(out: Tensor, a: Any, b: Any) -> Tangent:
    def tangent(d: Lookup) -> Tensor:
        da, db = d(a), d(b)
        if db is None:
            return da / b
        moved = out * db
        return (-moved if da is None else da - moved) / b

    return tangent


@_rule(aten.cat.default)
def _cat(out: Tensor, tensors: list[Tensor], dim: int = 0) -> Tangent:
    def moved(x: Tensor, dx: Tensor | None) -> Tensor:
        return torch.zeros_like(x) if dx is None else dx

    return lambda d: torch.cat([moved(x, d(x)) for x in tensors], dim)


@_rule(aten.copy.default)
def _copy(out: Tensor, x: Tensor, source: Tensor, non_blocking: bool = False) -> Tangent:
    def tangent(d: Lookup) -> Tensor | None:
        moved = d(source)
        return None if moved is None else moved.expand(out.shape)

    return tangent


@_rule(aten.mm.default, aten.bmm.default)
def _mm(out: Tensor, a: Tensor, b: Tensor) -> Tangent:
    def tangent(d: Lookup) -> Tensor:
        da, db = d(a), d(b)
        if da is None or db is None:
            return a @ db if da is None else da @ b
        total = da @ b
        # The product accumulates by itself: no second buffer and no pass to add it.
        return total.addmm_(a, db) if a.dim() == 2 else total.baddbmm_(a, db)

    return tangent


@_rule(aten.addmm.default)
def _addmm(
    out: Tensor, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tangent:
    def tangent(d: Lookup) -> Tensor:
        dc, da, db = d(c), d(a), d(b)
        if da is None and db is None:
            return _scaled(dc, beta).expand(out.shape)
        first, second = (a, db) if da is None else (da, b)
        if dc is None:
            total = _scaled(first @ second, alpha)
        else:
            total = torch.addmm(dc, first, second, beta=beta, alpha=alpha)
        return total if da is None or db is None else total.addmm_(a, db, alpha=alpha)

    return tangent


@_rule(aten.convolution.default)
def _convolution(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any
) -> Tangent:
    def tangent(d: Lookup) -> Tensor:
        dx, dw, db = d(x), d(weight), d(bias)
        if dx is None and dw is None:
            return db.view(-1, *[1] * (x.dim() - 2)).expand(out.shape)
        first, second = (x, dw) if dx is None else (dx, weight)
        total = aten.convolution(first, second, db, *geometry)
        if dx is None or dw is None:
            return total
        return total.add_(aten.convolution(x, dw, None, *geometry))

    return tangent


@_rule(aten.native_layer_norm.default)
def _layer_norm(
    out: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    shape: list[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tangent:
    _, mean, rstd = out
    # Not None: without weights the kernel would expect the statistics in the precision of x.
    ones = None if weight is None else torch.ones_like(weight)

    def tangent(d: Lookup) -> tuple[Tensor | None, None, None]:
        dx, dw, db = d(x), d(weight), d(bias)
        total = None
        if dw is not None:
            # x̂·ẇ + ḃ is a layer norm with the tangents of the parameters as parameters.
            total = aten.native_layer_norm(x, shape, dw, db, eps)[0]
        elif db is not None:
            total = db.expand(x.shape)
        if dx is None:
            return total, None, None
        # x ↦ x̂ has the symmetric Jacobian (I − 11ᵀ/n − x̂x̂ᵀ/n)/σ.
        normed = aten.native_layer_norm_backward(
            dx, x, shape, mean, rstd, ones, None, [True, False, False]
        )[0]
        if weight is None:
            return normed, None, None
        scale = weight.to(normed.dtype)
        return (
            normed * scale if total is None else torch.addcmul(total, normed, scale),
            None,
            None,
        )

    return tangent


@_rule(
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.cudnn_batch_norm.default,
)
def _batch_norm(
    out: tuple[Tensor, ...],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    *settings: Any,
) -> Tangent:
    *training, _, eps = settings
    if any(training):
        # No running statistics: x moves its own mean and variance.
        return jvp_of(aten.native_batch_norm.default)(out, x, weight, bias, mean, var, *settings)
    # By running statistics, normalization is an affine map of each channel.
    channel = [-1] + [1] * (x.dim() - 2)
    scale = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
    scale = scale.to(x.dtype).view(channel)

    def tangent(d: Lookup) -> tuple[Tensor | None, ...]:
        dx, dw, db = d(x), d(weight), d(bias)
        total = None
        if dw is not None:
            total = aten.native_batch_norm(x, dw, db, mean, var, False, 0.0, eps)[0]
        elif db is not None:
            total = db.view(channel).expand(x.shape)
        if dx is not None:
            total = dx * scale if total is None else torch.addcmul(total, dx, scale)
        return total, *[None] * (len(out) - 1)

    return tangent


@_rule(aten.gelu.default)
def _gelu(out: Tensor, x: Tensor, *, approximate: str = "none") -> Tangent:
    return lambda d: aten.gelu_backward(d(x), x, approximate=approximate)


@_rule(aten.silu.default)
def _silu(out: Tensor, x: Tensor) -> Tangent:
    return lambda d: aten.silu_backward(d(x), x)


@_rule(aten.relu.default)
def _relu(out: Tensor, x: Tensor) -> Tangent:
    return lambda d: aten.threshold_backward(d(x), out, 0)


@_rule(aten.sigmoid.default)
def _sigmoid(out: Tensor, x: Tensor) -> Tangent:
    return lambda d: aten.sigmoid_backward(d(x), out)


@_rule(aten.tanh.default)
def _tanh(out: Tensor, x: Tensor) -> Tangent:
    return lambda d: aten.tanh_backward(d(x), out)


@_rule(aten._softmax.default)
def _softmax(out: Tensor, x: Tensor, dim: int, half_to_float: bool) -> Tangent:
    return lambda d: aten._softmax_backward_data(d(x).to(out.dtype), out, dim, out.dtype)


@_rule(aten.max_pool2d_with_indices.default)
def _max_pool(out: tuple[Tensor, Tensor], x: Tensor, *geometry: Any) -> Tangent:
    # The position of each maximum within its channel.
    indices = out[1]
    return lambda d: (d(x).flatten(-2).gather(-1, indices.flatten(-2)).view_as(indices), None)


def _attention(
    out: tuple[Any, ...],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    causal: bool,
    scale: float | None,
) -> Tangent:
    """Tangent of softmax(q kᵀ · scale + bias) v, whatever fused kernel computed the primal.

    Args:
        out: what the kernel returned; the first entry is the result.
        q: queries, [..., tokens, width].
        k: keys.
        v: values.
        bias: added to the scores, or None.
        causal: whether a token sees only itself and the tokens before it.
        scale: factor of the scores; 1/√width if None.

    Returns:
        The tangent of `out`.
    """

    def matrices(t: Tensor) -> Tensor:
        return t.reshape(-1, *t.shape[-2:])

    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    rows, columns = q.shape[-2], k.shape[-2]
    q3, k3, v3 = matrices(q), matrices(k), matrices(v)
    # Fused kernels keep no probabilities: they are computed again, once for all vectors.
    p = torch.bmm(q3 * scale, k3.mT)
    if bias is not None:
        p += matrices(bias.expand(*q.shape[:-1], columns))
    if causal:
        p.masked_fill_(
            torch.ones(rows, columns, dtype=torch.bool, device=p.device).triu(1), -math.inf
        )
    p = torch.softmax(p, -1)

    def tangent(d: Lookup) -> tuple[Tensor | None, ...]:
        dq, dk, dv, dbias = d(q), d(k), d(v), d(bias)
        # s = q kᵀ · scale + bias,  ṗ = p ∘ (ṡ − Σ p ∘ ṡ),  ȯ = ṗ v + p v̇
        ds = None if dbias is None else matrices(dbias.expand(*q.shape[:-1], columns))
        if dq is not None:
            ds = _plus(torch.bmm(matrices(dq) * scale, k3.mT), ds)
        if dk is not None:
            moved = matrices(dk).mT
            ds = torch.bmm(q3 * scale, moved) if ds is None else ds.baddbmm(q3, moved, alpha=scale)
        total = None if dv is None else torch.bmm(p, matrices(dv))
        if ds is not None:
            dp = aten._softmax_backward_data(ds, p, -1, p.dtype)
            total = torch.bmm(dp, v3) if total is None else total.baddbmm_(dp, v3)
        return total.view(*q.shape[:-1], v.shape[-1]), *[None] * (len(out) - 1)

    return tangent


@_rule(aten._scaled_dot_product_flash_attention_for_cpu.default)
def _attention_cpu(out, q, k, v, dropout=0.0, causal=False, *, attn_mask=None, scale=None):
    return _attention(out, q, k, v, attn_mask, causal, scale)


@_rule(aten._scaled_dot_product_flash_attention.default)
def _attention_flash(out, q, k, v, dropout=0.0, causal=False, debug=False, *, scale=None):
    return _attention(out, q, k, v, None, causal, scale)


@_rule(
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
)
def _attention_biased(
    out, q, k, v, bias, logsumexp, dropout=0.0, causal=False, debug=False, *, scale=None
):
    return _attention(out, q, k, v, bias, causal, scale)


class _Plain(TorchDispatchMode):
    # PyTorch lets autograd be entered again from inside a mode only under another mode.
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return operation(*args, **(kwargs or {}))


def jvp_of(operation: Any) -> Rule:
    """Make the tangent rule of an operation from PyTorch's forward-mode formula for it.

    Args:
        operation: an ATen operation.

    Returns:
        Its rule. It raises NotImplementedError, with the operation's name, where PyTorch has no
        formula.

    Raises:
        NotImplementedError: for operations of other libraries, which `torch.func.jvp` may take for
            constant without a word.
    """
    if operation.namespace != "aten":
        raise NotImplementedError(f"no tangent rule for {operation}")

    def rule(out: Any, *args: Any, **kwargs: Any) -> Tangent:
        leaves, structure = tree_flatten((args, kwargs))

        def tangent(d: Lookup) -> Any:
            moving = [i for i, leaf in enumerate(leaves) if d(leaf) is not None]
            primals = tuple(leaves[i].detach() for i in moving)
            directions = tuple(d(leaves[i]) for i in moving)

            def of_moving(*values: Tensor) -> Any:
                operands = leaves.copy()
                for i, value in zip(moving, values, strict=True):
                    operands[i] = value
                args, kwargs = tree_unflatten(operands, structure)
                return operation(*args, **kwargs)

            try:
                with enable_reentrant_dispatch(), _Plain(), torch.no_grad():
                    _, moved = torch.func.jvp(of_moving, primals, directions)
            except (NotImplementedError, RuntimeError) as error:
                raise NotImplementedError(
                    f"no tangent rule for {operation}, and torch.func.jvp cannot "
                    f"differentiate it: {error}"
                ) from error
            return moved

        return tangent

    return rule
