"""The pages of the report, and what they tell of datasets and records."""

import base64
import io
import re
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from task_arithmetic import gallery, pages, provenance
from task_arithmetic.artifacts import PipelineError, sha256, write_csv, write_text
from task_arithmetic.datasets import hub
from task_arithmetic.lineage import recorded_step
from task_arithmetic.splits import write_split


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "scores.csv"
    rows = {"task": ["<digits>", "signs"], "accuracy": [0.123456, np.nan], "seed": [0, 1]}
    write_csv(path, pd.DataFrame(rows))
    return path


def cells(page):
    return re.findall(r'<td(?: class="(\w+)")?>(.*?)</td>', page)


def test_a_page_shows_every_row_and_escapes_what_it_shows(csv):
    made = pages.table_page("Scores", csv, pd.read_csv(csv), None)
    assert "<title>Scores</title>" in made
    assert cells(made) == [
        ("", "&lt;digits&gt;"), ("number", "0.1235"), ("number", "0"),
        ("", "signs"), ("number", "–"), ("number", "1"),
    ]  # fmt: skip
    assert "All 2 rows" in made
    assert "<details>" not in made


def test_a_page_holds_the_file_it_shows(csv):
    made = pages.table_page("Scores", csv, pd.read_csv(csv), None)
    (held,) = re.findall(r'download="scores.csv" href="data:text/csv;base64,([^"]+)"', made)
    assert base64.b64decode(held) == csv.read_bytes()
    assert sha256(csv) in made
    # Nothing is loaded from anywhere.
    assert re.findall(r'(?:src|href)="(?!data:)', made) == []


def test_a_rendered_table_comes_first_and_all_rows_are_folded_away(csv):
    markdown = "## Title\n\n| Method | α |\n| --- | ---: |\n| Sum | **0.5** |\n"
    made = pages.table_page("Scores", csv, pd.read_csv(csv), markdown)
    assert "<strong>0.5</strong>" in made
    assert made.index("<strong>0.5</strong>") < made.index("<details>") < made.index("signs")


def test_of_a_long_table_a_page_shows_the_beginning_and_says_so(csv, monkeypatch):
    monkeypatch.setattr(pages, "SHOWN_ROWS", 1)
    made = pages.table_page("Scores", csv, pd.read_csv(csv), None)
    assert "The first 1 rows" in made
    assert len(cells(made)) == 3


def test_settings_are_flattened_to_one_line_per_value():
    settings = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": "text", "f": {}}
    found = pages.flattened(settings)
    assert found.values.tolist() == [
        ["a.b", "1"], ["a.c.d", "[1, 2]"], ["e", "text"], ["f", "{}"]
    ]  # fmt: skip


# --- Pictures ---------------------------------------------------------------------------------


def coloured_split(path, labels, names, size=(40, 20)):
    images = [Image.new("RGB", size, (20 * label, 0, 0)) for label in labels]
    features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=names))
    write_split(path, hub.Dataset.from_dict({"image": images, "label": labels}, features=features))
    return path


def test_examples_are_the_first_image_of_classes_spread_over_all(tmp_path):
    names = [f"class {number}" for number in range(7)]
    labels = [6, 6, 3, 0, 5, 1, 2, 4]
    path = coloured_split(tmp_path / "split.parquet", labels, names)
    found = gallery.examples(path, 3)
    assert [name for name, _ in found] == ["class 0", "class 3", "class 6"]
    # Square, however the photograph is, and of the right class.
    assert [image.size for _, image in found] == [(20, 20)] * 3
    for (name, image), label in zip(found, (0, 3, 6), strict=True):
        assert abs(np.asarray(image)[0, 0, 0].astype(int) - 20 * label) <= 2, name


def test_the_gallery_has_a_line_per_dataset_and_empty_places_where_classes_lack(tmp_path):
    image = Image.new("RGB", (4, 4))
    few, many = [("a", image)], [("a", image), ("b" * 30, image)]
    figure = gallery.gallery({"few": few, "many": many})
    assert len(figure.axes) == 4
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["a", "", "a", "b" * 14 + "…"]
    assert [len(panel.images) for panel in figure.axes] == [1, 0, 1, 1]
    figure.savefig(io.BytesIO())


# --- Provenance -------------------------------------------------------------------------------


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Return two results of a chain: a given file, a drawn one, and what two steps made of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["task-arithmetic", "test"])
    given, drawn, middle, result = (tmp_path / name for name in ("given", "drawn", "mid", "out"))
    write_text(given, "given")
    for step, inputs, output in (
        ("draw", [], drawn),
        ("mix", [given, drawn], middle),
        ("draw-figure", [middle], result),
    ):
        with recorded_step(step, {}, ("artifacts",), inputs, [output]):
            write_text(output, step)
    return result


def test_provenance_reaches_the_sources_and_names_them(chain):
    records = provenance.records_behind(["out"])
    # The file that nobody made has no record.
    assert {record["step"] for record in records.values()} == {"draw", "mix", "draw-figure"}
    sources = provenance.sources(records).set_index("source").sha256
    assert sources.to_dict() == {name: sha256(chain.with_name(name))[:12]
                                 for name in ("given", "drawn")}  # fmt: skip


def test_provenance_counts_steps_and_identifies_results(chain):
    records = provenance.records_behind(["out"])
    steps = provenance.steps(records).set_index("step")
    assert steps.runs.to_dict() == {"draw": 1, "mix": 1, "draw-figure": 1}
    assert (steps.seconds >= steps.slowest).all()
    made = provenance.made(["out"], records)
    assert made.loc[0, "sha256"] == sha256(chain)[:12]
    facts = provenance.environments(records).set_index("fact").value
    assert facts["Python"] == ".".join(map(str, sys.version_info[:3]))
    git = records["out"]["git"]
    assert facts["commit"].startswith(git["commit"][:12] if git else "not under git")


def test_provenance_refuses_an_edited_record(chain):
    record = chain.with_name("mid.lineage.json")
    record.write_text(record.read_text().replace('"mix"', '"max"'))
    with pytest.raises(PipelineError, match="edited since it was written"):
        provenance.records_behind(["out"])
