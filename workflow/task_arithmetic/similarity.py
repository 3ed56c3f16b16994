"""Similarity of task vectors: cosines between tasks, over all parameters and layer by layer.

Ilharco et al. 2023 (figure 5) explain addition by vectors that are almost orthogonal.
No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from task_arithmetic.layers import layers_of

ALL_LAYERS = "all layers"


def cosines(
    vectors: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Float[np.ndarray, "tasks tasks"]]:
    """Return cos(τ_s, τ_t) = ⟨τ_s, τ_t⟩ / (‖τ_s‖ ‖τ_t‖) between all vectors, by layer.

    Inner products are accumulated in float64. A vector that is zero in a layer has no angle there:
    its cosines are missing.

    Args:
        vectors: Named tensors of each task vector, by task; all with the same names.

    Returns:
        Matrices in the order of the tasks: `all layers` first, then each layer from the input of
        the network to its output.
    """
    layers = layers_of(next(iter(vectors.values())))
    products = {
        layer: sum(_products([vector[name] for vector in vectors.values()]) for name in names)
        for layer, names in layers.items()
    }
    return {
        layer: _normalized(product)
        for layer, product in {ALL_LAYERS: sum(products.values()), **products}.items()
    }


def cosine_rows(
    matrices: Mapping[str, Float[np.ndarray, "tasks tasks"]], tasks: Sequence[str]
) -> pd.DataFrame:
    """Return cosine matrices as one row per layer and pair.

    Args:
        matrices: What `cosines` returns.
        tasks: The tasks in the order of the matrices.

    Returns:
        Columns layer, first, second, cosine; each pair twice, and the diagonal.
    """
    return pd.DataFrame(
        [
            (layer, first, second, matrix[row, column])
            for layer, matrix in matrices.items()
            for row, first in enumerate(tasks)
            for column, second in enumerate(tasks)
        ],
        columns=["layer", "first", "second", "cosine"],
    )


def _products(tensors: Sequence[np.ndarray]) -> Float[np.ndarray, "tasks tasks"]:
    flat = np.stack([tensor.ravel() for tensor in tensors]).astype(np.float64)
    return flat @ flat.T


def _normalized(products: Float[np.ndarray, "tasks tasks"]) -> Float[np.ndarray, "tasks tasks"]:
    norms = np.sqrt(np.diag(products))
    # 0 / 0 is missing, and no reason for a warning.
    with np.errstate(invalid="ignore"):
        return np.clip(products / np.outer(norms, norms), -1, 1)
