"""Tangent rules: how a first-order perturbation passes through one tensor operation.

For an operation y = g(a, b, …) a rule computes ẏ = Σ ∂g/∂a · ȧ from the operands, the result y and
the operands' tangents. It does so with as few kernels as the arithmetic allows; three remarks give
nearly all of them:

* an operation that is linear in one operand is its own tangent (views, sums, convolutions);
* an operation that is bilinear needs itself twice (matrix products, convolutions);
* an operation with a symmetric Jacobian (element-wise functions, softmax, layer normalization) has
  its backward kernel as its tangent, because ∂g · ȧ = ȧᵀ · ∂g.

An operation without a rule is differentiated by `torch.func.jvp` of that operation alone.
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

# Tangent of an operand: None stands for zero, also for operands that are not tensors.
Lookup = Callable[[Any], Tensor | None]
# A rule gets the result and the operands once, and returns the map from tangents to tangents:
# whatever several tangents share on the same operands is computed between the two.
Tangent = Callable[[Lookup], Any]
Rule = Callable[..., Tangent]

RULES: dict[Any, Rule] = {}

# Operations whose result does not depend on the operand to first order.
CONSTANT = {
    aten.detach.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.empty_like.default,
    aten.full_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_empty.default,
    aten.new_full.default,
}


def _rule(*operations: Any) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for operation in operations:
            RULES[operation] = rule
        return rule

    return register


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return a if b is None else b
    return a + b


def _linear_in_first(operation: Any) -> Rule:
    return lambda out, x, *args, **kwargs: lambda d: operation(d(x), *args, **kwargs)


for _operation in (
    aten._adaptive_avg_pool2d.default,
    aten._to_copy.default,
    aten.alias.default,
    aten.avg_pool2d.default,
    aten.clone.default,
    aten.diagonal.default,
    aten.expand.default,
    aten.flip.default,
    aten.gather.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.mean.default,
    aten.mean.dim,
    aten.neg.default,
    aten.permute.default,
    aten.repeat.default,
    aten.roll.default,
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
    aten.unfold.default,
    aten.unsqueeze.default,
    aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d.default,
):
    RULES[_operation] = _linear_in_first(_operation)


@_rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(out: Tensor, x: Tensor, shape: list[int]) -> Tangent:
    # The tangent may lie in memory in another order than its primal, where a view cannot follow.
    return lambda d: d(x).reshape(shape)


def _signed_sum(sign: int) -> Rule:
    def rule(out: Tensor, a: Any, b: Any, *, alpha: float = 1) -> Tangent:
        def tangent(d: Lookup) -> Tensor:
            da, db = d(a), d(b)
            if db is None:
                return da if da.shape == out.shape else da.expand(out.shape)
            if da is None:
                db = db if sign * alpha == 1 else sign * alpha * db
                return db if db.shape == out.shape else db.expand(out.shape)
            return torch.add(da, db, alpha=sign * alpha)

        return tangent

    return rule


RULES[aten.add.Tensor] = _signed_sum(1)
RULES[aten.sub.Tensor] = _signed_sum(-1)


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
        return (-out * db if da is None else da - out * db) / b

    return tangent


@_rule(aten.cat.default)
def _cat(out: Tensor, tensors: list[Tensor], dim: int = 0) -> Tangent:
    return lambda d: torch.cat(
        [torch.zeros_like(x) if d(x) is None else d(x) for x in tensors], dim
    )


@_rule(aten.mm.default, aten.bmm.default)
def _mm(out: Tensor, a: Tensor, b: Tensor) -> Tangent:
    def tangent(d: Lookup) -> Tensor:
        da, db = d(a), d(b)
        if da is None:
            return a @ db
        first = da @ b
        if db is None:
            return first
        # Accumulated by the product itself: no second buffer, no extra pass.
        return first.addmm_(a, db) if a.dim() == 2 else first.baddbmm_(a, db)

    return tangent


@_rule(aten.addmm.default)
def _addmm(
    out: Tensor, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tangent:
    def tangent(d: Lookup) -> Tensor:
        dc, da, db = d(c), d(a), d(b)
        if da is None and db is None:
            return (beta * dc).expand(out.shape)
        first, second = (a, db) if da is None else (da, b)
        if dc is None:
            total = alpha * (first @ second) if alpha != 1 else first @ second
        else:
            total = torch.addmm(dc, first, second, beta=beta, alpha=alpha)
        if da is not None and db is not None:
            total.addmm_(a, db, alpha=alpha)
        return total

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
        if dx is not None and dw is not None:
            total += aten.convolution(x, dw, None, *geometry)
        return total

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

    def tangent(d: Lookup) -> tuple[Tensor | None, None, None]:
        dx, dw, db = d(x), d(weight), d(bias)
        moved = None
        if dw is not None:
            # x̂·ẇ + ḃ is a layer norm with the parameters' tangents as parameters.
            moved = aten.native_layer_norm(x, shape, dw, db, eps)[0]
        elif db is not None:
            moved = db.expand(x.shape)
        if dx is None:
            return moved, None, None
        # x ↦ x̂ has the symmetric Jacobian (I − 11ᵀ/n − x̂x̂ᵀ/n)/σ: its backward kernel.
        normed = aten.native_layer_norm_backward(
            dx.contiguous(), x, shape, mean, rstd, None, None, [True, False, False]
        )[0]
        if weight is None:
            return _plus(normed, moved), None, None
        if moved is None:
            return normed * weight, None, None
        return torch.addcmul(moved, normed, weight), None, None

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
    eps = settings[-1]
    training = len(settings) == 3 and settings[0]
    if training:
        raise NotImplementedError("batch normalization by batch statistics has no tangent rule")
    channel = [1, -1] + [1] * (x.dim() - 2)
    scale = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)

    def tangent(d: Lookup) -> tuple[Tensor | None, ...]:
        dx, dw, db = d(x), d(weight), d(bias)
        total = None if dx is None else dx * scale.to(dx.dtype).view(channel)
        if dw is not None:
            normed = aten.native_batch_norm(x, dw, db, mean, var, False, 0.0, eps)[0]
            total = normed if total is None else total.add_(normed)
        elif db is not None:
            total = _plus(total, db.view(channel).expand(x.shape))
        return total, *[None] * (len(out) - 1)

    return tangent


@_rule(aten.gelu.default)
def _gelu(out: Tensor, x: Tensor, *, approximate: str = "none") -> Tangent:
    return lambda d: aten.gelu_backward(d(x), x, approximate=approximate)


@_rule(aten.relu.default)
def _relu(out: Tensor, x: Tensor) -> Tangent:
    return lambda d: aten.threshold_backward(d(x), out, 0)


@_rule(aten.silu.default)
def _silu(out: Tensor, x: Tensor) -> Tangent:
    return lambda d: aten.silu_backward(d(x), x)


@_rule(aten.sigmoid.default)
def _sigmoid(out: Tensor, x: Tensor) -> Tangent:
    return lambda d: aten.sigmoid_backward(d(x), out)


@_rule(aten.tanh.default)
def _tanh(out: Tensor, x: Tensor) -> Tangent:
    return lambda d: aten.tanh_backward(d(x), out)


@_rule(aten._softmax.default)
def _softmax(out: Tensor, x: Tensor, dim: int, half_to_float: bool) -> Tangent:
    return lambda d: aten._softmax_backward_data(d(x), out, dim, x.dtype)


@_rule(aten.max_pool2d_with_indices.default)
def _max_pool(out: tuple[Tensor, Tensor], x: Tensor, *geometry: Any) -> Tangent:
    indices = out[1].flatten(-2)
    return lambda d: (d(x).flatten(-2).gather(-1, indices).view_as(out[1]), None)


def _attend(out: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale):
    # The fused primal keeps no probabilities; the tangent needs them once, for all vectors.
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = torch.matmul(q, k.mT) * scale
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1)
        scores.masked_fill_(future, -math.inf)
    if mask is not None:
        scores = (
            scores.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        )
    p = torch.softmax(scores, -1)

    def tangent(d: Lookup) -> tuple[Any, ...]:
        dq, dk, dv = d(q), d(k), d(v)
        total = None
        if dv is not None:
            total = p @ dv
        ds = None
        if dq is not None:
            ds = dq @ k.mT
        if dk is not None:
            ds = _plus(ds, q @ dk.mT)
        if ds is not None:
            dp = aten._softmax_backward_data(ds * scale, p, -1, p.dtype)
            total = _plus(total, dp @ v)
        return total, *[None] * (len(out) - 1)

    return tangent


@_rule(aten._scaled_dot_product_flash_attention_for_cpu.default)
def _cpu_attention(out, q, k, v, dropout_p=0.0, is_causal=False, *, attn_mask=None, scale=None):
    return _attend(out, q, k, v, attn_mask, is_causal, scale)


@_rule(aten._scaled_dot_product_flash_attention.default)
def _flash_attention(
    out, q, k, v, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None
):
    return _attend(out, q, k, v, None, is_causal, scale)


@_rule(aten._scaled_dot_product_efficient_attention.default)
def _efficient_attention(
    out, q, k, v, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, *, scale=None
):
    return _attend(out, q, k, v, attn_bias, is_causal, scale)


@_rule(aten._scaled_dot_product_cudnn_attention.default)
def _cudnn_attention(
    out,
    q,
    k,
    v,
    attn_bias,
    compute_log_sumexp,
    dropout_p=0.0,
    is_causal=False,
    return_debug_mask=False,
    *,
    scale=None,
):
    return _attend(out, q, k, v, attn_bias, is_causal, scale)


class _Plain(TorchDispatchMode):
    # Autograd can be re-entered from inside a dispatch mode only while another mode is active.
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return operation(*args, **(kwargs or {}))


def jvp_of(operation: Any) -> Rule:
    """Tangent rule of an operation by forward-mode differentiation of that operation alone.

    Args:
        operation: the ATen operation.

    Returns:
        Its rule, exact for every operation that PyTorch can differentiate forward.
    """

    def rule(out: Any, *args: Any, **kwargs: Any) -> Tangent:
        leaves, structure = tree_flatten((args, kwargs))

        def tangent(d: Lookup) -> Any:
            moving = [i for i, leaf in enumerate(leaves) if d(leaf) is not None]

            def of_moving(*values: Tensor) -> Any:
                new = dict(zip(moving, values, strict=True))
                args, kwargs = tree_unflatten(
                    [new.get(i, leaf) for i, leaf in enumerate(leaves)], structure
                )
                return operation(*args, **kwargs)

            primals = tuple(leaves[i].detach() for i in moving)
            directions = tuple(d(leaves[i]) for i in moving)
            try:
                with enable_reentrant_dispatch(), _Plain(), torch.no_grad():
                    _, out_tangents = torch.func.jvp(of_moving, primals, directions)
            except (RuntimeError, NotImplementedError) as error:
                raise NotImplementedError(f"{operation} has no tangent rule: {error}") from error
            return out_tangents

        return tangent

    return rule
