"""The linear regime: does a fine-tuned network do what its first-order model does?

Ortiz-Jimenez et al. 2023, section 3: if fine-tuning stayed in the tangent space of θ0, the network
f(x; θ*) and its post-hoc linearization f_lin(x; θ*) would be equally accurate. The part of the
accuracy that only the network has is the non-linear advantage. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

# How θ* was found: the mode measured in the network, and the one measured in its first-order model.
NETWORK_AT_LINEAR = "network_at_linear"
COMPARISONS = {
    "nonlinear": ("nonlinear", "posthoc"),
    "linear": (NETWORK_AT_LINEAR, "linear"),
}
REGIME_COLUMNS = [
    "model", "seed", "fine_tuning", "task", "pretrained_accuracy", "network_accuracy",
    "first_order_accuracy", "nonlinear_advantage",
]  # fmt: skip


def nonlinear_advantage(network: float, first_order: float, classes: int) -> float:
    """Return the non-linear advantage of a fine-tuned network over its first-order model.

    Args:
        network: The accuracy of f(x; θ*).
        first_order: The accuracy of f_lin(x; θ*).
        classes: C, the number of classes of the task.

    Returns:
        (acc(f) − acc(f_lin)) / (1 − 1/C), the difference in units of what a classifier can gain
        over chance (Ortiz-Jimenez et al. 2023, section 3).
    """
    return (network - first_order) / (1 - 1 / classes)


def linear_regime(
    accuracies: pd.DataFrame, classes: Mapping[str, int], tasks: Sequence[str]
) -> pd.DataFrame:
    """Tabulate, for both ways of fine-tuning, the network's accuracy and its first-order model's.

    Args:
        accuracies: Rows of every `single-{task}` curve, those of `NETWORK_AT_LINEAR` among them.
        classes: The number of classes by task.
        tasks: Task names in the order wanted.

    Returns:
        Columns `REGIME_COLUMNS`; accuracies are fractions of the test split. Only comparisons of
        which both sides were measured.
    """
    test = accuracies[accuracies["split"] == "test"]
    test = test[test["edit"] == "single-" + test["dataset"]]
    at = test.pivot(
        index=["model", "seed", "dataset"], columns=["mode", "alpha"], values="accuracy"
    )
    rows = []
    for fine_tuning, (network, first_order) in COMPARISONS.items():
        if not {(network, 1.0), (first_order, 1.0)} <= set(at.columns):
            continue
        for model, seed in dict.fromkeys((model, seed) for model, seed, _ in at.index):
            for task in tasks:
                found = at.loc[model, seed, task]
                pair = float(found[network, 1.0]), float(found[first_order, 1.0])
                advantage = nonlinear_advantage(*pair, classes[task])
                start = float(found[first_order, 0.0])
                rows.append((model, seed, fine_tuning, task, start, *pair, advantage))
    return pd.DataFrame(rows, columns=REGIME_COLUMNS)
