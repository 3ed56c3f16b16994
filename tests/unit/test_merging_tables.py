"""Tables and figures of sums of task vectors: joins and means against cases computed by hand."""

import numpy as np
import pandas as pd
import pytest
from synthetic_accuracies import accuracy_rows

from task_arithmetic import merging_figures, merging_rendering, merging_tables, tables
from task_arithmetic.merging_tables import half_width, subset_means

KEY = ("tiny", 0, "nonlinear")
OWN = {"a": 0.8, "b": 0.5, "c": 1.0}
TARGETS = ["a", "b-2"]


@pytest.fixture
def single():
    rows = [
        accuracy_rows(*KEY, f"single-{task}", task, split, {0.0: 0.4, 1.0: own})
        for task, own in OWN.items()
        for split in ("validation", "test")
    ]
    return tables.single_task(pd.concat(rows), list(OWN))


def rows_of(edit, accuracies, alpha=0.5, total=1000):
    """Return test rows of one edit from {task: accuracy}."""
    return pd.concat([
        accuracy_rows(*KEY, edit, task, "test", {alpha: accuracy}, total)
        for task, accuracy in accuracies.items()
    ])


@pytest.fixture
def summed(single):
    """Return the table of subsets: all three singles, two of the pairs in part, and the whole."""
    rows = pd.concat([
        rows_of("a", {"a": 0.8, "b": 0.25, "c": 0.5}),
        rows_of("b", {"a": 0.4, "b": 0.5, "c": 0.5}),
        rows_of("c", {"a": 0.4, "b": 0.25, "c": 1.0}),
        rows_of("a+b", {"a": 0.6, "b": 0.4}),
        rows_of("a+c", {"a": 0.72, "c": 0.9, "b": 0.25}),
        rows_of("b+c", {"b": 0.45, "c": 0.8}),
        rows_of("a+b+c", {"a": 0.6, "b": 0.4, "c": 0.8}),
    ])
    return merging_tables.subsets(rows, single, list(OWN))


def test_merged_models_are_normalized_and_name_their_paper(single):
    rows = pd.concat([
        rows_of("addition", {"a": 0.6, "b": 0.4, "c": 0.8}),
        rows_of("ties", {"a": 0.4, "b": 0.5, "c": 0.9}),
        rows_of("ensemble", {"a": 0.8, "b": 0.5, "c": 1.0}, alpha=np.nan),
    ])
    table = merging_tables.merging(rows, single, list(OWN))
    ties = table[table.method == "ties"].set_index("task")
    assert ties.normalized_accuracy.to_dict() == pytest.approx({"a": 0.5, "b": 1.0, "c": 0.9})
    assert ties.accuracy_se["a"] == pytest.approx(np.sqrt(0.4 * 0.6 / 1000))
    assert "2306.01708" in ties.source["a"]
    text = merging_rendering.render("merging", table, "markdown")
    cells = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:2] == "| "}
    best = [cell.strip() for cell in cells["Ensemble of T models"].split("|")[2:-1]]
    assert best == ["**76.7**", "**100.0**", "–"]
    assert "≈" not in cells["TIES"]


def test_a_merged_model_without_its_single_task_model_is_an_error(single):
    with pytest.raises(ValueError, match="task d"):
        merging_tables.merging(rows_of("addition", {"d": 0.5}), single, ["d"])


def test_every_merging_method_has_a_heading_and_a_paper():
    from task_arithmetic.merging import MERGE

    assert set(MERGE) <= set(merging_tables.METHODS)


def test_subsets_know_their_size_and_members(summed):
    row = summed[(summed.subset == "a+c") & (summed.task == "b")].iloc[0]
    assert row[["size", "member"]].tolist() == [2, False]
    assert row.normalized_accuracy == pytest.approx(0.5)


def test_means_over_all_tasks_need_all_tasks(summed):
    means = subset_means(summed).set_index("subset")
    assert np.isnan(means["all"]["a+b"])
    assert means.own["a+b"] == pytest.approx((0.75 + 0.8) / 2)
    assert means["all"]["a+c"] == pytest.approx((0.9 + 0.9 + 0.5) / 3)
    assert means.own["a"] == pytest.approx(1)


def test_the_interval_is_that_of_a_sample_without_replacement():
    values = pd.Series([0.5, 0.7, 0.9, 0.7])
    expected = 1.96 * values.std() / 2 * np.sqrt(1 - 4 / 10)
    assert half_width(values, 10) == pytest.approx(expected)
    assert half_width(values, 4) == 0


def test_subsets_are_summarized_by_size(summed):
    text = merging_rendering.render("subsets", summed, "markdown")
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    table = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    # One pair of three is measured on all tasks: a mean without an interval.
    assert table["2"] == ["76.7", f"{100 * np.mean([0.775, 0.9, 0.85]):.1f}"]
    assert table["3"][0] == f"{100 * np.mean([0.75, 0.8, 0.8]):.1f}"


def negations():
    return pd.DataFrame({
        "model": "tiny", "seed": 0, "mode": ["nonlinear", "nonlinear", "linear"],
        "task": ["a", "b-2", "a"], "alpha": 0.5,
        "target_accuracy": [0.2, 0.3, 0.1], "target_accuracy_se": 0.01,
        "control_accuracy": [0.57, 0.58, 0.59], "control_accuracy_se": 0.01,
        "pretrained_target_accuracy": [0.4, 0.5, 0.4], "pretrained_target_accuracy_se": 0.01,
        "pretrained_control_accuracy": 0.6, "pretrained_control_accuracy_se": 0.01,
        "feasible": True,
    })  # fmt: skip


@pytest.fixture
def forgotten():
    rows = []
    for task in TARGETS:
        for method, (target, control) in {
            "finetuned": (0.9, 0.5), "ascent": (0.0, 0.05), "random": (0.4, 0.6),
        }.items():  # fmt: skip
            rows.append(rows_of(f"{method}-{task}", {task: target, "scenes": control}, alpha=1.0))
    rows.append(rows_of("scaled_ascent-a", {"a": 0.3, "scenes": 0.57}, alpha=0.2))
    return merging_tables.negation_baselines(pd.concat(rows), negations(), TARGETS)


def test_baselines_stand_beside_the_negated_nonlinear_vector(forgotten):
    by = forgotten.set_index(["method", "task"])
    assert by.target_accuracy["negated", "a"] == 0.2
    assert by.control_accuracy["pretrained", "b-2"] == 0.6
    assert by.loc[("ascent", "b-2"), ["target_accuracy", "control_accuracy"]].tolist() == [0, 0.05]
    assert by.control_accuracy_se["random", "a"] == pytest.approx(np.sqrt(0.6 * 0.4 / 1000))
    # As trained, there was nothing to choose.
    assert np.isnan(by.alpha["finetuned", "a"])
    assert by.alpha["scaled_ascent", "a"] == 0.2


def test_a_baseline_without_a_feasible_coefficient_is_shown_as_such(forgotten):
    by = forgotten.set_index(["method", "task"])
    assert np.isnan(by.target_accuracy["scaled_ascent", "b-2"])
    text = merging_rendering.render("negation_baselines", forgotten, "markdown")
    assert "30.0 (1 of 2)" in text
    assert "Infeasible" in text


def run_rows(run, accuracy, single_accuracy, cosine):
    return pd.DataFrame({
        "model": "tiny", "seed": 0, "mode": "nonlinear", "run": run, "task": list(OWN),
        "alpha": 0.4, "total": 500, "accuracy": accuracy, "single_accuracy": single_accuracy,
        "cosine": cosine, "other_cosine": 0.1,
    })  # fmt: skip


@pytest.fixture
def ablated(single):
    runs = ("rate-0.0008", "rate-0.0002", "steps-10", "reseeded", "interchanged")
    rows = [run_rows(run, 0.4 + 0.01 * i, 0.5, 0.2 * i) for i, run in enumerate(runs)]
    return merging_tables.ablations(pd.concat(rows), single, list(OWN))


def test_runs_are_normalized_by_the_ordinary_models(ablated):
    row = ablated[(ablated.run == "rate-0.0002") & (ablated.task == "b")].iloc[0]
    assert row.normalized_accuracy == pytest.approx(0.41 / 0.5)
    assert row.single_accuracy_se == pytest.approx(np.sqrt(0.25 / 500))


def cosine_rows(wanted=tuple(OWN)):
    tasks, layers = list(OWN), ["all layers", "stem", "block 1"]
    rows = [
        (*KEY[:2], mode, layer, s, t, 1.0 if s == t else -0.1 * (1 + i))
        for mode in ("nonlinear", "linear")
        for i, layer in enumerate(layers)
        for s in tasks
        for t in tasks
    ]
    columns = ["model", "seed", "mode", "layer", "first", "second", "cosine"]
    return merging_tables.similarity(pd.DataFrame(rows, columns=columns), wanted)


def test_similarity_has_each_pair_once_and_sizes_by_layer():
    table = cosine_rows()
    assert len(table) == 2 * 3 * 3
    text = merging_rendering.render("similarity", table, "markdown")
    line = next(line for line in text.splitlines() if line.startswith("| stem"))
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["0.200"] * 4


def texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_figures_have_named_axes_units_and_every_series(single, summed, forgotten, ablated):
    merged = merging_tables.merging(
        pd.concat([rows_of(name, OWN) for name in ("addition", "ties")]), single, list(OWN)
    )
    drawn = {
        "merging_methods": merging_figures.merging_methods(merged, list(OWN)),
        "pairs": merging_figures.pairs(summed, list(OWN)),
        "subsets": merging_figures.subsets(summed, list(OWN)),
        "negation_baselines": merging_figures.negation_baselines(forgotten, negations(), TARGETS),
        "ablations": merging_figures.ablations(ablated, list(OWN)),
    }
    for name, figure in drawn.items():
        labels = [
            label for panel in figure.axes for label in (panel.get_xlabel(), panel.get_ylabel())
        ]
        assert any("%" in label for label in labels), name
    for name in ("merging_methods", "subsets"):
        assert tables.MODES["nonlinear"] in texts(drawn[name])
    assert {"Gradient ascent", "Random vector"} <= set(texts(drawn["negation_baselines"]))
    assert len(drawn["ablations"].axes) == 3


def test_pairs_are_drawn_where_they_were_measured(summed):
    (points, *_), *_ = [panel.lines for panel in merging_figures.pairs(summed, list(OWN)).axes]
    drawn = list(zip(*points.get_data(), strict=True))
    np.testing.assert_allclose(drawn, [(0.75, 0.8), (0.9, 0.9), (0.9, 0.8)])


def test_the_heat_map_shows_every_cosine_over_all_layers():
    square, layers, *_ = merging_figures.cosine_similarity(cosine_rows(), list(OWN)).axes
    assert [text.get_text() for text in square.texts] == ["-0.10"] * 6
    assert layers.images[0].get_array().shape == (2, 3)


def test_tables_and_figures_keep_the_tasks_in_the_order_wanted(single, summed):
    wanted = ["c", "a", "b"]
    rows = pd.concat([rows_of(name, OWN) for name in ("ties", "addition")])
    merged = merging_tables.merging(rows, single, wanted)
    assert list(merged.task) == 2 * wanted
    assert list(merged.method.unique()) == ["ties", "addition"]
    cosines = cosine_rows(wanted)
    pairs = list(zip(cosines["first"], cosines["second"], strict=True))
    assert pairs == 2 * 3 * [("c", "a"), ("c", "b"), ("a", "b")]
    square, layers, *_ = merging_figures.cosine_similarity(cosines, wanted).axes
    assert [label.get_text() for label in square.get_xticklabels()] == wanted
    assert [label.get_text() for label in layers.get_xticklabels()] == ["c, a", "c, b", "a, b"]
    # Of the pair a+c, c is now the first.
    (points, *_), *_ = [panel.lines for panel in merging_figures.pairs(summed, wanted).axes]
    drawn = list(zip(*points.get_data(), strict=True))
    np.testing.assert_allclose(drawn, [(0.75, 0.8), (0.9, 0.9), (0.8, 0.9)])
