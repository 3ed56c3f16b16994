"""Figures of the analyses: what is drawn, from tables whose numbers are known."""

import numpy as np
import pandas as pd
import pytest

from task_arithmetic import findings, findings_starts
from task_arithmetic.disentanglement import FirstOrder, disentanglement_errors, evaluated_points
from task_arithmetic.kernel import localization

TASKS = ["a", "b", "c"]
MODES = ["nonlinear", "posthoc", "linear"]
GRID = [-1.0, 0.0, 1.0]


def errors():
    rng = np.random.default_rng(0)
    heads = {task: rng.normal(size=(3, 4)) for task in TASKS}
    points, parts = evaluated_points(TASKS, [["a", "b"]], GRID, [0.0, 0.5, 1.0]), []
    for mode in MODES:
        f0 = {task: rng.normal(size=(20, 4)).astype(np.float32) for task in TASKS}
        columns = {
            task: {t: rng.normal(size=(20, 4)).astype(np.float32) for t in TASKS} for task in TASKS
        }
        frame = disentanglement_errors(points, FirstOrder(f0, columns), heads)
        parts.append(frame.assign(model="tiny", seed=0, mode=mode))
    return pd.concat(parts, ignore_index=True)


def regimes():
    return pd.DataFrame([
        {"model": "tiny", "seed": seed, "fine_tuning": name, "task": task,
         "pretrained_accuracy": 0.5, "network_accuracy": 0.9 + 0.02 * seed,
         "first_order_accuracy": 0.7, "nonlinear_advantage": 0.3 if name == "nonlinear" else 0.1}
        for seed in (0, 1) for name in ("nonlinear", "linear") for task in TASKS
    ])  # fmt: skip


def starts():
    return pd.DataFrame([
        {"start": start, "model": "tiny", "seed": 0, "mode": mode, "task": task,
         "start_accuracy": 0.5, "single_accuracy": 0.9, "addition_accuracy": 0.6 + 0.1 * place,
         "target_accuracy": 0.3}
        for place, start in enumerate(("step-0", "step-100", "pretrained"))
        for mode in (["nonlinear"] if start == "step-100" else MODES) for task in TASKS
    ])  # fmt: skip


def kernels():
    rng, parts = np.random.default_rng(0), []
    for start in ("step-0", "pretrained"):
        for task, other in (("a", "b"), ("b", "a")):
            own, unseen, foreign = (rng.normal(size=(8, 5)) for _ in range(3))
            part = localization(own @ own.T, unseen @ own.T, foreign @ own.T, share=0.9)
            parts.append(part.assign(model="tiny", start=start, task=task, other=other))
    return pd.concat(parts, ignore_index=True)


def costs():
    columns = [
        "training_seconds", "training_memory_mb", "evaluation_seconds", "evaluation_memory_mb",
        "addition_normalized", "negation_target_accuracy",
    ]  # fmt: skip
    rows = [{"model": "tiny", "seed": 0, "mode": mode} for mode in MODES]
    return pd.DataFrame(rows).assign(**{name: 0.5 + i for i, name in enumerate(columns)})


def draw(name):
    made = {
        "linear_regime": lambda: findings.linear_regime(regimes(), TASKS),
        "disentanglement_planes": lambda: findings.disentanglement_planes(errors(), TASKS),
        "disentanglement_diagonals": lambda: findings.disentanglement_diagonals(errors(), TASKS),
        "kernel": lambda: findings.kernel(kernels(), TASKS),
        "costs": lambda: findings.costs(costs(), TASKS),
        "initialization": lambda: findings_starts.initialization(starts(), TASKS),
        "emergence": lambda: findings_starts.emergence(
            starts(), errors().assign(start="step-0").pipe(everywhere), TASKS
        ),
    }
    return made[name]()


def everywhere(table):
    return pd.concat([
        table.assign(start=start) for start in ("step-0", "step-100", "pretrained")
    ])  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["linear_regime", "disentanglement_planes", "disentanglement_diagonals", "kernel", "costs",
     "initialization", "emergence"],
)  # fmt: skip
def test_every_panel_has_a_title_and_every_figure_names_its_quantity(name):
    figure = draw(name)
    panels = [panel for panel in figure.axes if panel.get_label() != "<colorbar>"]
    assert all(panel.get_title() for panel in panels)
    assert any(panel.get_ylabel() for panel in panels)
    figure.canvas.draw()


def test_a_plane_is_drawn_as_measured_with_the_box_of_practical_coefficients():
    table = errors()
    panel = findings.disentanglement_planes(table, TASKS).axes[0]
    drawn = np.asarray(panel.collections[0].get_array())
    of = table[(table["mode"] == "nonlinear") & (table["first"] == "a") & (table["second"] == "b")]
    of = of[(of["distance"] == "prediction") & of["alpha_first"].isin(GRID)]
    of = of[of["alpha_second"].isin(GRID)].set_index(["alpha_second", "alpha_first"]).error
    expected = [[of[second, first] for first in GRID] for second in GRID]
    np.testing.assert_allclose(drawn, expected)
    assert panel.patches[0].get_bbox().bounds == (0, 0, 1, 1)


def test_a_diagonal_is_the_mean_over_all_pairs():
    table = errors()
    panel = findings.disentanglement_diagonals(table, TASKS).axes[0]
    of = table[(table["mode"] == "linear") & (table["distance"] == "prediction")]
    of = of[of["alpha_first"] == of["alpha_second"]]
    expected = [of[of["alpha_first"] == alpha].error.mean() for alpha in (0.0, 0.5, 1.0)]
    assert any(np.allclose(line.get_ydata(), expected) for line in panel.lines)


def test_the_gain_kept_is_zero_for_the_starting_point_and_one_for_single_task_models():
    means = pd.DataFrame({
        "start_accuracy": [0.5] * 3, "single_accuracy": [0.9] * 3,
        "addition_accuracy": [0.5, 0.9, 0.6],
    })  # fmt: skip
    assert findings_starts.gain_kept(means).tolist() == pytest.approx([0, 1, 0.25])


def test_there_is_no_share_of_a_gain_that_was_not_made():
    row = {"start_accuracy": 0.5, "single_accuracy": 0.4, "addition_accuracy": 0.5}
    assert np.isnan(findings_starts.gain_kept(pd.Series(row)))


def test_only_modes_measured_at_every_start_are_drawn_along_pretraining():
    figure = draw("emergence")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["Non-linear FT."]
