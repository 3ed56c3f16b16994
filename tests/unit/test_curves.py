"""Curves, columns and α selection on small cases computed by hand."""

import numpy as np
import pandas as pd
import pytest

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.coefficients import select_addition, select_negation
from task_arithmetic.columns import (
    PRETRAINED,
    ColumnStore,
    listed_columns,
    read_column,
    read_labels,
    write_column,
    write_manifest,
)
from task_arithmetic.curves import (
    CURVE_COLUMNS,
    Edit,
    count_correct,
    curve_frame,
    curve_rows,
    tangent_correct,
)

HEAD = np.eye(2, dtype=np.float32)


def curve(values):
    """Return a validation curve from {dataset: {alpha: accuracy}}."""
    rows = [
        {"dataset": dataset, "split": "validation", "alpha": alpha, "accuracy": accuracy}
        for dataset, points in values.items()
        for alpha, accuracy in points.items()
    ]
    return pd.DataFrame(rows)


def test_correct_answers_have_the_largest_logit_whatever_the_norm():
    features = np.array([[2, 1], [0.1, 0.2], [3, 1]], dtype=np.float32)
    labels = np.array([0, 1, 1])
    assert count_correct(features, labels, HEAD) == 2
    assert count_correct(features * np.array([[5], [7], [0.1]]), labels, HEAD) == 2


def test_a_tangent_curve_moves_along_the_weighted_columns():
    f0 = np.array([[1.0, 0.0]], dtype=np.float32)
    columns = {
        "a": np.array([[0, 3.0]], dtype=np.float32),
        "b": np.array([[0, 1.0]], dtype=np.float32),
    }
    labels = np.array([1])
    # (1, α(3 − 1)): the second logit wins once α > 1/2.
    found = tangent_correct([0, 0.4, 0.6, 1], f0, columns, {"a": 1, "b": -1}, labels, HEAD)
    assert found == [0, 0, 1, 1]


def test_curve_rows_are_tidy():
    edit = Edit("tiny", 0, "linear", "addition", {"a": 1})
    frame = curve_frame(curve_rows(edit, "a", "test", 4, {0.0: 1, 0.5: 3}))
    assert list(frame.columns) == CURVE_COLUMNS
    assert frame.accuracy.tolist() == [0.25, 0.75]


def test_addition_maximizes_mean_normalized_accuracy():
    singles = curve({"a": {0.0: 0.1, 1.0: 1.0}, "b": {0.0: 0.1, 1.0: 0.5}})
    # Means of accuracies would choose 0.5 (0.7 against 0.6); normalized ones choose 1.
    edit = curve({"a": {0.0: 0.4, 0.5: 1.0, 1.0: 0.7}, "b": {0.0: 0.2, 0.5: 0.3, 1.0: 0.5}})
    chosen = select_addition(edit, singles)
    assert (chosen.alpha, chosen.feasible) == (1.0, True)
    assert chosen.objective == pytest.approx((0.7 / 1 + 0.5 / 0.5) / 2)


def test_the_smallest_best_coefficient_wins_a_tie():
    singles = curve({"a": {1.0: 1.0}})
    assert select_addition(curve({"a": {0.0: 0.5, 0.5: 0.8, 1.0: 0.8}}), singles).alpha == 0.5
    edit = curve({"a": {1.0: 0.2, 0.5: 0.2, 0.0: 0.9}, "c": {1.0: 1.0, 0.5: 1.0, 0.0: 1.0}})
    assert select_negation(edit, "a", "c", 0.95).alpha == 0.5


def test_negation_minimizes_the_target_among_those_that_keep_the_control():
    edit = curve({"a": {0.0: 0.9, 0.5: 0.4, 1.0: 0.1}, "c": {0.0: 0.8, 0.5: 0.76, 1.0: 0.75}})
    chosen = select_negation(edit, "a", "c", 0.95)  # 0.95 · 0.8 = 0.76 is kept, 0.75 is not
    assert (chosen.alpha, chosen.objective) == (0.5, 0.4)


def test_no_feasible_coefficient_is_an_outcome():
    edit = curve({"a": {0.0: 0.9, 0.5: 0.4}, "c": {0.0: 0.5, 0.5: 0.5}})
    chosen = select_negation(edit, "a", "c", 1.1)
    assert (chosen.alpha, chosen.objective, chosen.feasible) == (None, None, False)


@pytest.mark.parametrize("singles", [{"b": {1.0: 1.0}}, {"a": {1.0: 0.0}}, {"a": {0.0: 1.0}}])
def test_an_addition_without_a_single_task_accuracy_raises(singles):
    with pytest.raises(ValueError, match=r"single-task validation accuracy of \['a'\]"):
        select_addition(curve({"a": {0.0: 0.5, 1.0: 0.8}}), curve(singles))


def test_columns_come_back_through_their_manifest(tmp_path):
    store = ColumnStore(tmp_path / "columns")
    path = store.path("encoder", "images", "code")
    write_column(path, np.ones((2, 3), dtype=np.float32), np.array([1, 0]))
    manifest = tmp_path / "digits.json"
    write_manifest(manifest, "digits", {"test": {PRETRAINED: path}}, store.root)
    listed = listed_columns(manifest, "digits", "test", [PRETRAINED], store.root)
    assert listed == {PRETRAINED: path}
    assert read_column(path).shape == (2, 3)
    assert read_labels(path).tolist() == [1, 0]
    with pytest.raises(PipelineError, match=r"expected columns \['linear/digits'\]"):
        listed_columns(manifest, "digits", "test", ["linear/digits"], store.root)
    with pytest.raises(PipelineError, match="expected the features of letters"):
        listed_columns(manifest, "letters", "test", [PRETRAINED], store.root)


def test_a_column_path_depends_on_everything_that_decides_its_values(tmp_path):
    store, parts = ColumnStore(tmp_path), ("encoder", "images", "code", "vector")
    paths = {store.path(*parts), store.path(*parts[:3])}
    for position in range(4):
        changed = list(parts)
        changed[position] = "other"
        paths.add(store.path(*changed))
    assert len(paths) == 6
