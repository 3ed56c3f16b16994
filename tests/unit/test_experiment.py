"""The experiment in one piece against the pipeline's own parts, and heads trained from scratch."""

import numpy as np
import pandas as pd
import pytest

from task_arithmetic.coefficients import select_addition, select_negation
from task_arithmetic.curves import count_correct
from task_arithmetic.disentanglement import FirstOrder
from task_arithmetic.experiment import RESULT_COLUMNS, Subject, run_experiment
from task_arithmetic.probes import probe_head

ALPHAS = [0.0, 0.5, 1.0]
DATASETS = ["a", "b", "control"]


@pytest.fixture(scope="module")
def subject():
    rng = np.random.default_rng(0)
    heads = {name: rng.normal(size=(3, 4)).astype(np.float32) for name in DATASETS}
    labels, features = {}, {}
    for split in ("validation", "test"):
        f0, columns = {}, {}
        labels[split] = {name: rng.integers(3, size=60) for name in DATASETS}
        for name in DATASETS:
            right = heads[name][labels[split][name]]
            f0[name] = (rng.normal(size=(60, 4)) + 0.5 * right).astype(np.float32)
            columns[name] = {
                task: (0.4 * rng.normal(size=(60, 4)) + right * (task == name)).astype(np.float32)
                for task in "ab"
            }
        features[split] = FirstOrder(f0, columns)
    return Subject("tiny", 0, "linear", features, labels, heads)


def accuracy(subject, split, dataset, **alphas):
    labels = subject.labels[split][dataset]
    features = subject.features[split](alphas, dataset)
    return count_correct(features, labels, subject.heads[dataset]) / len(labels)


def curve(subject, datasets, split, edit):
    return pd.DataFrame([
        {"dataset": name, "split": split, "alpha": alpha, "accuracy":
         accuracy(subject, split, name, **{task: alpha * w for task, w in edit.items()})}
        for name in datasets for alpha in ALPHAS
    ])  # fmt: skip


def test_the_experiment_selects_on_validation_and_reports_the_test_split(subject):
    table = run_experiment(subject, ["a", "b"], ALPHAS, "control", 0.95).set_index("task")
    singles = pd.concat(
        curve(subject, [task], "validation", {task: 1}) for task in ("a", "b")
    )  # fmt: skip
    both = curve(subject, ["a", "b"], "validation", {"a": 1, "b": 1})
    alpha = select_addition(both, singles).alpha
    for task in ("a", "b"):
        row = table.loc[task]
        assert row.addition_alpha == alpha
        assert row.start_accuracy == accuracy(subject, "test", task)
        assert row.single_accuracy == accuracy(subject, "test", task, **{task: 1.0})
        added = accuracy(subject, "test", task, a=alpha, b=alpha)
        assert row.addition_accuracy == added
        assert row.addition_normalized == pytest.approx(added / row.single_accuracy)
        negation = curve(subject, [task, "control"], "validation", {task: -1})
        chosen = select_negation(negation, task, "control", 0.95).alpha
        assert row.negation_alpha == chosen
        assert row.target_accuracy == accuracy(subject, "test", task, **{task: -chosen})
        assert row.control_accuracy == accuracy(subject, "test", "control", **{task: -chosen})
        assert row.start_control_accuracy == accuracy(subject, "test", "control")


def test_without_a_control_there_are_no_negations(subject):
    table = run_experiment(subject, ["a", "b"], ALPHAS, None, 0.95)
    assert list(table.columns) == RESULT_COLUMNS
    assert table.target_accuracy.isna().all()
    assert table.addition_accuracy.notna().all()


@pytest.mark.parametrize("classes", [2, 4])
def test_a_probe_separates_what_is_linearly_separable(classes):
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(classes, 16)), np.arange(200) % classes
    features = (centres[labels] + 0.1 * rng.normal(size=(200, 16))) * rng.uniform(1, 5, (200, 1))
    head = probe_head(features.astype(np.float32), labels)
    assert head.shape == (classes, 16)
    assert count_correct(features, labels, head) > 190


def test_a_probe_wants_an_example_of_every_class():
    with pytest.raises(ValueError, match="an example of every class"):
        probe_head(np.ones((3, 2)), np.array([0, 2, 2]))
