"""What each mode costs, from the lineage records of the steps that ran, beside what it reaches.

Seconds are those of this run on its machine: they compare modes, not machines. A step that was
resumed, or that found some of its columns already there, has recorded only what it did last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from task_arithmetic.artifacts import PipelineError, read_json
from task_arithmetic.lineage import record_path

COST_COLUMNS = [
    "model", "seed", "mode", "training_seconds", "training_memory_mb", "evaluation_seconds",
    "evaluation_memory_mb", "single_accuracy", "addition_accuracy", "addition_normalized",
    "negation_target_accuracy",
]  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Time and memory of some steps.

    Attributes:
        seconds: Their sum.
        megabytes: The peak memory of the largest of them, in 10⁶ bytes.
    """

    seconds: float
    megabytes: float

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], shares: Iterable[float] = ()) -> Cost:
        """Add up records.

        Args:
            records: Lineage records.
            shares: The share of each record's time that counts; all of it if there are none.

        Returns:
            The cost; not-a-number if there are no records.
        """
        records = list(records)
        shares = list(shares) or [1.0] * len(records)
        if not records:
            return cls(float("nan"), float("nan"))
        pairs = zip(records, shares, strict=True)
        peak = max(record["peak_memory_bytes"] for record in records)
        return cls(sum(record["seconds"] * share for record, share in pairs), peak / 1e6)


def read_records(artifacts: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the lineage records beside some artifacts.

    Args:
        artifacts: The artifacts.

    Returns:
        Their records.

    Raises:
        PipelineError: If an artifact has none.
    """
    missing = [path for path in artifacts if not record_path(path).exists()]
    if missing:
        raise PipelineError(
            f"{missing[0]}: expected its lineage record beside it, found none; delete the file and "
            "rerun, and the step that makes it will write both"
        )
    return [read_json(record_path(path)) for path in artifacts]


def training_cost(records: Iterable[Mapping[str, Any]], vector_mode: str) -> Cost:
    """Return what fine-tuning on all tasks cost.

    Args:
        records: Records of checkpoints; those that were not trained here cost nothing.
        vector_mode: `nonlinear` or `linear`.

    Returns:
        The cost.
    """
    return Cost.of(
        record
        for record in records
        if record["step"] == "finetune"
        and record["settings"]["hyperparameters"]["mode"] == vector_mode
    )


def evaluation_cost(
    curves: Iterable[Mapping[str, Any]],
    features: Iterable[Mapping[str, Any]],
    mode: str,
    vector_mode: str,
) -> Cost:
    """Return what measuring a mode's edits on all their α cost.

    Args:
        curves: Records of curves of all modes.
        features: Records of the features that tangent modes are evaluated from; each computed
            columns for both kinds of task vectors, and counts by the share of this mode's.
        mode: The mode.
        vector_mode: The kind of its task vectors.

    Returns:
        The cost.
    """
    used, shares = [], []
    for record in curves:
        if record["settings"]["mode"] == mode:
            used.append(record)
            shares.append(1.0)
    for record in features if mode != "nonlinear" else ():
        names = record["settings"]["vectors"]
        used.append(record)
        shares.append(sum(name.startswith(f"{vector_mode}/") for name in names) / len(names))
    return Cost.of(used, shares)


def reached(
    mode: str, single: pd.DataFrame, addition: pd.DataFrame, negation: pd.DataFrame
) -> dict[str, float]:
    """Return the mean test accuracies that a mode reaches, for one model and seed.

    Args:
        mode: The mode.
        single: Rows of the table `single_task`.
        addition: Rows of the table `task_addition`.
        negation: Rows of the table `task_negation`; infeasible negations have no accuracy and do
            not count.

    Returns:
        The last columns of `COST_COLUMNS`.
    """
    own = single[(single["mode"] == mode) & (single["split"] == "test")]
    added, negated = addition[addition["mode"] == mode], negation[negation["mode"] == mode]
    return {
        "single_accuracy": own["accuracy"].mean(),
        "addition_accuracy": added["accuracy"].mean(),
        "addition_normalized": added["normalized_accuracy"].mean(),
        "negation_target_accuracy": negated["target_accuracy"].mean(),
    }
