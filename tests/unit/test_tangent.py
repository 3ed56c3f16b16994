"""The tangent engine against dense Jacobians, `torch.func.jvp` and reference training."""

import copy
import subprocess
import sys
import textwrap
from collections import Counter

import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from task_arithmetic import tangent
from task_arithmetic.tangent import linearize, tangent_features
from task_arithmetic.tangent_rules import RULES

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


# ---- modules


def vit(width=16, layers=2, patch=8, image=16, heads=2, features=5):
    return VisionTransformer(image, patch, width, layers, heads, 2.0, output_dim=features)


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3))


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.GroupNorm(2, 6),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.SiLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def resnet(width=4, image=32):
    return ModifiedResNet([1, 1, 1, 1], 5, heads=2, image_size=image, width=width)


def convnext(depths=(1, 1, 1, 1), dims=(4, 4, 8, 8)):
    return timm.create_model("convnext_atto", num_classes=5, depths=depths, dims=dims)


class Attention(nn.Module):
    """Causal attention with a learned bias of the scores."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.bias = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        q, k, v = self.qkv(x).view(len(x), 3, 3, 2, 2).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return x + F.scaled_dot_product_attention(v, q, k, is_causal=True, scale=0.3)


class Assorted(nn.Module):
    """Operations with rules and without, in place and on views."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(4, 4))
        self.b = nn.Parameter(torch.rand(4))
        self.tied = self.a
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)

    def forward(self, x):
        y = x @ self.a - self.b / (1 + self.b.square()) + self.frozen
        y += x * self.b
        y[:, 1:3].mul_(self.b[:2]).relu_()
        y = torch.where(y > 0, y.exp(), y) @ self.tied
        y = F.normalize(y, dim=-1) + torch.cat([y.detach(), self.b.expand(2, 4)]).mean(0)
        return y.softmax(-1) + torch.einsum("ij,kj->ik", y, self.a).logsumexp(-1, keepdim=True)


MODULES = {
    "mlp": (mlp, (2, 4)),
    "cnn": (cnn, (2, 3, 11, 11)),
    "attention": (Attention, (2, 3, 4)),
    "assorted": (Assorted, (2, 4)),
    "vit": (vit, (2, 3, 16, 16)),
    "resnet": (resnet, (2, 3, 32, 32)),
    "convnext": (convnext, (2, 3, 32, 32)),
}


def build(name, dtype=torch.float64):
    make, shape = MODULES[name]
    module = make().to(dtype).eval()
    with torch.no_grad():
        # Neither zeros nor ones: no term of a rule may hide behind an initialization.
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d) and m.track_running_stats:
                m.running_mean.normal_()
                m.running_var.uniform_(0.5, 2)
    return module, torch.randn(shape, dtype=dtype)


def perturb(module, scale=0.1):
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(scale * torch.randn_like(p))


def displacement(linear, module):
    theta0 = dict(module.named_parameters())
    return {name: (p - theta0[name]).detach() for name, p in linear.named_parameters()}


def dense_jacobian(module, x):
    """∂ output / ∂ parameter, one row at a time by reverse mode."""
    names, parameters = zip(
        *((n, p) for n, p in module.named_parameters() if p.requires_grad), strict=True
    )
    out = module(x)
    rows = [
        torch.autograd.grad(y, parameters, retain_graph=True, materialize_grads=True)
        for y in out.flatten()
    ]
    return out.detach(), {
        n: torch.stack(r) for n, r in zip(names, zip(*rows, strict=True), strict=True)
    }


def reference(module, theta, x, only_moved=False):
    """f(x; θ0) + J · (θ − θ0), or its second term, by `torch.func.jvp`, differentiable in θ."""
    theta0 = {n: p.detach() for n, p in module.named_parameters()}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            f, moved = jvp(
                lambda p: functional_call(module, p, (x,)),
                (theta0,),
                ({n: theta[n] - theta0[n] for n in theta0},),
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return moved if only_moved else f + moved


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


# ---- exactness


@pytest.mark.parametrize("name", MODULES)
def test_values_and_gradients_equal_those_of_the_dense_jacobian(name):
    module, x = build(name)
    linear = linearize(module)
    perturb(linear)
    f, jacobian = dense_jacobian(module, x)
    tau = displacement(linear, module)
    expected = f.flatten() + sum(j.flatten(1) @ tau[n].flatten() for n, j in jacobian.items())

    out = linear(x)
    assert (out.flatten() - expected).abs().max() < 1e-10

    cotangent = torch.randn_like(out)
    out.backward(cotangent)
    for n, p in linear.named_parameters():
        if p.requires_grad:
            gradient = torch.tensordot(cotangent.flatten(), jacobian[n], 1)
            assert (p.grad - gradient).abs().max() < 1e-10, n


@pytest.mark.parametrize("name", MODULES)
def test_features_equal_those_of_the_dense_jacobian_and_share_one_primal_pass(name):
    module, x = build(name)
    f, jacobian = dense_jacobian(module, x)
    every = {n: torch.randn_like(p) for n, p in module.named_parameters() if p.requires_grad}
    half = dict(list(every.items())[::2])
    vectors = [every, {}, half]
    f0, moved = tangent_features(module, vectors, x)
    assert torch.equal(f0, f) or (f0 - f).abs().max() < 1e-12
    for vector, out in zip(vectors, moved, strict=True):
        expected = sum(
            (jacobian[n].flatten(1) @ t.flatten() for n, t in vector.items()), f.flatten() * 0
        )
        assert (out.flatten() - expected).abs().max() < 1e-10
    assert not f0.requires_grad and not moved.requires_grad


TOWERS = {
    "ViT tiny": (lambda: vit(192, 4, 8, 32, 3, 64), (4, 3, 32, 32)),
    "ViT-B/32": (lambda: vit(768, 1, 32, 224, 12, 512), (2, 3, 224, 224)),
    "ViT-B/16": (lambda: vit(768, 1, 16, 224, 12, 512), (1, 3, 224, 224)),
    "RN50": (lambda: ModifiedResNet([1, 1, 1, 1], 64, 8, 64, width=32), (2, 3, 64, 64)),
    "ConvNeXt": (
        lambda: convnext((1, 1, 2, 1), (40, 80, 160, 320)),
        (2, 3, 64, 64),
    ),
}


@pytest.mark.parametrize("name", TOWERS)
def test_towers_in_single_precision_agree_with_functional_jvp(name):
    make, shape = TOWERS[name]
    module, x = make().eval(), torch.randn(shape)
    linear = linearize(module)
    perturb(linear, 1e-3)
    theta = {n: p.detach().requires_grad_() for n, p in linear.named_parameters()}
    expected = reference(module, theta, x)
    out = linear(x)
    assert relative(out, expected) < 1e-5
    _, moved = tangent_features(module, [displacement(linear, module)], x)
    assert relative(moved[0], reference(module, theta, x, only_moved=True)) < 1e-5

    cotangent = torch.randn_like(out)
    out.backward(cotangent)
    gradients = torch.autograd.grad(expected, list(theta.values()), cotangent)
    # Some parameters (a bias of all keys, say) have no gradient but rounding: compare as a whole.
    whole = torch.stack([g.norm() for g in gradients]).norm()
    for (n, p), g in zip(linear.named_parameters(), gradients, strict=True):
        assert (p.grad - g).norm() < 1e-5 * whole, n


def test_twenty_adamw_steps_follow_the_reference_trajectory():
    module, _ = build("vit")
    linear = linearize(module)
    theta = {n: p.detach().clone().requires_grad_() for n, p in linear.named_parameters()}
    settings = {"lr": 1e-3, "weight_decay": 0.1}
    ours = torch.optim.AdamW(linear.parameters(), **settings)
    theirs = torch.optim.AdamW(theta.values(), **settings)
    for _ in range(20):
        x, y = torch.randn(4, 3, 16, 16).double(), torch.randint(5, (4,))
        losses = []
        for optimizer, f in ((ours, linear), (theirs, lambda x: reference(module, theta, x))):
            optimizer.zero_grad()
            loss = F.cross_entropy(f(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert abs(losses[0] - losses[1]) < 1e-10
    for n, p in linear.named_parameters():
        assert (p - theta[n]).abs().max() < 1e-7, n


# ---- rules


def _operands():
    x, w = torch.randn(2, 3, 4), torch.randn(4)
    image, weight = torch.randn(2, 4, 6, 6), torch.randn(4, 2, 3, 3)
    heads = [torch.randn(2, 2, 5, 3) for _ in range(3)]
    statistics = (torch.randn(4), torch.rand(4) + 0.5)
    geometry = ([2, 2], [1, 1], [1, 1], False, [0, 0], 2)
    return {
        aten.add.Tensor: [(x, w, {"alpha": 2.0}), (w, x), (x, 1.5), (x, x.clone())],
        aten.sub.Tensor: [(x, w, {"alpha": 2.0}), (w, x)],
        aten.mul.Tensor: [(x, w), (w, x), (x, 2.0), (x, x)],
        aten.div.Tensor: [(x, w), (w, x), (x, 2.0)],
        aten.cat.default: [([x, w.expand(2, 3, 4)], -1)],
        aten.mm.default: [(x[0], x[1].mT.contiguous())],
        aten.bmm.default: [(x, x.mT.contiguous())],
        aten.addmm.default: [
            (torch.randn(3), x[0], x[1].mT.contiguous()),
            (torch.randn(3, 3), x[0], x[1].mT.contiguous(), {"beta": 2.0, "alpha": 0.5}),
        ],
        aten.convolution.default: [(image, weight, w, *geometry), (image, weight, None, *geometry)],
        aten.native_layer_norm.default: [
            (x, [4], w, w.flip(0), 1e-5),
            (x, [3, 4], None, None, 1e-5),
        ],
        aten.native_batch_norm.default: [
            (image, w, w.flip(0), *statistics, False, 0.1, 1e-5),
            (image, None, None, *statistics, False, 0.1, 1e-5),
        ],
        aten.gelu.default: [(x,), (x, {"approximate": "tanh"})],
        aten.silu.default: [(x,)],
        aten.relu.default: [(x,)],
        aten.sigmoid.default: [(x,)],
        aten.tanh.default: [(x,)],
        aten._softmax.default: [(x, 1, False)],
        aten.max_pool2d_with_indices.default: [(image, [3, 3], [2, 2], [1, 1])],
        aten.avg_pool2d.default: [(image, [2, 2])],
        aten._adaptive_avg_pool2d.default: [(image, [2, 3])],
        aten.view.default: [(x, [6, 4])],
        aten.sum.dim_IntList: [(x, [1], True)],
        aten._scaled_dot_product_flash_attention_for_cpu.default: [
            tuple(heads),
            (*heads, 0.0, True),
            (*heads, {"attn_mask": torch.randn(5, 5), "scale": 0.7}),
        ],
    }


def _cases():
    torch.manual_seed(0)
    for operation, calls in _operands().items():
        for i, call in enumerate(calls):
            yield pytest.param(operation, call, id=f"{operation}-{i}")


@pytest.mark.parametrize(("operation", "call"), list(_cases()))
def test_every_rule_equals_the_forward_mode_formula_of_its_operation(operation, call):
    *args, kwargs = call if isinstance(call[-1], dict) else (*call, {})
    args = torch.utils._pytree.tree_map_only(Tensor, Tensor.double, tuple(args))
    kwargs = torch.utils._pytree.tree_map_only(Tensor, Tensor.double, kwargs)
    leaves = [
        x
        for x in torch.utils._pytree.tree_leaves((args, kwargs))
        if isinstance(x, Tensor) and x.is_floating_point()
    ]
    statistics = leaves[-2:] if operation == aten.native_batch_norm.default else []
    leaves = [x for x in leaves if not any(x is s for s in statistics if args[5] is False)]
    tangents = {id(x): torch.randn_like(x) for x in leaves}
    # Each operand moving alone, then all of them.
    for moving in [*({k: t} for k, t in tangents.items()), tangents]:
        out = operation(*args, **kwargs)
        found = RULES[operation](out, *args, **kwargs)(lambda x, m=moving: m.get(id(x)))
        found = found[0] if isinstance(found, tuple) else found
        assert (found - _by_jvp(operation, args, kwargs, moving)).abs().max() < 1e-10


def _by_jvp(operation, args, kwargs, moving):
    flash = operation == aten._scaled_dot_product_flash_attention_for_cpu.default
    if flash:
        names = dict(zip(("dropout_p", "is_causal"), args[3:], strict=False))
        args, kwargs = args[:3], {**kwargs, **names}
        operation = aten._scaled_dot_product_attention_math.default
    leaves, structure = torch.utils._pytree.tree_flatten((args, kwargs))
    where = [i for i, x in enumerate(leaves) if id(x) in moving]

    def f(*values):
        new = leaves.copy()
        for i, value in zip(where, values, strict=True):
            new[i] = value
        a, k = torch.utils._pytree.tree_unflatten(new, structure)
        return operation(*a, **k)

    _, out = jvp(f, tuple(leaves[i] for i in where), tuple(moving[id(leaves[i])] for i in where))
    return out[0] if isinstance(out, tuple) else out


class Through(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.f = f

    def forward(self, x):
        return self.f(self.linear(x))


@torch.library.custom_op("tangent_test::cube", mutates_args=())
def _cube(x: Tensor) -> Tensor:
    return x**3


@pytest.mark.parametrize(
    ("f", "name"),
    [
        (lambda x: torch.cdist(x, x + 1), "aten._cdist_forward"),
        (lambda x: _cube(x), "tangent_test.cube"),
        (lambda x: torch.sin(x, out=torch.empty_like(x)), "aten.sin.out"),
        (lambda x: torch.zeros(2, 3)[:, 1:].copy_(x[:, 1:]), "aten.copy_"),
    ],
)
def test_an_operation_that_cannot_be_differentiated_names_itself(f, name):
    linear = linearize(Through(f))
    perturb(linear)
    with pytest.raises(NotImplementedError, match=name), torch.no_grad():
        linear(torch.randn(2, 3))


# ---- an ordinary module


def test_names_and_values_of_the_state_dict_are_the_modules():
    module, _ = build("cnn")
    linear = linearize(module)
    assert list(linear.state_dict()) == list(module.state_dict())
    assert [n for n, _ in linear.named_parameters()] == [n for n, _ in module.named_parameters()]
    perturb(linear)
    module.load_state_dict(linear.state_dict())
    other = linearize(build("cnn")[0])
    other.load_state_dict(linear.state_dict())
    for a, b in zip(other.parameters(), module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_linearizing_leaves_the_module_alone():
    module, x = build("mlp")
    before = copy.deepcopy(module.state_dict())
    linear = linearize(module.train())
    perturb(linear)
    linear(x).sum().backward()
    assert module.training and all(p.grad is None for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_training_mode_keeps_dropout_off_and_running_statistics_still():
    module, x = build("cnn")
    linear = linearize(module).train()
    assert linear.training
    assert torch.equal(linear(x), module(x))
    assert torch.equal(linear.state_dict()["1.running_mean"], module[1].running_mean)


def test_a_loaded_buffer_does_not_move_the_point_of_expansion():
    module, x = build("cnn")
    linear = linearize(module)
    state = linear.state_dict()
    state["1.running_mean"] += 1
    linear.load_state_dict(state)
    assert torch.equal(linear(x), module(x))


def test_moving_and_copying_the_module_takes_its_origin_along():
    module, x = build("mlp")
    linear = linearize(module)
    perturb(linear)
    twin = copy.deepcopy(linear)
    assert torch.equal(twin(x), linear(x))
    perturb(twin)
    assert not torch.equal(twin(x), linear(x))
    assert twin.float()(x.float()).dtype == torch.float32


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_values_are_the_same_without_a_graph(guard):
    for name in MODULES:
        if name == "assorted" and guard is torch.inference_mode:
            continue  # views of inference tensors do not know their base
        module, x = build(name)
        linear = linearize(module)
        perturb(linear)
        with guard():
            out = linear(x)
        assert not out.requires_grad
        assert (out - linear(x)).abs().max() < 1e-12


@pytest.mark.parametrize("guard", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_attention_modules_with_a_fused_evaluation_kernel_have_tangents(guard):
    module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    linear, x = linearize(module), torch.randn(2, 3, 8).double()
    perturb(linear)
    _, jacobian = dense_jacobian(module, x)
    tau = displacement(linear, module)
    expected = sum(j.flatten(1) @ tau[n].flatten() for n, j in jacobian.items())
    with guard():
        moved = linear(x) - module(x)
    assert (moved.flatten() - expected).abs().max() < 1e-10
    assert torch.backends.mha.get_fastpath_enabled()


def test_only_the_chosen_parameters_move():
    module, x = build("vit")
    linear = linearize(module, lambda name: "attn" in name)
    chosen = {n for n, p in linear.named_parameters() if p.requires_grad}
    assert chosen == {n for n, _ in module.named_parameters() if "attn" in n}
    perturb(linear)
    _, jacobian = dense_jacobian(module, x)
    tau = displacement(linear, module)
    expected = sum(jacobian[n].flatten(1) @ tau[n].flatten() for n in chosen)
    assert ((linear(x) - module(x)).flatten() - expected).abs().max() < 1e-10
    linear(x).sum().backward()
    assert {n for n, p in linear.named_parameters() if p.grad is not None} == chosen


def test_gradients_accumulate_over_micro_batches():
    module, x = build("vit")
    x = torch.cat([x, -x])
    linear = linearize(module)
    perturb(linear)
    linear(x).square().sum().backward()
    whole = [p.grad.clone() for p in linear.parameters()]
    linear.zero_grad()
    for part in x.split(1):
        linear(part).square().sum().backward()
    for p, g in zip(linear.parameters(), whole, strict=True):
        assert (p.grad - g).abs().max() < 1e-10


def test_activation_checkpointing_changes_nothing():
    module, x = build("vit")
    plain = linearize(module)
    module.set_grad_checkpointing(True)
    linear = linearize(module).train()
    linear._origin[0].transformer.grad_checkpointing = True
    calls = Counter()
    linear._origin[0].transformer.resblocks[0].register_forward_pre_hook(
        lambda *_: calls.update(["block"])
    )
    perturb(linear)
    plain.load_state_dict(linear.state_dict())
    for m in (plain, linear):
        m(x).square().sum().backward()
    assert calls["block"] == 2
    for a, b in zip(plain.parameters(), linear.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() < 1e-12


def test_reentrant_checkpointing_is_refused():
    class Checkpointed(nn.Sequential):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=True)

    linear = linearize(nn.Sequential(nn.Linear(3, 3), Checkpointed(nn.Linear(3, 3), nn.Tanh())))
    perturb(linear)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        linear(torch.randn(2, 3)).sum().backward()


def test_autocast_matches_the_reference_to_the_precision_of_bfloat16():
    module, x = vit(64, 2, 8, 32, 2, 16).eval(), torch.randn(4, 3, 32, 32)
    linear = linearize(module)
    perturb(linear, 1e-2)
    exact, gradients = linear(x), None
    exact.square().sum().backward()
    gradients = [p.grad.clone() for p in linear.parameters()]
    linear.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        out, again = linear(x), linear(x)
    assert torch.equal(out, again)
    out.float().square().sum().backward()
    assert relative(out.float(), exact) < 0.03
    whole = torch.stack([g.norm() for g in gradients]).norm()
    for p, g in zip(linear.parameters(), gradients, strict=True):
        assert p.grad.dtype == torch.float32
        assert (p.grad - g).norm() < 0.03 * whole


def test_a_gradient_scaler_scales_and_unscales_exactly():
    module, x = build("mlp", torch.float32)
    linear = linearize(module)
    perturb(linear)
    optimizer = torch.optim.SGD(linear.parameters(), 0.1)
    linear(x).square().sum().backward()
    plain = [p.grad.clone() for p in linear.parameters()]
    linear.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(linear(x).square().sum()).backward()
    assert torch.equal(next(linear.parameters()).grad, plain[0] * 2**10)
    scaler.unscale_(optimizer)
    for p, g in zip(linear.parameters(), plain, strict=True):
        assert torch.equal(p.grad, g)
    scaler.step(optimizer)
    scaler.update()


def test_inputs_that_require_a_gradient_are_refused():
    linear = linearize(mlp())
    with pytest.raises(ValueError, match="requires_grad"):
        linear(torch.randn(2, 4, requires_grad=True))


def test_second_derivatives_are_refused():
    linear = linearize(mlp())
    perturb(linear)
    loss = linear(torch.randn(2, 4)).square().sum()
    gradient = torch.autograd.grad(loss, linear.get_parameter("0.weight"), create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_compiled_model_gives_the_same_gradients():
    module, x = build("mlp")
    model = linearize(module)
    perturb(model)
    gradients = []
    for variant in (model, torch.compile(model, backend="aot_eager")):
        variant(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_two_processes_average_their_gradients_through_accelerate(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent("""
        import sys, torch
        from accelerate import Accelerator
        from torch import nn
        from task_arithmetic.tangent import linearize
        torch.set_num_threads(1)
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3))
        x = torch.randn(4, 4)
        accelerator = Accelerator(cpu=True)
        assert accelerator.num_processes == 2
        linear = linearize(module)
        optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1)
        linear, optimizer = accelerator.prepare(linear, optimizer)
        alone = linearize(module)
        other = torch.optim.AdamW(alone.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            other.zero_grad()
            rank = accelerator.process_index
            accelerator.backward(linear(x[2 * rank : 2 * rank + 2]).square().mean())
            alone(x).square().mean().backward()
            optimizer.step()
            other.step()
        for p, q in zip(accelerator.unwrap_model(linear).parameters(), alone.parameters()):
            assert (p - q).abs().max() < 1e-5
        print("agreed", flush=True)
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("agreed") == 2


# ---- cost


class Counting(TorchDispatchMode):
    """Counts the multiplications of matrix products and convolutions."""

    def __init__(self):
        super().__init__()
        self.products = self.attention = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        with self:
            out = operation.decompose(*args, **(kwargs or {}))
        if out is not NotImplemented:
            return out
        out = operation(*args, **(kwargs or {}))
        if operation in (aten.mm.default, aten.addmm.default, aten.addmm_.default):
            self.products += out.numel() * args[-1].shape[0]
        if operation == aten.convolution.default:
            self.products += out.numel() * args[1][0].numel()
        if operation == aten.convolution_backward.default:
            self.products += args[0].numel() * args[2][0].numel() * sum(args[-1][:2])
        self.attention += operation == aten._scaled_dot_product_flash_attention_for_cpu.default
        return out


def products(f):
    with Counting() as counting:
        f()
    return counting.products


def test_a_step_multiplies_no_more_than_five_thirds_of_a_non_linear_step():
    module, x = build("vit", torch.float32)
    linear = linearize(module)
    perturb(linear)
    plain = products(lambda: module(x).sum().backward())
    ours = products(lambda: linear(x).sum().backward())
    assert ours <= 5 / 3 * plain


def test_a_block_that_has_not_moved_costs_nothing():
    module, x = build("vit", torch.float32)
    linear = linearize(module)
    forward = products(lambda: module(x))
    assert products(lambda: linear(x)) == forward
    with torch.no_grad():
        linear.proj.add_(1)
    assert products(lambda: linear(x)) == forward + len(x) * linear.proj.numel()


def test_vectors_share_the_primal_pass():
    module, x = build("vit", torch.float32)
    vectors = [{n: torch.randn_like(p) for n, p in module.named_parameters()} for _ in range(8)]
    forward = products(lambda: module(x))
    assert products(lambda: tangent_features(module, vectors, x)) <= (1 + 2 * 8) * forward


def test_the_primal_keeps_fused_attention():
    module, x = build("vit", torch.float32)
    linear = linearize(module)
    perturb(linear)
    with Counting() as counting:
        linear(x)
    assert counting.attention == len(module.transformer.resblocks)


def test_nothing_of_the_tangent_pass_is_kept(monkeypatch):
    module, x = build("vit")
    linear = linearize(module)
    perturb(linear)
    made = []
    attach = tangent._attach

    def spy(out, results):
        attach(out, results)
        made.extend(
            torch.multiprocessing.reductions.StorageWeakRef(r.untyped_storage())
            for r in results
            if isinstance(r, Tensor)
        )

    monkeypatch.setattr(tangent, "_attach", spy)
    out = linear(x)
    assert out.requires_grad and len(made) > 50
    assert all(ref.expired() for ref in made)


# ---- tangent features


def test_vectors_in_chunks_equal_vectors_at_once(monkeypatch):
    module, x = build("vit")
    vectors = [{n: torch.randn_like(p) for n, p in module.named_parameters()} for _ in range(5)]
    _, whole = tangent_features(module, vectors, x)
    monkeypatch.setattr(tangent, "VECTORS_AT_ONCE", 2)
    _, parts = tangent_features(module, vectors, x)
    assert torch.equal(whole, parts)


def test_features_without_vectors_are_the_pretrained_ones():
    module, x = build("cnn")
    f0, moved = tangent_features(module.train(), [], x)
    assert moved.shape == (0, *f0.shape)
    assert module.training and module[1].training
    assert torch.equal(f0, module.eval()(x))


def test_features_are_those_of_evaluation_mode():
    module, x = build("cnn")
    vector = {n: torch.randn_like(p) for n, p in module.named_parameters()}
    expected = tangent_features(module, [vector], x)
    found = tangent_features(module.train(), [vector], x)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ({"0.weigth": torch.zeros(6, 4)}, r"vectors\[0\]: .* no parameter named '0.weigth'"),
        ({"0.weight": torch.zeros(4, 6)}, r"'0.weight'\]: expected shape \(6, 4\), found \(4, 6\)"),
    ],
)
def test_vectors_that_do_not_fit_the_module_are_refused_by_name(vector, message):
    with pytest.raises(ValueError, match=message):
        tangent_features(mlp(), [vector], torch.randn(2, 4))
