"""Features of a dataset: by the edited network, or f0 and Jτ, from which every edit follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from task_arithmetic.encoders import Encoder
from task_arithmetic.loading import Images, as_images, in_order
from task_arithmetic.progress import Progress
from task_arithmetic.tangent import tangent_features
from task_arithmetic.vectors import TaskVector


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def edited_features(
    encoder: Encoder,
    vector: TaskVector,
    alphas: Sequence[float],
    images: Sequence[Images | UInt8[np.ndarray, "examples height width 3"]],
    batch_size: int,
    description: str = "edited features",
) -> Iterator[tuple[float, list[Float[np.ndarray, "examples features"]]]]:
    """Compute the features f(x; θ0 + α·τ) of the edited network for every α.

    Args:
        encoder: The pre-trained tower θ0.
        vector: The task vector τ.
        alphas: Scaling coefficients.
        images: The images of each dataset split; those in memory stay there for all α.
        batch_size: Images per forward pass.
        description: What to call the work in progress reports.

    Yields:
        Each α with the features per dataset split.
    """
    device = default_device()
    tower = encoder.tower.to(device)
    pretrained = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    total = len(alphas) * sum(len(split) for split in images)
    with Progress(description, total, "image") as progress:
        for alpha in alphas:
            tower.load_state_dict(vector.apply_to(pretrained, alpha))
            features = []
            for split in images:
                parts = []
                for inputs in preprocessed(encoder, split, batch_size, device):
                    parts.append(tower(inputs).float().cpu().numpy())
                    progress.advance(len(inputs))
                features.append(np.concatenate(parts))
            yield alpha, features
    tower.load_state_dict(pretrained)


def first_order_features(
    encoder: Encoder,
    vectors: Sequence[TaskVector],
    images: Images | UInt8[np.ndarray, "examples height width 3"],
    batch_size: int,
    description: str = "tangent features",
) -> tuple[Float[np.ndarray, "examples features"], list[Float[np.ndarray, "examples features"]]]:
    """Compute f(x; θ0) and J(x; θ0)·τ for several task vectors, sharing the primal pass.

    Args:
        encoder: The pre-trained tower θ0.
        vectors: Task vectors τ.
        images: Images of one dataset split.
        batch_size: Images per pass.
        description: What to call the work in progress reports.

    Returns:
        f0, and one Jτ per task vector.
    """
    device = default_device()
    tower = encoder.tower.to(device)
    on_device = [{name: tensor.to(device) for name, tensor in tau.items()} for tau in vectors]
    primal, tangents = [], []
    with Progress(description, len(images), "image") as progress:
        for inputs in preprocessed(encoder, images, batch_size, device):
            f0, jvps = tangent_features(tower, on_device, inputs)
            primal.append(f0.float().cpu().numpy())
            tangents.append(jvps.float().cpu().numpy())
            progress.advance(len(inputs))
    return np.concatenate(primal), list(np.concatenate(tangents, axis=1))


def preprocessed(
    encoder: Encoder,
    images: Images | UInt8[np.ndarray, "examples height width 3"],
    batch_size: int,
    device: torch.device,
) -> Iterator[Float[Tensor, "batch 3 height width"]]:
    """Yield the inputs of an encoder in order, batch by batch.

    Args:
        encoder: The encoder, for its preprocessing.
        images: Images of one dataset split.
        batch_size: Images per batch.
        device: Where the inputs are wanted.

    Yields:
        Preprocessed images.
    """
    for batch in as_images(images).batches(in_order(len(images), batch_size)):
        yield encoder.preprocess(torch.from_numpy(batch).to(device))
