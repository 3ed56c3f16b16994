"""Subsets: sums of stored logits against the whole model, and the search for one α per task."""

from itertools import product
from math import comb

import numpy as np
import pytest

from task_arithmetic.curves import tangent_correct
from task_arithmetic.subsets import (
    TangentLogits,
    all_subsets,
    coordinate_search,
    ensemble_correct,
    indicator,
    sampled_subsets,
    tangent_logits,
)

TASKS = ("a", "b", "c")


@pytest.fixture
def stored():
    """Return f0, three columns, labels and a head."""
    draw = np.random.default_rng(0)

    def features():
        return draw.normal(size=(200, 8)).astype(np.float32)

    head = draw.normal(size=(5, 8)).astype(np.float32)
    return features(), [features() for _ in TASKS], draw.integers(0, 5, 200), head


@pytest.mark.parametrize("subset", all_subsets(TASKS))
def test_every_subset_is_what_its_curve_says(stored, subset):
    f0, columns, labels, head = stored
    alphas = [0.0, 0.3, 1.0]
    weights = dict.fromkeys(subset, 1)
    expected = tangent_correct(
        alphas, f0, dict(zip(TASKS, columns, strict=True)), weights, labels, head
    )
    logits, member = tangent_logits(f0, columns, labels, head), indicator(subset, TASKS)
    assert logits.along(member, alphas).tolist() == expected
    assert [logits.correct(alpha * member) for alpha in alphas] == expected


def test_there_are_all_subsets_once():
    subsets = all_subsets("abcd")
    assert len(subsets) == len(set(subsets)) == 2**4 - 1
    assert [len(subset) for subset in subsets] == sorted(map(len, subsets))


def test_a_sample_has_the_given_number_of_each_size_and_all_where_there_are_no_more():
    tasks = "abcdef"
    sample = sampled_subsets(tasks, 4, seed=0)
    assert len(sample) == len(set(sample))
    assert set(sample) <= set(all_subsets(tasks))
    sizes = [len(subset) for subset in sample]
    assert {n: sizes.count(n) for n in range(1, 7)} == {n: min(4, comb(6, n)) for n in range(1, 7)}
    assert sample == sampled_subsets(tasks, 4, seed=0)
    assert sample != sampled_subsets(tasks, 4, seed=1)
    assert sampled_subsets(tasks, 1000, seed=0) == all_subsets(tasks)


def test_an_ensemble_averages_normalized_outputs():
    head, labels = np.eye(2, dtype=np.float32), np.array([0])
    # The second model is longer but no surer: unit vectors (0.8, 0.6) and (0.6, 0.8) tie at 1.4,
    # and the third decides.
    models = [[[0.8, 0.6]], [[60.0, 80.0]], [[1.0, 0.0]]]
    assert ensemble_correct([np.array(model) for model in models], labels, head) == 1
    one = ensemble_correct([np.array([[0.6, 0.8]])] * 3, labels, head)
    assert one == 0


def opposed():
    """Return a task that needs α_0 > 0.35 and one that needs 0.8·α_1 ≥ α_0."""
    labels = np.array([0])
    first = TangentLogits(np.array([[0.0, 0.35]]), np.array([[[1.0, 0.0]], [[0.0, 0.0]]]), labels)
    second = TangentLogits(np.array([[0.0, 0.0]]), np.array([[[0.0, 1.0]], [[0.8, 0.0]]]), labels)
    return {"a": first, "b": second}


def test_the_search_finds_coefficients_that_no_tied_one_reaches():
    grid = np.linspace(0, 1, 11)
    logits, reference = opposed(), {"a": 1.0, "b": 1.0}
    values = {
        pair: np.mean([of.correct(np.array(pair)) for of in logits.values()])
        for pair in product(grid, grid)
    }
    assert max(values[alpha, alpha] for alpha in grid) == 0.5
    found, value = coordinate_search(logits, reference, np.array([0.4, 0.4]), grid, 5)
    assert value == values[tuple(found)] == max(values.values()) == 1


def test_the_search_never_falls_below_its_start_and_keeps_ties(stored):
    f0, columns, labels, head = stored
    logits = dict.fromkeys(TASKS, tangent_logits(f0, columns, labels, head))
    reference = dict.fromkeys(TASKS, 0.5)
    start = np.array([0.3, 0.3, 0.3])
    before = logits["a"].correct(start) / 200 / 0.5
    found, value = coordinate_search(logits, reference, start, [0.0, 0.3, 0.6, 1.0], 10)
    assert value >= before
    assert value == pytest.approx(logits["a"].correct(found) / 200 / 0.5)
    again, same = coordinate_search(logits, reference, found, [0.0, 0.3, 0.6, 1.0], 10)
    assert same == value
    assert (again == found).all()
