"""Costs from records of steps, on records written by hand."""

import math

import pandas as pd
import pytest

from task_arithmetic.artifacts import PipelineError, write_json
from task_arithmetic.costs import evaluation_cost, reached, read_records, training_cost
from task_arithmetic.lineage import record_path


def record(step, seconds, megabytes, **settings):
    return {
        "step": step,
        "seconds": seconds,
        "peak_memory_bytes": megabytes * 10**6,
        "settings": settings,
    }


def trained(mode, seconds, megabytes=100):
    return record("finetune", seconds, megabytes, hyperparameters={"mode": mode})


def test_training_costs_the_sum_of_the_tasks_and_the_largest_memory():
    records = [trained("linear", 3, 100), trained("linear", 4, 150), trained("nonlinear", 50)]
    cost = training_cost(records, "linear")
    assert (cost.seconds, cost.megabytes) == (7, 150)


def test_checkpoints_that_were_not_trained_have_no_cost():
    assert math.isnan(training_cost([record("import", 3, 100)], "linear").seconds)


def test_nonlinear_evaluation_costs_its_curves_and_no_features():
    curves = [record("curve", 2, 50, mode="nonlinear"), record("curve", 9, 90, mode="linear")]
    features = [record("features", 5, 500, vectors=["linear/a"])]
    cost = evaluation_cost(curves, features, "nonlinear", "nonlinear")
    assert (cost.seconds, cost.megabytes) == (2, 50)


def test_tangent_evaluation_costs_its_share_of_the_features():
    curves = [record("tangent-curve", 1, 50, mode="linear")]
    vectors = ["linear/a", "nonlinear/a", "nonlinear/b", "linear/b"]
    cost = evaluation_cost(curves, [record("features", 6, 80, vectors=vectors)], "linear", "linear")
    assert (cost.seconds, cost.megabytes) == (1 + 3, 80)


def test_an_artifact_without_a_record_is_named(tmp_path):
    known, unknown = tmp_path / "a.csv", tmp_path / "b.csv"
    write_json(record_path(known), {"seconds": 1})
    assert read_records([known]) == [{"seconds": 1}]
    with pytest.raises(PipelineError, match=r"b\.csv: expected its lineage record"):
        read_records([known, unknown])


def test_what_is_reached_is_the_mean_test_accuracy_of_feasible_edits():
    single = pd.DataFrame({
        "mode": ["linear", "linear", "posthoc"], "split": ["test", "validation", "test"],
        "accuracy": [0.8, 0.1, 0.2],
    })  # fmt: skip
    addition = pd.DataFrame({
        "mode": ["linear"] * 2, "accuracy": [0.6, 0.7], "normalized_accuracy": [0.9, 1.0]
    })  # fmt: skip
    negation = pd.DataFrame({"mode": ["linear"] * 2, "target_accuracy": [0.3, None]})
    found = reached("linear", single, addition, negation)
    assert found == pytest.approx({
        "single_accuracy": 0.8, "addition_accuracy": 0.65, "addition_normalized": 0.95,
        "negation_target_accuracy": 0.3,
    })  # fmt: skip
