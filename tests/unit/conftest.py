"""Small networks and data that several tests share."""

import numpy as np
import pytest
import torch
from torch import nn

from task_arithmetic.encoders import Encoder, Preprocess
from task_arithmetic.measuring import Examples
from task_arithmetic.vectors import TaskVector


@pytest.fixture
def problem():
    """Return a small tower, a head, and images of three classes."""
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.GELU(), nn.Linear(16, 6)).eval()
    encoder = Encoder("small", tower, Preprocess(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    images = torch.randint(0, 256, (20, 4, 4, 3), dtype=torch.uint8)
    return encoder, torch.randn(3, 6), images, torch.randint(0, 3, (20,))


@pytest.fixture
def world(problem):
    """Return a small tower, two task vectors, and the examples of two datasets."""
    encoder, *_ = problem
    parameters = dict(encoder.tower.named_parameters())
    vectors = {
        name: TaskVector({n: torch.randn_like(p) for n, p in parameters.items()})
        for name in ("first", "second")
    }
    draw = np.random.default_rng(0)
    examples = [
        Examples(
            dataset,
            "validation",
            draw.integers(0, 256, (size, 4, 4, 3), dtype=np.uint8),
            draw.integers(0, 3, size),
            draw.normal(size=(3, 6)).astype(np.float32),
        )
        for dataset, size in (("a", 30), ("b", 20))
    ]
    return encoder, vectors, examples
