"""Baselines of negation and ablations of addition: what is measured, and at which α."""

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_accuracies import accuracy_rows

from task_arithmetic.ablations import RUN_COLUMNS, Run, interchanged, measure_run
from task_arithmetic.baselines import Forgetting
from task_arithmetic.measuring import Bench
from task_arithmetic.variants import random_like
from task_arithmetic.vectors import TaskVector


def counted(bench, vector, alpha, examples):
    """Return the accuracies of one edited model by dataset."""
    rows = bench.measure({"edit": vector}, {"edit": [alpha]}, examples)
    return rows.set_index("dataset").accuracy.to_dict()


@pytest.fixture
def bench(world):
    return Bench(world[0], 0, "nonlinear", 8)


def test_baselines_are_the_models_that_they_say(world, bench):
    _, vectors, examples = world
    vector, ascent = vectors.values()
    # A threshold of nothing: every α is feasible, and the least target accuracy wins.
    forgetting = Forgetting(bench, [0.5, 1.0], control="b", threshold=1e-9)
    curves, selections, tests = forgetting.measure("a", vector, ascent, examples, examples)
    assert sorted(curves.alpha.unique()) == [0, 0.5, 1]
    expected = {
        "finetuned-a": (vector, 1.0),
        "ascent-a": (ascent, 1.0),
    }
    chosen = selections.set_index("edit").alpha
    expected["random-a"] = (-random_like(vector, 0), chosen["random-a"])
    expected["scaled_ascent-a"] = (ascent, chosen["scaled_ascent-a"])
    for edit, (direction, alpha) in expected.items():
        found = tests[tests.edit == edit].set_index("dataset")
        assert set(found.alpha) == {alpha}
        assert found.accuracy.to_dict() == counted(bench, direction, alpha, examples)
    for edit, alpha in chosen.items():
        on_target = curves[(curves.edit == edit) & (curves.dataset == "a")].set_index("alpha")
        assert on_target.accuracy[alpha] == on_target.accuracy.min()


def test_a_baseline_that_cannot_keep_the_control_has_no_test_rows(world, bench):
    _, vectors, examples = world
    vector, ascent = vectors.values()
    # Many times the pre-trained accuracy: not even α = 0 keeps it.
    forgetting = Forgetting(bench, [0.5], control="b", threshold=100)
    _, selections, tests = forgetting.measure("a", vector, ascent, examples, examples)
    assert not selections.feasible.any()
    assert set(tests.edit) == {"finetuned-a", "ascent-a"}


def test_a_run_is_its_sum_at_the_best_alpha_and_its_single_models(world, bench):
    _, vectors, examples = world
    of = dict(zip("ab", vectors.values(), strict=True))
    other = {task: random_like(vector, 3) for task, vector in of.items()}
    own = pd.concat([
        accuracy_rows(
            "small", 0, "nonlinear", f"single-{task}", task, "validation", {0.0: 0.3, 1.0: 0.5}
        )
        for task in "ab"
    ])
    alphas = [0.2, 0.6, 1.0]
    rows = measure_run(bench, Run("other", other, of), alphas, own, examples, examples)
    assert list(rows.columns) == RUN_COLUMNS
    total = TaskVector.sum(other.values())
    means = {a: np.mean(list(counted(bench, total, a, examples).values())) for a in alphas}
    (alpha,) = rows.alpha.unique()
    assert means[alpha] == max(means.values())
    for row in rows.itertuples():
        assert row.accuracy == counted(bench, total, alpha, examples)[row.task]
        assert row.single_accuracy == counted(bench, other[row.task], 1.0, examples)[row.task]
        assert row.cosine == pytest.approx(float(other[row.task].cosine(of[row.task])))
        (reference,) = [of[task] for task in of if task != row.task]
        assert row.other_cosine == pytest.approx(float(other[row.task].cosine(reference)))


def test_interchanged_vectors_come_from_both_runs_in_turn():
    first, second = (
        {task: TaskVector({"w": torch.full((1,), value)}) for task in "abc"} for value in (1.0, 2.0)
    )
    mixed = interchanged(first, second)
    assert [mixed[task]["w"].item() for task in "abc"] == [1, 2, 1]
