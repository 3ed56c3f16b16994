"""Disentanglement errors and the linear regime on cases computed directly."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from task_arithmetic.disentanglement import (
    FirstOrder,
    chosen_examples,
    disentanglement_errors,
    distances,
    evaluated_points,
    logits_of,
)
from task_arithmetic.encoders import Encoder, Preprocess
from task_arithmetic.networks import EditedNetwork, first_order_models
from task_arithmetic.regimes import linear_regime, nonlinear_advantage
from task_arithmetic.vectors import TaskVector

HEADS = {"a": np.eye(2, dtype=np.float32), "b": np.array([[1, 1], [1, -1]], dtype=np.float32)}


def errors_of(frame, distance):
    of = frame[frame.distance == distance].set_index(["alpha_first", "alpha_second"])
    return of[["error_first", "error_second", "error"]]


def test_vectors_that_leave_each_others_images_alone_are_disentangled():
    rng = np.random.default_rng(0)
    f0 = {task: rng.normal(size=(6, 2)).astype(np.float32) for task in "ab"}
    own = {task: rng.normal(size=(6, 2)).astype(np.float32) for task in "ab"}
    columns = {task: dict.fromkeys("ab", np.zeros((6, 2), np.float32)) for task in "ab"}
    for task in "ab":
        columns[task][task] = own[task]
    points = {("a", "b"): [(0.5, -1.0), (3.0, 2.0)]}
    frame = disentanglement_errors(points, FirstOrder(f0, columns), HEADS)
    assert len(frame) == 4
    assert (frame.error == 0).all()


def test_the_error_is_the_share_of_changed_predictions_on_both_tasks():
    # One image per task; τ_a moves the second feature of the image of b, τ_b moves nothing.
    f0 = {
        "a": np.array([[2, 1]], dtype=np.float32),
        "b": np.array([[1, 0.5], [1, 9]], dtype=np.float32),
    }
    zero = {task: np.zeros_like(features) for task, features in f0.items()}
    pushed = np.array([[0, -1], [0, -1]], dtype=np.float32)
    columns = {"a": {"a": zero["a"], "b": zero["a"]}, "b": {"a": pushed, "b": zero["b"]}}
    points = {("a", "b"): [(0.25, 1.0), (1.0, 1.0)]}
    found = errors_of(disentanglement_errors(points, FirstOrder(f0, columns), HEADS), "prediction")
    # W_b tells the sign of the second feature: 0.5 − α1 changes it at α1 = 1, 9 − α1 never does.
    assert found.loc[(0.25, 1.0)].tolist() == [0, 0, 0]
    assert found.loc[(1.0, 1.0)].tolist() == [0, 0.5, 0.5]


def test_the_logit_distance_ignores_what_no_probability_depends_on():
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    assert distances(logits, logits + np.array([[5.0], [-2.0]])) == {
        "prediction": 0,
        "logit": pytest.approx(0, abs=1e-12),
    }
    moved = logits + np.array([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert distances(logits, moved)["logit"] == pytest.approx(np.std([3, 0, 0]) / 2)


def test_logits_do_not_depend_on_the_norm_of_the_features():
    z = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(logits_of(z, HEADS["a"]), [[0.6, 0.8]])
    np.testing.assert_allclose(logits_of(7 * z, HEADS["a"]), [[0.6, 0.8]])


def test_named_pairs_are_measured_on_the_plane_and_every_pair_on_the_diagonal():
    points = evaluated_points(["a", "b", "c"], [["c", "a"]], [-1, 0, 1], [0, 0.5, 1])
    assert list(points) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert points["a", "b"] == [(0, 0), (0.5, 0.5), (1, 1)]
    assert len(points["a", "c"]) == 9 + 1
    assert (-1, 1) in points["a", "c"]


def test_the_chosen_examples_are_distinct_and_the_same_every_time():
    chosen = chosen_examples(100, 10)
    assert len(set(chosen)) == 10
    assert chosen.tolist() == sorted(chosen_examples(100, 10).tolist())
    assert chosen_examples(5, 10).tolist() == [0, 1, 2, 3, 4]


@pytest.fixture
def small():
    """Return a small encoder, a task vector and images of two tasks."""
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    encoder = Encoder("small", tower, Preprocess(4, (0.5,) * 3, (0.2,) * 3))
    vectors = {
        task: TaskVector({name: torch.randn_like(p) for name, p in tower.named_parameters()})
        for task in "ab"
    }
    images = {task: torch.randint(0, 256, (9, 4, 4, 3), dtype=torch.uint8).numpy() for task in "ab"}
    return encoder, vectors, images


def test_first_order_models_of_several_modes_are_those_of_each_alone(small):
    encoder, vectors, images = small
    swapped = {"a": vectors["b"], "b": vectors["a"]}
    models = first_order_models(encoder, {"posthoc": vectors, "linear": swapped}, images, 4)
    theta = dict(encoder.tower.named_parameters())
    for mode, of in (("posthoc", vectors), ("linear", swapped)):
        for dataset in "ab":
            inputs = encoder.preprocess(torch.from_numpy(images[dataset]))
            edit = 0.7 * of["a"] + -0.4 * of["b"]
            f0, moved = torch.func.jvp(
                lambda theta, inputs=inputs: torch.func.functional_call(
                    encoder.tower, theta, inputs
                ),
                (theta,),
                ({name: edit[name] for name in theta},),
            )
            found = models[mode]({"a": 0.7, "b": -0.4}, dataset)
            np.testing.assert_allclose(found, (f0 + moved).detach(), rtol=1e-5, atol=1e-5)
    assert first_order_models(encoder, {}, images, 4) == {}


def test_the_error_of_a_network_is_that_of_directly_edited_copies(small):
    encoder, vectors, images = small
    tower = encoder.tower
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    heads = {task: np.random.default_rng(1).normal(size=(4, 3)) for task in "ab"}
    network = EditedNetwork(encoder, vectors, images, batch_size=4)
    frame = disentanglement_errors({("a", "b"): [(0.7, -0.4)]}, network, heads)

    def predictions(task, **alphas):
        theta = dict(before)
        for name, alpha in alphas.items():
            theta = {key: theta[key] + alpha * vectors[name][key] for key in theta}
        inputs = encoder.preprocess(torch.from_numpy(images[task]))
        features = torch.func.functional_call(tower, theta, inputs).detach().numpy()
        return (features @ heads[task].T).argmax(axis=1)

    expected = [
        (predictions("a", a=0.7) != predictions("a", a=0.7, b=-0.4)).mean(),
        (predictions("b", b=-0.4) != predictions("b", a=0.7, b=-0.4)).mean(),
    ]
    found = errors_of(frame, "prediction").loc[(0.7, -0.4)].tolist()
    assert found == pytest.approx([*expected, sum(expected)])
    assert sum(expected) > 0
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


def test_the_nonlinear_advantage_is_relative_to_what_chance_leaves():
    assert nonlinear_advantage(0.9, 0.7, 2) == pytest.approx(0.4)
    assert nonlinear_advantage(0.7, 0.9, 5) == pytest.approx(-0.25)


def single(mode, task, accuracies):
    return pd.DataFrame([
        {"model": "tiny", "seed": 0, "mode": mode, "edit": f"single-{task}", "dataset": task,
         "split": "test", "alpha": alpha, "accuracy": accuracy}
        for alpha, accuracy in accuracies.items()
    ])  # fmt: skip


def test_the_linear_regime_compares_a_network_with_its_own_first_order_model():
    accuracies = pd.concat([
        single("nonlinear", "a", {0.0: 0.5, 1.0: 0.9}),
        single("posthoc", "a", {0.0: 0.5, 1.0: 0.7}),
        single("linear", "a", {0.0: 0.5, 1.0: 0.8}),
        single("network_at_linear", "a", {1.0: 0.85}),
    ])
    table = linear_regime(accuracies, {"a": 2}, ["a"])
    assert table.fine_tuning.tolist() == ["nonlinear", "linear"]
    assert table.pretrained_accuracy.tolist() == [0.5, 0.5]
    assert table.nonlinear_advantage.tolist() == pytest.approx([0.4, 0.1])


def test_a_comparison_of_which_one_side_was_not_measured_is_left_out():
    accuracies = single("posthoc", "a", {0.0: 0.5, 1.0: 0.7})
    assert linear_regime(accuracies, {"a": 2}, ["a"]).empty


def test_a_vector_alone_is_evaluated_once_and_the_origin_needs_no_pair():
    calls = []

    def features(edit, task):
        calls.append((task, tuple(sorted(edit.items()))))
        return np.ones((2, 2), dtype=np.float32)

    grid = [(first, second) for first in (-1.0, 0.0, 1.0) for second in (-1.0, 0.0, 1.0)]
    disentanglement_errors({("a", "b"): grid}, features, HEADS)
    assert len(calls) == len(set(calls))
    # Three α of each vector alone, and on both tasks the 3 · 2 points where the other one moves.
    assert len(calls) == 2 * (3 + 3 * 2)
