"""Tables of merging and of the other analyses of sums of task vectors: strict joins, no torch.

Each function takes measured rows (`curves.CURVE_COLUMNS`) and what `tables.single_task` returns,
and gives one tidy observation per row; the layouts say how `rendering` shows them.
"""

from __future__ import annotations

import pandas as pd

from task_arithmetic.rendering import Layout, Metric
from task_arithmetic.tables import standard_error, with_normalized

# Method: heading, and the paper that it is from.
METHODS = {
    "addition": ("Sum", "Ilharco et al. 2023, arXiv 2212.04089"),
    "averaging": ("Mean (α = 1/T)", "Wortsman et al. 2022, arXiv 2203.05482"),
    "ties": ("TIES", "Yadav et al. 2023, arXiv 2306.01708"),
    "dare": ("DARE", "Yu et al. 2024, arXiv 2311.03099"),
    "breadcrumbs": ("Breadcrumbs", "Davari & Belilovsky 2024, arXiv 2312.06795"),
    "consensus": ("Consensus", "Wang et al. 2024, arXiv 2405.07813"),
    "tsv": ("TSV-Merge", "Gargiulo et al. 2025, arXiv 2412.00081"),
    "iso_c": ("Iso-C", "Marczak et al. 2025, arXiv 2502.04959"),
    "lines": ("LiNeS", "Wang et al. 2025, arXiv 2410.17146"),
    "per_task": ("Sum, one α per task", "extends Ilharco et al. 2023, arXiv 2212.04089"),
    "ensemble": ("Ensemble of T models", "Ilharco et al. 2023, arXiv 2212.04089"),
}

_NORMALIZED = Metric("normalized_accuracy", "Normalized (↑)", "max")
_ABSOLUTE = Metric("accuracy", "Absolute (↑)", "max")
_ALPHA = Metric("alpha", "α", percent=False)

LAYOUTS = {
    "merging": Layout(
        "Merging methods",
        "Test accuracy (%) of one model merged from all task vectors, mean over tasks, absolute and"
        " relative to the single-task models of the same mode; α is chosen on validation images."
        " The ensemble is no single model and costs T times as much",
        (_ABSOLUTE, _NORMALIZED, _ALPHA),
        (),
    ),
}


def merging(tests: pd.DataFrame, singles: pd.DataFrame) -> pd.DataFrame:
    """Tabulate merged models, each at its selected α.

    Args:
        tests: Test rows of every method; the edit is the method's name, and α is missing where a
            method has none.
        singles: What `tables.single_task` returns.

    Returns:
        Columns model, seed, mode, method, source (the paper), task, alpha, accuracy and
        normalized_accuracy, each of the two followed by its standard error (`_se`).
    """
    rows = tests.rename(columns={"edit": "method", "dataset": "task"})
    rows["source"] = rows["method"].map({name: source for name, (_, source) in METHODS.items()})
    keys = ["model", "seed", "mode", "method", "source", "task"]
    return with_accuracies(rows, singles)[[*keys, "alpha", *ACCURACIES]]


ACCURACIES = ["accuracy", "accuracy_se", "normalized_accuracy", "normalized_accuracy_se"]


def with_accuracies(rows: pd.DataFrame, singles: pd.DataFrame) -> pd.DataFrame:
    """Add standard errors, and accuracies normalized by those of the single-task models.

    Args:
        rows: Test rows with model, seed, mode, task, accuracy and total.
        singles: What `tables.single_task` returns.

    Returns:
        The rows in their order, with the columns `ACCURACIES`.
    """
    own = singles[singles["split"] == "test"]
    keys = ["model", "seed", "mode", "task"]
    # Strict: a row without its single-task accuracy, or with two, is an error.
    index = pd.MultiIndex.from_frame(rows[keys])
    found = own.set_index(keys, verify_integrity=True)[["accuracy", "accuracy_se"]].loc[index]
    rows = rows.assign(accuracy_se=standard_error(rows["accuracy"], rows["total"]))
    return with_normalized(rows, *(found[name].set_axis(rows.index) for name in found))
