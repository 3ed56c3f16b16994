"""Summaries against means computed by hand."""

import pandas as pd

from task_arithmetic.summaries import mean_curves, summarize


def frame(columns, *rows):
    return pd.DataFrame(rows, columns=["model", "seed", "mode", *columns])


def test_means_are_over_tasks_and_seeds_of_the_test_split():
    single = frame(
        ["task", "split", "accuracy"],
        ("m", 0, "linear", "a", "test", 0.5),
        ("m", 0, "linear", "b", "test", 0.7),
        ("m", 1, "linear", "a", "test", 0.9),
        ("m", 0, "linear", "a", "validation", 0.0),
    )
    addition = frame(
        ["task", "alpha", "accuracy", "normalized_accuracy"],
        ("m", 0, "linear", "a", 0.2, 0.4, 0.8),
        ("m", 0, "linear", "b", 0.4, 0.6, 0.9),
        ("m", 0, "posthoc", "a", 0.1, 0.3, 0.5),
    )
    negation = frame(
        ["task", "alpha", "target_accuracy", "control_accuracy", "feasible"],
        ("m", 0, "linear", "a", 0.3, 0.1, 0.95, True),
        ("m", 0, "linear", "b", None, None, None, False),
        ("m", 0, "posthoc", "a", None, None, None, False),
    )
    assert summarize(single, addition, negation) == {
        "single_task": {"m": {"linear": {"accuracy": 0.7}}},
        "task_addition": {
            "m": {
                "linear": {"alpha": 0.3, "accuracy": 0.5, "normalized_accuracy": 0.85},
                "posthoc": {"alpha": 0.1, "accuracy": 0.3, "normalized_accuracy": 0.5},
            }
        },
        "task_negation": {
            "m": {
                "linear": {
                    "alpha": 0.3,
                    "target_accuracy": 0.1,
                    "control_accuracy": 0.95,
                    "feasible": 0.5,
                },
                "posthoc": {"feasible": 0.0},
            }
        },
    }


def test_curves_have_one_column_per_mode_in_the_papers_order():
    curves = frame(
        ["dataset", "alpha", "accuracy"],
        ("m", 0, "posthoc", "a", 1.0, 0.6),
        ("m", 0, "nonlinear", "a", 1.0, 0.2),
        ("m", 0, "nonlinear", "b", 1.0, 0.4),
        ("m", 0, "posthoc", "a", 0.0, 0.5),
        ("m", 0, "nonlinear", "a", 0.0, 0.5),
        ("m", 0, "nonlinear", "b", 0.0, 0.5),
    )
    made = mean_curves(curves).round(9)
    assert made.to_dict("list") == {
        "alpha": [0.0, 1.0],
        "nonlinear": [0.5, 0.3],
        "posthoc": [0.5, 0.6],
    }
