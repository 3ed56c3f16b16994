"""Figures: what is drawn, with which marks, and the files."""

import matplotlib as mpl
import pytest
from synthetic_accuracies import experiment

from task_arithmetic import figures, tables
from task_arithmetic.artifacts import sha256


@pytest.fixture(scope="module")
def made():
    return experiment(models=("tiny", "small"), seeds=(0, 1))


@pytest.fixture(scope="module")
def single(made):
    return tables.single_task(made.singles, made.tasks)


def draw(name, made, single):
    if name == "addition_curves":
        return figures.addition_curves(
            made.addition_curves, made.addition_selections, single, made.tasks
        )
    if name == "negation_curves":
        return figures.negation_curves(
            made.negation_curves, made.negation_selections, made.tasks, made.control
        )
    addition = tables.task_addition(
        made.addition_tests, made.addition_selections, single, made.tasks
    )
    negation = tables.task_negation(
        made.negation_tests, made.negation_selections, made.tasks, made.control
    )
    return figures.single_task_against_edited(single, addition, negation)


@pytest.mark.parametrize(
    "name", ["addition_curves", "negation_curves", "single_task_against_edited"]
)
def test_every_panel_names_its_axes_and_every_mode_is_in_the_legend(made, single, name):
    figure = draw(name, made, single)
    assert figure.axes
    assert any(axes.get_xlabel() for axes in figure.axes)
    assert any("%" in axes.get_ylabel() for axes in figure.axes)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for mode in ("nonlinear", "posthoc", "linear"):
        assert tables.MODES[mode] in texts


def test_the_addition_curve_is_the_mean_normalized_accuracy(made, single):
    figure = draw("addition_curves", made, single)
    rows = made.addition_curves
    rows = rows[(rows.model == "tiny") & (rows["mode"] == "linear")].copy()
    own = single[(single.split == "validation") & (single["mode"] == "linear")]
    own = own[own.model == "tiny"].set_index(["seed", "task"]).accuracy
    rows["normalized"] = [row.accuracy / own[row.seed, row.dataset] for row in rows.itertuples()]
    expected = rows.groupby("alpha").normalized.mean().to_numpy()
    drawn = [line.get_ydata() for line in figure.axes[0].lines]
    assert any(len(y) == len(expected) and abs(y - expected).max() < 1e-9 for y in drawn)


def test_drawing_leaves_everybodys_settings_alone(made, single):
    before = dict(mpl.rcParams)
    draw("addition_curves", made, single)
    assert dict(mpl.rcParams) == before


def test_files_are_the_same_bytes_every_time(made, single, tmp_path):
    for name in ("one", "two"):
        figures.save(draw("negation_curves", made, single), tmp_path / f"{name}.png")
    for suffix in (".png", ".pdf"):
        assert sha256(tmp_path / f"one{suffix}") == sha256(tmp_path / f"two{suffix}")


def test_modes_differ_in_more_than_colour():
    looks = [figures.PALETTE[mode] for mode in ("nonlinear", "posthoc", "linear")]
    for key in ("color", "linestyle", "marker"):
        assert len({look[key] for look in looks}) == 3
