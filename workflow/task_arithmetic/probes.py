"""Heads trained from scratch: linear probes of an encoder that has no text tower to ask.

A randomly initialized encoder, or one early in pre-training, has no zero-shot classifier worth the
name. Its heads are logistic regressions on its own features; from there on they are frozen, as
zero-shot heads are, and everything else of the experiment stays as it is.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression

LOGIT_SCALE = 100.0
# scikit-learn's C, the inverse of the penalty: a light probe leaves something to fine-tune.
INVERSE_PENALTY = 0.01


def probe_head(
    features: Float[np.ndarray, "examples features"], labels: Int[np.ndarray, " examples"]
) -> Float[np.ndarray, "classes features"]:
    """Train a linear classifier on normalized features.

    Args:
        features: Image features z of training examples.
        labels: Class indices; every class has an example.

    Returns:
        W, with logits = W·z/‖z‖ as of a zero-shot head.

    Raises:
        ValueError: If some class has no example.
    """
    classes = np.unique(labels)
    if not np.array_equal(classes, np.arange(labels.max() + 1)):
        raise ValueError(f"expected an example of every class, found only classes {classes}")
    inputs = LOGIT_SCALE * features / np.linalg.norm(features, axis=1, keepdims=True)
    probe = LogisticRegression(C=INVERSE_PENALTY, fit_intercept=False, max_iter=1000)
    weight = LOGIT_SCALE * probe.fit(inputs, labels).coef_
    # Of two classes scikit-learn keeps the difference of the logits.
    weight = np.concatenate([-weight / 2, weight / 2]) if len(classes) == 2 else weight
    return weight.astype(np.float32)
