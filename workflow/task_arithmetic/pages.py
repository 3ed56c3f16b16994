"""Pages of the report: tables that a browser sorts, in HTML files that need nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from task_arithmetic.artifacts import sha256

TEMPLATES = Path(__file__).parents[1] / "report"
# More rows than anyone reads would only slow the browser down; the file holds them all.
SHOWN_ROWS = 2000


@dataclass(frozen=True)
class Section:
    """A part of a page: a text, ready markup, and a table of values.

    Attributes:
        heading: Its heading; none if empty.
        text: What it says, in plain text.
        rendered: Markup, taken as it is.
        heads: Headings of the table's columns; no table if empty.
        lines: Its cells by line.
        folded: Whether a click on the heading shows the rest.
    """

    heading: str = ""
    text: str = ""
    rendered: str = ""
    heads: Sequence[str] = ()
    lines: Sequence[Sequence[Cell]] = field(default_factory=list)
    folded: bool = False

    @classmethod
    def of_frame(cls, heading: str, frame: pd.DataFrame, text: str = "", folded: bool = False):
        """Return a section with the rows of a table."""
        lines = [[Cell.of(value) for value in row] for row in frame.itertuples(index=False)]
        return cls(heading, text, heads=list(frame.columns), lines=lines, folded=folded)

    @classmethod
    def of_markdown(cls, text: str) -> Section:
        """Return a section of a table that was rendered as Markdown."""
        return cls(rendered=Markup(MarkdownIt("commonmark").enable("table").render(text)))


@dataclass(frozen=True)
class Cell:
    """A value as a page shows it.

    Attributes:
        text: The text; a dash for what is missing.
        number: Whether it is a number, and so stands to the right.
    """

    text: str
    number: bool

    @classmethod
    def of(cls, value: Any) -> Cell:
        """Return a value's cell, with four digits of a fraction."""
        if value is None or value != value:
            return cls("–", True)
        if isinstance(value, float):
            return cls(f"{value:.4g}", True)
        return cls(str(value), isinstance(value, int) and not isinstance(value, bool))


def page(title: str, sections: Iterable[Section], files: Iterable[Path] = ()) -> str:
    """Lay out a page.

    Args:
        title: Its title.
        sections: Its parts in order.
        files: CSV files to offer for download; they are held in the page.

    Returns:
        A whole HTML document, whose tables are sorted by a click on a heading.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    held = [
        {
            "name": file.name,
            "base64": base64.b64encode(file.read_bytes()).decode(),
            "sha256": sha256(file),
        }
        for file in files
    ]
    template = environment.get_template("page.html.jinja2")
    return template.render(title=title, sections=list(sections), files=held)


def table_page(title: str, csv: Path, rows: pd.DataFrame, markdown: str | None) -> str:
    """Lay out the page of a table: as in a paper if it was rendered so, then all of its rows.

    Args:
        title: The page's title.
        csv: The table's file, which the page offers.
        rows: What is in it.
        markdown: The rendered table; None if there is none.

    Returns:
        The HTML document.
    """
    shown = rows[:SHOWN_ROWS]
    heading = f"All {len(rows)} rows" if len(shown) == len(rows) else f"The first {SHOWN_ROWS} rows"
    sections = [Section.of_frame(heading, shown, folded=markdown is not None)]
    if markdown is not None:
        sections.insert(0, Section.of_markdown(markdown))
    return page(title, sections, [csv])


def flattened(settings: Mapping[str, Any]) -> pd.DataFrame:
    """Tabulate nested settings.

    Args:
        settings: Values, lists and mappings by key.

    Returns:
        One row per value: the keys that lead to it, with points between them, and the value.
    """

    def lines(value: Any, place: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                yield from lines(inner, f"{place}.{key}" if place else key)
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield place, shown

    return pd.DataFrame(lines(settings, ""), columns=["setting", "value"])
