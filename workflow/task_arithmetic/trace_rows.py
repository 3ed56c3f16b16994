"""Rows of tables and of what they were measured from: which of them are about the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON values; what is missing is None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def agreeing_rows(frame: pd.DataFrame, row: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows that have a row's values in all columns that both have."""
    for column in frame.columns.intersection(list(row)):
        frame = frame[[_same(value, row[column]) for value in frame[column]]]
    return frame


def names_edit(row: Mapping[str, Any], edit: str, columns: Collection[str]) -> bool:
    """Return whether a row names an edit: in a column of its own, or by its task.

    Args:
        row: A row of a table.
        edit: An edit's name, as it is or as `KIND-TASK`.
        columns: The columns beside that name; what the row has in these is no name of an edit.

    Returns:
        Whether it does. What KIND is a column says, unless it is the task's own model, `single`.
    """
    names = {value for key, value in row.items() if key not in {"task", *columns}}
    kind, _, task = edit.partition("-")
    return edit in names or (kind in {"single", *names} and task == row.get("task"))


def share_number(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two rows have a measured number in common, under whatever name."""
    ours, theirs = (
        [value for value in values if isinstance(value, float)]
        for values in (row.values(), other.values())
    )
    return any(_same(one, two) for one in ours for two in theirs)


def _same(one: Any, other: Any) -> bool:
    """Compare two values, of which numbers have been through text and missing ones are None."""
    if other is None or isinstance(other, float):
        missing = other is None or math.isnan(other)
        return pd.isna(one) if missing else math.isclose(one, other, rel_tol=1e-9)
    return one == other
