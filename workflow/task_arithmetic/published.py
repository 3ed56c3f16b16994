"""Published numbers beside ours: what a configuration expects of a table's means over the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OUTSIDE = "†"


@dataclass(frozen=True)
class Published:
    """The published numbers of one table.

    Attributes:
        values: Percent and source by model, mode and measure.
        sources: What each source is, in the order of their numbers in the table.
        tolerance: How many points ours may lie below the lowest or above the highest of them.
    """

    values: Mapping[tuple[str, str, str], Sequence[tuple[float, str]]]
    sources: Mapping[str, str]
    tolerance: float

    @classmethod
    def of(cls, expected: Mapping[str, Any] | None, table: str) -> Published:
        """Choose what is expected of one table.

        Args:
            expected: The configuration's `expected`, or None.
            table: The table's name.

        Returns:
            Its published numbers; none if nothing is expected.
        """
        found: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
        chosen = [
            entry for entry in (expected or {"values": []})["values"] if entry["table"] == table
        ]
        for entry in chosen:
            for model, percent in entry["percent"].items():
                key = (model, entry["mode"], entry["measure"])
                found.setdefault(key, []).append((percent, entry["source"]))
        if not chosen:
            return cls({}, {}, 0.0)
        used = {entry["source"] for entry in chosen}
        named = {key: text for key, text in expected["sources"].items() if key in used}
        return cls(found, named, expected["tolerance"])

    def has(self, measure: str) -> bool:
        """Return whether there is a number of a measure, for any model."""
        return any(key[2] == measure for key in self.values)

    def cell(self, model: str, mode: str, measure: str) -> str:
        """Return the published numbers of a cell with the numbers of their sources."""
        numbers = list(self.sources)
        return ", ".join(
            f"{percent:.1f} [{numbers.index(source) + 1}]"
            for percent, source in self.values.get((model, mode, measure), [])
        )

    def mark(self, model: str, mode: str, measure: str, percent: float) -> str:
        """Return the mark of a number of ours: none within the tolerance, or with no other."""
        known = [value for value, _ in self.values.get((model, mode, measure), [])]
        if not known:
            return ""
        # Compared as printed, with one decimal.
        low, high = min(known) - self.tolerance, max(known) + self.tolerance
        return "" if low <= round(percent, 1) <= high else f" {OUTSIDE}"

    @property
    def legend(self) -> str:
        """What the columns and marks mean; empty without published numbers."""
        if not self.sources:
            return ""
        named = "; ".join(f"[{n}] {text}" for n, text in enumerate(self.sources.values(), 1))
        return (
            f" Paper: {named}. {OUTSIDE}: more than {self.tolerance:g} points from the published"
            " numbers."
        )
