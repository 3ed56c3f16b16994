"""Merging methods: each against a case computed by hand or by a naive float64 reference."""

from itertools import chain

import numpy as np
import pytest
import torch

from task_arithmetic.layers import layers_of
from task_arithmetic.merging import MERGE, merge
from task_arithmetic.vectors import TaskVector

SETTINGS = {
    "ties": {"keep": 0.5},
    "dare": {"drop": 0.5},
    "breadcrumbs": {"low": 0.25, "high": 0.75},
    "consensus": {"threshold": 0.5, "agreeing": 2},
    "lines": {"slope": 2.0},
}


def one(*values):
    return TaskVector({"w": torch.tensor(values, dtype=torch.float64)})


def merged(name, *vectors, **settings):
    return merge(name, vectors, settings or SETTINGS.get(name, {}), seed=0)["w"].tolist()


def random_matrices(tasks, rows, columns):
    generator = torch.Generator().manual_seed(1)
    shape = (tasks, rows, columns)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_ties_keeps_the_largest_elects_signs_and_averages_those_that_agree():
    # Trimmed to [4, 0, -3, 0] and [0, 5, 1, 0]; elected + + -; the third averages -3 alone.
    assert merged("ties", one(4.0, 1.0, -3.0, 0.5), one(0.1, 5.0, 1.0, 0.2)) == [4, 5, -3, 0]
    # Both kept and of one sign: their mean, not their sum.
    assert merged("ties", one(4.0, 0.0), one(2.0, 1.0)) == [3, 0]


def test_ties_trims_over_the_whole_vector_and_not_per_tensor():
    vector = TaskVector({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, 2.0])})
    kept = merge("ties", [vector], {"keep": 0.5}, seed=0)
    assert kept["a"].tolist() == [3, 4]
    assert kept["b"].tolist() == [0, 0]


def test_dare_drops_the_given_share_and_keeps_the_expectation():
    ones = one(*[1.0] * 20_000)
    thinned = np.array(merged("dare", ones, drop=0.9))
    assert set(np.round(thinned, 9)) == {0, 10}
    assert (thinned == 0).mean() == pytest.approx(0.9, abs=0.01)
    assert thinned.mean() == pytest.approx(1, abs=0.1)
    assert merged("dare", ones, drop=0.9) == thinned.tolist()
    assert merge("dare", [ones], {"drop": 0.9}, seed=1)["w"].tolist() != thinned.tolist()


def test_dare_draws_a_mask_of_its_own_for_each_task():
    ones = one(*[1.0] * 1000)
    # Sums of two independent masks have three values; of one shared mask, two.
    assert set(merged("dare", ones, ones, drop=0.5)) == {0, 2, 4}


def test_breadcrumbs_masks_both_ends_of_each_tensor():
    first, second = one(1.0, -2.0, 3.0, -4.0), one(8.0, 7.0, 6.0, 5.0)
    # Kept: the 2nd and 3rd smallest of each.
    assert merged("breadcrumbs", first, second) == [0, -2 + 7, 3 + 6, 0]


def test_consensus_keeps_the_sum_where_enough_tasks_need_it():
    # Entry by entry with λ = 0.5: both need it; only the first does; neither sign matters.
    vectors = one(2.0, 4.0, -2.0), one(2.0, 1.0, 1.5)
    assert merged("consensus", *vectors) == [4, 0, -0.5]
    assert merged("consensus", *vectors, threshold=0.5, agreeing=1) == [4, 5, -0.5]


def test_tsv_of_matrices_in_orthogonal_subspaces_is_their_sum():
    first, second = np.zeros((4, 4)), np.zeros((4, 4))
    first[0, 1], first[1, 0], second[2, 3], second[3, 2] = 3.0, 1.0, 2.0, 5.0
    vectors = [TaskVector({"w": torch.from_numpy(matrix)}) for matrix in (first, second)]
    np.testing.assert_allclose(merge("tsv", vectors, {}, 0)["w"], first + second, atol=1e-12)


def test_tsv_agrees_with_a_naive_reference():
    tasks, rows, columns = 3, 7, 9
    matrices = random_matrices(tasks, rows, columns)
    rank, left, sizes, right = 2, [], [], []
    for matrix in matrices.numpy():
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
        left.append(u[:, :rank])
        sizes += s[:rank].tolist()
        right.append(vt[:rank].T)

    def whitened(matrix):
        # The polar factor M (MᵀM)^(−1/2).
        values, basis = np.linalg.eigh(matrix.T @ matrix)
        return matrix @ basis @ np.diag(values**-0.5) @ basis.T

    u, v = whitened(np.hstack(left)), whitened(np.hstack(right))
    expected = u @ np.diag(sizes) @ v.T
    found = merge("tsv", [TaskVector({"w": matrix}) for matrix in matrices], {}, 0)["w"]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def test_iso_c_keeps_singular_vectors_and_flattens_the_spectrum():
    matrices = random_matrices(2, 4, 6)
    found = merge("iso_c", [TaskVector({"w": matrix}) for matrix in matrices], {}, 0)["w"]
    total = matrices.sum(dim=0)
    sizes = torch.linalg.svdvals(total)
    torch.testing.assert_close(torch.linalg.svdvals(found), sizes.mean().expand(4))
    # U Vᵀ is the polar factor: (U Vᵀ)ᵀ Σ_t τ_t is symmetric and positive.
    product = (found.T @ total) / sizes.mean()
    torch.testing.assert_close(product, product.T)
    assert torch.linalg.eigvalsh(product).min() > -1e-10


@pytest.mark.parametrize("name", ["tsv", "iso_c"])
def test_spectral_methods_average_what_is_not_a_matrix(name):
    assert merged(name, one(1.0, 2.0), one(3.0, 6.0)) == [2, 4]


def test_lines_scales_layers_linearly_with_depth():
    names = ["conv1.weight", *(f"transformer.resblocks.{i}.ln_1.bias" for i in (0, 1, 2)), "proj"]
    vector = TaskVector({name: torch.ones(1) for name in reversed(names)})
    scaled = merge("lines", [vector, vector], {"slope": 2.0}, 0)
    assert [scaled[name].item() for name in names] == [2, 2, 4, 6, 6]


def test_every_method_leaves_its_inputs_alone_and_keeps_names_and_types():
    for name in MERGE:
        vectors = [
            TaskVector({"a": torch.randn(4, 4), "resblocks.0.b": torch.randn(3)}) for _ in range(2)
        ]
        before = [{key: tensor.clone() for key, tensor in vector.items()} for vector in vectors]
        result = merge(name, vectors, SETTINGS.get(name, {}), seed=0)
        assert {k: (t.shape, t.dtype) for k, t in result.items()} == {
            k: (t.shape, t.dtype) for k, t in vectors[0].items()
        }
        for vector, kept in zip(vectors, before, strict=True):
            assert all(torch.equal(vector[key], kept[key]) for key in kept)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["class_embedding", "proj", "transformer.resblocks.10.a", "transformer.resblocks.2.a"],
            ["stem", "block 1", "block 2", "output"],
        ),
        (["conv1.weight", "layer2.0.x", "layer1.1.x", "layer1.0.x", "attnpool.c"], None),
        (["trunk.stem.0.w", "trunk.stages.0.blocks.0.g", "trunk.stages.2.blocks.1.g"], None),
    ],
)
def test_layers_stand_in_the_order_of_the_network(names, expected):
    layers = layers_of(names)
    assert sorted(chain(*layers.values())) == sorted(names)
    if expected:
        assert list(layers) == expected
        assert layers["block 1"] == ["transformer.resblocks.2.a"]
    assert next(iter(layers)) == "stem"
    assert all(layer.startswith("block") for layer in list(layers)[1:3])
