"""Features against direct computation with PyTorch's own functions."""

import numpy as np
import pytest
import torch
from torch import nn

from task_arithmetic.encoders import Encoder, Preprocess
from task_arithmetic.features import edited_features, first_order_features
from task_arithmetic.vectors import TaskVector

PREPROCESS = Preprocess(4, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.fixture
def setting():
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 5)).eval()
    images = torch.randint(0, 256, (7, 4, 4, 3), dtype=torch.uint8).numpy()
    vectors = [
        TaskVector({name: 0.1 * torch.randn_like(w) for name, w in tower.named_parameters()})
        for _ in range(2)
    ]
    return Encoder("small", tower, PREPROCESS), images, vectors


def test_preprocessing_normalizes_every_channel():
    images = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    expected = images.permute(0, 3, 1, 2) / 255
    for channel in range(3):
        expected[:, channel] -= PREPROCESS.mean[channel]
        expected[:, channel] /= PREPROCESS.std[channel]
    torch.testing.assert_close(PREPROCESS(images), expected)


def test_edited_features_are_those_of_the_edited_network(setting):
    encoder, images, (tau, _) = setting
    inputs = PREPROCESS(torch.from_numpy(images))
    before = {name: value.clone() for name, value in encoder.tower.state_dict().items()}
    found = dict(edited_features(encoder, tau, [0.0, 0.5], [images, images[:3]], batch_size=2))
    for alpha in (0.0, 0.5):
        theta = tau.apply_to(before, alpha)
        expected = torch.func.functional_call(encoder.tower, theta, inputs).detach().numpy()
        np.testing.assert_allclose(found[alpha][0], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[alpha][1], expected[:3], rtol=1e-5, atol=1e-6)
    after = encoder.tower.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_first_order_features_are_the_network_and_its_jacobian_products(setting):
    encoder, images, vectors = setting
    f0, tangents = first_order_features(encoder, vectors, images, batch_size=3)
    inputs = PREPROCESS(torch.from_numpy(images))
    theta = {name: value.detach() for name, value in encoder.tower.named_parameters()}
    for tau, tangent in zip(vectors, tangents, strict=True):
        primal, expected = torch.func.jvp(
            lambda theta: torch.func.functional_call(encoder.tower, theta, inputs),
            (theta,),
            (dict(tau),),
        )
        np.testing.assert_allclose(f0, primal.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tangent, expected.numpy(), rtol=1e-4, atol=1e-5)
