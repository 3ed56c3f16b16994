"""Tables of merging and of the other analyses of sums of task vectors: strict joins, no torch.

Each function takes measured rows (`curves.CURVE_COLUMNS`), what `tables.single_task` returns, and
the tasks in the order wanted, and gives one tidy observation per row. `merging_rendering` shows
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from task_arithmetic.tables import (
    in_task_order,
    look_up,
    standard_error,
    with_normalized,
)

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

ACCURACIES = ["accuracy", "accuracy_se", "normalized_accuracy", "normalized_accuracy_se"]

BASELINES = {
    "pretrained": "Pre-trained",
    "finetuned": "Fine-tuned",
    "ascent": "Gradient ascent",
    "scaled_ascent": "Gradient ascent, α chosen",
    "random": "Random vector",
    "negated": "Negated task vector",
}


def merging(tests: pd.DataFrame, singles: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Tabulate merged models, each at its selected α.

    Args:
        tests: Test rows of every method; the edit is the method's name, and α is missing where a
            method has none.
        singles: What `tables.single_task` returns.
        tasks: Task names in the order wanted.

    Returns:
        Columns model, seed, mode, method, source (the paper), task, alpha, accuracy and
        normalized_accuracy, each of the two followed by its standard error (`_se`).
    """
    rows = tests.rename(columns={"edit": "method", "dataset": "task"})
    rows["source"] = rows["method"].map({name: source for name, (_, source) in METHODS.items()})
    keys = ["model", "seed", "mode", "method", "source", "task"]
    table = with_accuracies(rows, singles)[[*keys, "alpha", *ACCURACIES]]
    return in_task_order(table, ["model", "seed", "mode", "method"], tasks)


def subsets(tests: pd.DataFrame, singles: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Tabulate the sums over subsets of task vectors, each at its own selected α.

    Args:
        tests: Test rows; the edit is the subset's tasks joined by `+`.
        singles: What `tables.single_task` returns.
        tasks: Task names in the order wanted.

    Returns:
        Columns model, seed, mode, size, subset, alpha, task, member (whether the task's vector is
        in the sum), accuracy and normalized_accuracy, each with its standard error.
    """
    rows = tests.rename(columns={"edit": "subset", "dataset": "task"})
    members = rows["subset"].str.split("+", regex=False)
    rows["size"] = members.str.len()
    rows["member"] = [task in names for task, names in zip(rows["task"], members, strict=True)]
    keys = ["model", "seed", "mode", "size", "subset", "alpha", "task", "member"]
    table = with_accuracies(rows, singles)[[*keys, *ACCURACIES]]
    return in_task_order(table, ["model", "seed", "mode", "subset"], tasks)


def similarity(rows: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Tabulate cosines between task vectors.

    Args:
        rows: Rows of every `similarity` step: model, seed, mode, layer, first, second, cosine.
        tasks: Task names in the order wanted.

    Returns:
        The same, each pair of different tasks once, the one that comes first in the order wanted
        as `first`.
    """
    places = {task: place for place, task in enumerate(tasks)}
    once = rows[rows["first"].map(places) < rows["second"].map(places)]
    return in_task_order(once, ["model", "seed", "mode", "layer"], tasks, ["first", "second"])


def negation_baselines(
    tests: pd.DataFrame, negations: pd.DataFrame, tasks: Sequence[str]
) -> pd.DataFrame:
    """Tabulate what negation is compared with, beside the negated non-linear task vectors.

    Args:
        tests: Test rows of the edits `METHOD-TASK` on the target and on one more dataset, the
            control. An edit without rows had no feasible α.
        negations: What `tables.task_negation` returns.
        tasks: Task names in the order wanted.

    Returns:
        Columns model, seed, mode, method, task, alpha, target_accuracy and control_accuracy, each
        followed by its standard error. Values are missing where no α is feasible.
    """
    negated = negations[negations["mode"] == "nonlinear"]
    keys, measures = ["model", "seed", "mode", "task"], ["target_accuracy", "control_accuracy"]
    measures = [column + end for column in measures for end in ("", "_se")]
    before = negated[keys + [f"pretrained_{name}" for name in measures]]
    before = before.rename(columns=lambda name: name.removeprefix("pretrained_"))
    parts = [before.assign(method="pretrained"), negated.assign(method="negated")]

    named = tests["edit"].str.split("-", n=1)
    rows = tests.assign(method=named.str[0], task=named.str[1])
    rows["accuracy_se"] = standard_error(rows["accuracy"], rows["total"])
    on_target = rows["task"] == rows["dataset"]
    index = [*keys, "method"]
    both = {
        f"{name}_accuracy{end}": part.set_index(index)[f"accuracy{end}"]
        for name, part in (("target", rows[on_target]), ("control", rows[~on_target]))
        for end in ("", "_se")
    }
    measured = pd.DataFrame(both | {"alpha": rows[on_target].set_index(index)["alpha"]})
    for method in ("finetuned", "ascent", "scaled_ascent", "random"):
        wanted = pd.MultiIndex.from_frame(negated[keys].assign(method=method))
        parts.append(measured.reindex(wanted).reset_index())
    table = pd.concat(parts, ignore_index=True)
    # As trained: there was no α to choose.
    table.loc[table["method"].isin(["finetuned", "ascent"]), "alpha"] = float("nan")
    table = table[["model", "seed", "mode", "method", "task", "alpha", *measures]]
    return in_task_order(table, ["model", "seed", "mode", "method"], tasks)


def ablations(rows: pd.DataFrame, singles: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Tabulate the runs of the ablations.

    Args:
        rows: Rows of every `ablations` step.
        singles: What `tables.single_task` returns.
        tasks: Task names in the order wanted.

    Returns:
        Columns model, seed, mode, run, task, alpha, accuracy, normalized_accuracy (by the ordinary
        single-task model) and single_accuracy (of the run's own single-task model), each followed
        by its standard error, cosine and other_cosine.
    """
    rows = with_accuracies(rows, singles)
    rows["single_accuracy_se"] = standard_error(rows["single_accuracy"], rows["total"])
    keys = ["model", "seed", "mode", "run", "task", "alpha"]
    ends = ["single_accuracy", "single_accuracy_se", "cosine", "other_cosine"]
    return in_task_order(rows[[*keys, *ACCURACIES, *ends]], ["model", "seed", "mode", "run"], tasks)


def analogies(rows: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the analogies and what they are compared with.

    Args:
        rows: Rows of every `analogies` step.

    Returns:
        Columns model, seed, mode, styles, target, method, samples (labelled images of the target;
        missing for all of them), alpha (missing without an analogy), total, accuracy and its
        standard error.
    """
    errors = standard_error(rows["accuracy"], rows["total"])
    return rows.astype({"samples": "Int64"}).assign(accuracy_se=errors)


def subset_means(table: pd.DataFrame) -> pd.DataFrame:
    """Average normalized accuracy over tasks, one row per subset.

    Args:
        table: What `subsets` returns.

    Returns:
        Columns model, seed, mode, size, subset, all (mean over all tasks; missing where the subset
        was not measured on all of them) and own (mean over the subset's tasks).
    """
    keys = ["model", "seed", "mode", "size", "subset"]
    values = table.groupby(keys, sort=False)["normalized_accuracy"]
    everywhere = values.mean().where(values.size() == table["task"].nunique())
    own = table[table["member"]].groupby(keys, sort=False)["normalized_accuracy"].mean()
    return pd.DataFrame({"all": everywhere, "own": own}).reset_index()


def half_width(values: pd.Series, population: int) -> float:
    """Return the half-width of the 95 % interval of the mean over a sample of subsets.

    Args:
        values: One value per sampled subset.
        population: How many subsets there are.

    Returns:
        1.96·s/√n·√(1 − n/N), by normal approximation with the finite population's correction: 0
        if all subsets were measured, and missing for a single one of several.
    """
    if len(values) >= population:
        return 0.0
    return 1.96 * values.std() / len(values) ** 0.5 * (1 - len(values) / population) ** 0.5


def with_accuracies(rows: pd.DataFrame, singles: pd.DataFrame) -> pd.DataFrame:
    """Add standard errors, and accuracies normalized by those of the single-task models.

    Args:
        rows: Test rows with model, seed, mode, task, accuracy and total.
        singles: What `tables.single_task` returns.

    Returns:
        The rows in their order, with the columns `ACCURACIES`.

    Raises:
        ValueError: If a single-task accuracy is missing or there twice.
    """
    own = singles[singles["split"] == "test"]
    keys = ["model", "seed", "mode", "task"]
    rows = rows.reset_index(drop=True)
    rows["accuracy_se"] = standard_error(rows["accuracy"], rows["total"])
    reference = [look_up(rows, own, keys, name) for name in ("accuracy", "accuracy_se")]
    return with_normalized(rows, *reference)
