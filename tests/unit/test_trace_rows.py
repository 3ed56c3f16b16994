"""Rows that are about the same, in tables and in what they were measured from."""

import pandas as pd
import pytest

from task_arithmetic.trace_rows import agreeing_rows, names_edit, share_number

CURVE = ["model", "seed", "mode", "edit", "dataset", "split", "alpha", "accuracy"]


@pytest.mark.parametrize(
    ("row", "edit", "named"),
    [
        ({"method": "ties", "task": "a", "mode": "linear"}, "ties", True),
        ({"method": "ties", "task": "a", "mode": "linear"}, "linear", False),
        ({"method": "ascent", "task": "b-2"}, "ascent-b-2", True),
        ({"method": "ascent", "task": "a"}, "ascent-b", False),
        ({"fine_tuning": "linear", "task": "a"}, "single-a", True),
        ({"fine_tuning": "linear", "task": "a"}, "negation-a", False),
        ({"subset": "a+b", "task": "b"}, "a+b", True),
        # The vector of another task than the one measured on.
        ({"subset": "a", "task": "b"}, "b", False),
    ],
)
def test_a_row_names_its_edit_in_a_column_or_by_its_task(row, edit, named):
    assert names_edit(row, edit, CURVE) is named


def test_rows_agree_in_the_columns_that_both_have():
    frame = pd.DataFrame({"task": ["a", "a", "b"], "alpha": [0.3, None, 0.3], "total": 5})
    third = 0.1 + 0.2
    assert list(agreeing_rows(frame, {"task": "a", "alpha": third, "mode": "x"}).index) == [0]
    assert list(agreeing_rows(frame, {"task": "a", "alpha": None}).index) == [1]
    assert agreeing_rows(frame, {"task": "c"}).empty


def test_rows_share_a_number_whatever_its_name():
    assert share_number({"control": 0.3, "seed": 0}, {"pretrained_control": 0.1 + 0.2})
    assert not share_number({"control": None, "seed": 0}, {"pretrained_control": 0.3, "seed": 0})
