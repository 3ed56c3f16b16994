"""Tables: joins and means against hand-computed cases, and nothing missing in silence."""

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from synthetic_accuracies import accuracy_rows, experiment, selection_row

from task_arithmetic import tables
from task_arithmetic.rendering import render, show

KEY = ("tiny", 0, "linear")


def singles(accuracies):
    """Return single-task rows from {task: (pre-trained, fine-tuned)}, the same on both splits."""
    return pd.concat([
        accuracy_rows(*KEY, f"single-{task}", task, split, {0.0: before, 1.0: after})
        for task, (before, after) in accuracies.items()
        for split in ("validation", "test")
    ])


@pytest.fixture
def single():
    return tables.single_task(singles({"a": (0.4, 0.8), "b": (0.5, 1.0)}), ["b", "a"])


def test_single_task_has_the_pretrained_model_once_and_tasks_in_order(single):
    columns = ["model", "seed", "mode", "task", "split", "accuracy", "accuracy_se"]
    assert list(single.columns) == columns
    tests = single[single.split == "test"]
    assert tests[["mode", "task", "accuracy"]].to_numpy().tolist() == [
        ["pretrained", "b", 0.5],
        ["pretrained", "a", 0.4],
        ["linear", "b", 1.0],
        ["linear", "a", 0.8],
    ]


def test_addition_is_normalized_by_the_single_task_test_accuracy(single):
    tests = pd.concat([
        accuracy_rows(*KEY, "addition", "a", "test", {0.0: 0.4, 0.15: 0.6}),
        accuracy_rows(*KEY, "addition", "b", "test", {0.0: 0.5, 0.15: 0.9}),
    ])
    # What the grid's arithmetic may make of 0.15.
    selected = selection_row(*KEY, "addition", 3 * 0.05)
    table = tables.task_addition(tests, selected, single, ["a", "b"])
    assert table.accuracy.tolist() == [0.6, 0.9]
    np.testing.assert_allclose(table.normalized_accuracy, [0.6 / 0.8, 0.9 / 1.0])


def test_every_accuracy_has_its_binomial_standard_error(single):
    tests = pd.concat([
        accuracy_rows(*KEY, "addition", "a", "test", {0.0: 0.4, 0.5: 0.6}, total=100),
        accuracy_rows(*KEY, "addition", "b", "test", {0.0: 0.5, 0.5: 0.9}, total=400),
    ])
    table = tables.task_addition(tests, selection_row(*KEY, "addition", 0.5), single, ["a", "b"])
    errors = np.sqrt([0.6 * 0.4 / 100, 0.9 * 0.1 / 400])
    np.testing.assert_allclose(table.accuracy_se, errors)
    # Relative errors add in squares; the single-task accuracies are of 1000 images.
    relative = [errors[0] / 0.6, np.sqrt(0.8 * 0.2 / 1000) / 0.8]
    np.testing.assert_allclose(table.normalized_accuracy_se[0], 0.75 * np.hypot(*relative))
    # A single-task accuracy of 1 has no binomial error.
    np.testing.assert_allclose(table.normalized_accuracy_se[1], errors[1])


def test_methods_within_noise_of_the_best_are_marked_and_others_are_not():
    def rows(mode, accuracy):
        key = ("tiny", 0, mode)
        return accuracy_rows(*key, "single-a", "a", "test", {0.0: 0.4, 1.0: accuracy}, total=400)

    # The error of one is √(0.8 · 0.2 / 400) = 2 points, that of a difference 2.8.
    measured = pd.concat([rows("nonlinear", 0.8), rows("posthoc", 0.76), rows("linear", 0.7)])
    both = pd.concat([measured, measured.assign(split="validation")])
    text = render("single_task", tables.single_task(both, ["a"]), ["a"], "markdown")
    cells = {
        line.split("|")[1].strip(): line.split("|")[3].strip()
        for line in text.partition("\n### ")[0].splitlines()
        if line.startswith("| ")
    }
    assert cells["Non-linear FT."] == "**80.0**"
    assert cells["Post-hoc linearized"] == "≈ 76.0"
    assert cells["Linearized FT."] == "70.0"
    assert "≈: within noise" in text


def negation(alpha):
    points = {0.0: 0.4} if alpha is None else {0.0: 0.4, alpha: 0.1}
    control = {0.0: 0.6} if alpha is None else {0.0: 0.6, alpha: 0.58}
    tests = pd.concat([
        accuracy_rows(*KEY, "negation-a", "a", "test", points),
        accuracy_rows(*KEY, "negation-a", "scenes", "test", control),
    ])
    selected = selection_row(*KEY, "negation-a", alpha)
    return tables.task_negation(tests, selected, ["a"], "scenes").iloc[0]


def test_negation_has_target_and_control_before_and_after():
    row = negation(0.5)
    assert row[["target_accuracy", "control_accuracy"]].tolist() == [0.1, 0.58]
    assert row[["pretrained_target_accuracy", "pretrained_control_accuracy"]].tolist() == [0.4, 0.6]
    assert row.feasible


def test_a_negation_without_a_feasible_coefficient_is_shown_as_such():
    row = negation(None)
    assert row[["alpha", "target_accuracy", "control_accuracy"]].isna().all()
    assert row.pretrained_target_accuracy == 0.4
    assert not row.feasible
    made = experiment(infeasible=[("linear", "digits")])
    table = tables.task_negation(
        made.negation_tests, made.negation_selections, made.tasks, made.control
    )
    text = render("task_negation", table, made.tasks, "markdown")
    assert "(7 of 8)" in text
    assert "infeasible" in text


@pytest.mark.parametrize("copies", [0, 2])
def test_a_missing_or_repeated_row_is_named(copies):
    rows = singles({"a": (0.4, 0.8), "b": (0.5, 1.0)})
    kept = rows[rows.edit == "single-a"]
    other = rows[rows.edit == "single-b"]
    with pytest.raises(ValueError) as error:
        tables.single_task(pd.concat([kept, *[other] * copies]), ["a", "b"])
    for part in ("tiny", "linear", "single-b"):
        assert part in str(error.value)


def test_rendered_tables_have_percents_means_and_the_best_in_bold():
    made = experiment(seeds=(0, 1, 2))
    single = tables.single_task(made.singles, made.tasks)
    table = tables.task_addition(made.addition_tests, made.addition_selections, single, made.tasks)
    text = render("task_addition", table, made.tasks, "markdown", single)
    by_seed = table[table["mode"] == "linear"].groupby("seed").accuracy.mean() * 100
    assert f"{by_seed.mean():.1f}** ± {by_seed.std():.1f}" in text
    summary = text.partition("\n### ")[0]
    bold = [line.split("|")[1].strip() for line in summary.splitlines() if "**" in line]
    assert bold == ["Linearized FT."]
    assert "n = 3 seeds" in text
    assert "±" not in render(
        "task_addition",
        table[table.seed == 0],
        made.tasks,
        "markdown",
        single[single.seed == 0],
    )


@pytest.mark.parametrize(("markup", "mark"), [("markdown", "‡"), ("latex", r"$\ddagger$")])
def test_numbers_with_imported_models_are_marked(markup, mark):
    made = experiment()
    single = tables.single_task(made.singles, made.tasks)
    assert tables.with_imported(single, []) is single
    text = render("single_task", single, made.tasks, markup)
    assert mark not in text
    marked = tables.with_imported(single, [["tiny", "linear", "digits"]])
    rows = marked[marked.imported]
    assert rows[["mode", "task", "split"]].to_numpy().tolist() == [
        ["linear", "digits", "validation"],
        ["linear", "digits", "test"],
    ]
    summary, *by_task = render("single_task", marked, made.tasks, markup).split(
        "### " if markup == "markdown" else r"\end{table}"
    )
    # Both columns of the method's mean, the legend, and one cell of one task.
    assert summary.count(mark) == 3
    assert [line[:8] for line in by_task[0].splitlines() if mark in line] in (
        ["| digits"], ["digits &"],
    )  # fmt: skip


def test_latex_is_escaped_and_balanced():
    made = experiment()
    single = tables.single_task(made.singles, made.tasks)
    text = render("single_task", single, made.tasks, "latex")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert r"Accuracy (\%)" in text
    assert "↑" not in text


def test_shown_tables_are_the_summaries_and_say_where_the_rest_is(tmp_path):
    made = experiment()
    single = tables.single_task(made.singles, made.tasks)
    path = tmp_path / "single_task.md"
    path.write_text(render("single_task", single, made.tasks, "markdown"))
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    show([path], console)
    text = console.export_text()
    assert "Linearized FT." in text
    assert "digits" not in text
    assert "single_task.md" in text


def published(**percent):
    """Expect numbers of the linear mode, and of the non-linear one from two sources."""
    common = {"table": "task_addition", "measure": "accuracy"}
    return {
        "tolerance": 3.0,
        "sources": {"paper": "A paper", "again": "Its reproduction"},
        "values": [
            {**common, "mode": "linear", "source": "paper", "percent": {"tiny": percent["linear"]}},
            {**common, "mode": "nonlinear", "source": "paper", "percent": {"tiny": percent["low"]}},
            {
                **common,
                "mode": "nonlinear",
                "source": "again",
                "percent": {"tiny": percent["high"]},
            },
        ],
    }


def addition_text(expected, markup="markdown"):
    made = experiment()
    single = tables.single_task(made.singles, made.tasks)
    table = tables.task_addition(made.addition_tests, made.addition_selections, single, made.tasks)
    ours = table.groupby("mode").accuracy.mean() * 100
    return ours, render("task_addition", table, made.tasks, markup, single, expected(ours))


def test_published_numbers_stand_beside_ours_and_far_ones_are_marked():
    ours, text = addition_text(
        lambda ours: published(
            linear=ours["linear"] + 3.5, low=ours["nonlinear"] - 9, high=ours["nonlinear"] + 2.5
        )
    )
    summary = text.partition("\n### ")[0]
    rows = {line.split("|")[1].strip(): line for line in summary.splitlines() if "|" in line}
    assert "Paper" in rows["Method"]
    assert f"{ours['linear'] + 3.5:.1f} [1]" in rows["Linearized FT."]
    nonlinear = f"{ours['nonlinear'] - 9:.1f} [1], {ours['nonlinear'] + 2.5:.1f} [2]"
    assert nonlinear in rows["Non-linear FT."]
    # Beyond 3.0 from the only number; between two numbers.
    assert "†" in rows["Linearized FT."]
    assert "†" not in rows["Non-linear FT."]
    assert "[1] A paper; [2] Its reproduction. †: more than 3 points" in summary
    assert "Paper" not in text.partition("\n### ")[2]


def test_a_measure_without_published_numbers_has_no_column_for_them():
    _, text = addition_text(lambda _: published(linear=50, low=50, high=50))
    heads = next(line for line in text.splitlines() if line.startswith("| Method"))
    assert [head.strip() for head in heads.split("|")[2:5]] == [
        "Absolute (↑)",
        "Paper",
        "Normalized (↑)",
    ]


def test_latex_has_the_published_numbers_too():
    _, text = addition_text(lambda _: published(linear=1, low=50, high=50), "latex")
    assert r"$\dagger$" in text
    assert "1.0 [1]" in text


def test_expectations_of_another_table_change_nothing():
    other = published(linear=50, low=50, high=50)
    for value in other["values"]:
        value["table"] = "task_negation"
    assert addition_text(lambda _: other)[1] == addition_text(lambda _: None)[1]
