"""The tangent kernel against dense Jacobians, and kernel regression against linear training."""

from itertools import accumulate

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from task_arithmetic.encoders import build_clip
from task_arithmetic.kernel import AllocationCount, eigenfunctions, tangent_kernel
from task_arithmetic.tangent import linearize

ARCHITECTURE = {
    "embed_dim": 6,
    "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 8, "layers": 2, "head_width": 4},
    "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 4, "heads": 1, "layers": 1},
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def dense_jacobian(tower, head, images):
    """Return ∂logits/∂θ, `[images, classes, parameters]`, one backward pass per entry."""
    parameters, rows = list(tower.parameters()), []
    for image in images:
        logits = F.normalize(tower(image[None]), dim=-1) @ head.T
        for logit in logits[0]:
            found = torch.autograd.grad(logit, parameters, retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat([
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(parameters, found, strict=True)
                ])
            )
    return torch.stack(rows).reshape(len(images), len(head), -1)


def dense_kernel(tower, head, left, right):
    pair = [dense_jacobian(tower, head, images) for images in (left, right)]
    return (torch.einsum("icp,jcp->ij", *pair) / len(head)).numpy()


@pytest.mark.parametrize("memory", [1, 2_000, 10_000_000])
def test_the_kernel_is_the_product_of_dense_jacobians_however_little_memory_it_has(memory):
    tower, head = network(), torch.randn(4, 3, dtype=torch.float64)
    left, right = torch.randn(5, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    done = []
    found = tangent_kernel(tower, head, left, right, memory, done.append)
    np.testing.assert_allclose(found, dense_kernel(tower, head, left, right), rtol=1e-10)
    assert sum(done) % 15 == 0


def test_the_kernel_of_a_vision_transformer_is_that_of_its_dense_jacobians():
    torch.manual_seed(0)
    tower = build_clip(ARCHITECTURE).visual.double()
    head = torch.randn(3, 6, dtype=torch.float64)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    found = tangent_kernel(tower, head, images, images[:3], memory=10**6)
    np.testing.assert_allclose(found, dense_kernel(tower, head, images, images[:3]), rtol=1e-8)


def test_kernel_regression_is_infinitesimal_linear_training():
    """Gradient flow on the squared loss of f_lin moves it by K(x, X) K⁻¹ (1 − exp(−K t)) r."""
    torch.manual_seed(1)
    tower, head = network(), torch.randn(1, 3, dtype=torch.float64)
    seen, unseen = torch.randn(4, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    targets = torch.randn(4, dtype=torch.float64)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = tower

        def forward(self, x):
            return F.normalize(self.tower(x), dim=-1) @ head.T

    model, rate, steps = linearize(Logits()), 1e-3, 3000
    start = model(unseen).detach()[:, 0].numpy()
    residual = (targets - model(seen).detach()[:, 0]).numpy()
    for _ in range(steps):
        model.zero_grad()
        (0.5 * (model(seen)[:, 0] - targets).square().sum()).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
    kernel = tangent_kernel(tower, head, seen, seen, memory=10**6)
    across = tangent_kernel(tower, head, unseen, seen, memory=10**6)
    values, vectors = np.linalg.eigh(kernel)
    learnt = (1 - np.exp(-values * rate * steps)) / values
    expected = start + across @ (vectors * learnt) @ vectors.T @ residual
    moved = model(unseen).detach()[:, 0].numpy()
    assert np.abs(moved - start).max() > 0.1
    np.testing.assert_allclose(moved, expected, atol=2e-3)


def test_eigenfunctions_have_unit_energy_on_their_own_images():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 5))
    kernel = features @ features.T
    found = eigenfunctions(kernel, share=1 - 1e-9)
    assert found.values.shape == (5,)
    assert found.values == pytest.approx(np.linalg.eigvalsh(features.T @ features / 12)[::-1])
    phi = found.at(kernel)
    np.testing.assert_allclose(phi.T @ phi / 12, np.eye(5), atol=1e-10)
    # Mercer: k(x, x') = Σ_ρ λ_ρ φ_ρ(x) φ_ρ(x').
    np.testing.assert_allclose((phi * found.values) @ phi.T, kernel, atol=1e-10)


def test_eigenfunctions_vanish_where_the_kernel_does():
    own = np.diag([3.0, 2.0, 1.0])
    found = eigenfunctions(own, share=0.8)
    assert len(found.values) == 2
    assert found.trace == pytest.approx(2)
    assert (found.at(np.zeros((4, 3))) == 0).all()


def allocated(run):
    """Return the most bytes that torch allocated at once while a function ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


RESNET = {**ARCHITECTURE["vision_cfg"], "image_size": 32, "layers": [1, 1, 1, 1], "head_width": 64}


@pytest.mark.parametrize(
    ("vision", "memory"),
    [(ARCHITECTURE["vision_cfg"], 6), (ARCHITECTURE["vision_cfg"], 20), (RESNET, 6)],
)
def test_all_that_is_allocated_stays_within_the_memory_given(vision, memory):
    torch.manual_seed(0)
    tower = build_clip({**ARCHITECTURE, "vision_cfg": vision}).visual.eval()
    size = sum(p.nbytes for p in tower.parameters())
    limit = memory * size
    head, images = torch.randn(3, 6), torch.randn(4, 3, vision["image_size"], vision["image_size"])
    peak = allocated(lambda: tangent_kernel(tower, head, images, images, limit))
    assert peak <= limit
    # And it is used: the blocks are not merely small.
    assert peak > 0.4 * limit


def test_the_count_of_allocations_is_that_of_the_allocator():
    tower = build_clip(ARCHITECTURE).visual
    images = torch.randn(3, 3, 8, 8)

    def run():
        tower(images).sum().backward()
        tower.zero_grad()

    run()
    with AllocationCount() as count:
        run()
    assert count.peak == pytest.approx(allocated(run), rel=0.02)
