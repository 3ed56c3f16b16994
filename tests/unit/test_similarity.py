"""Similarity: cosines against those of the whole vectors, layer by layer."""

import numpy as np
import pytest
import torch

from task_arithmetic.similarity import ALL_LAYERS, cosine_rows, cosines
from task_arithmetic.vectors import TaskVector

NAMES = {"conv1.weight": (3, 2), "resblocks.0.w": (4, 4), "resblocks.1.w": (5,), "proj": (2, 2)}


def drawn(seed):
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in NAMES.items()}


def test_the_cosine_over_all_layers_is_that_of_the_task_vectors():
    vectors = {task: drawn(seed) for seed, task in enumerate("abc")}
    taus = {
        task: TaskVector({name: torch.from_numpy(value) for name, value in tensors.items()})
        for task, tensors in vectors.items()
    }
    matrix = cosines(vectors)[ALL_LAYERS]
    for row, first in enumerate("abc"):
        for column, second in enumerate("abc"):
            assert matrix[row, column] == pytest.approx(float(taus[first].cosine(taus[second])))


def test_each_layer_has_the_cosine_of_its_own_parameters():
    vectors = {"a": drawn(0), "b": drawn(1)}
    matrices = cosines(vectors)
    assert list(matrices) == [ALL_LAYERS, "stem", "block 1", "block 2", "output"]
    a, b = (vector["resblocks.1.w"].astype(float) for vector in vectors.values())
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert matrices["block 2"][0, 1] == pytest.approx(expected)


def test_a_layer_that_never_moved_has_no_angle():
    still = drawn(1) | {"proj": np.zeros((2, 2), dtype=np.float32)}
    matrices = cosines({"a": drawn(0), "b": still})
    assert np.isnan(matrices["output"][0, 1])
    assert matrices["output"][0, 0] == pytest.approx(1)
    assert not np.isnan(matrices[ALL_LAYERS]).any()


def test_rows_name_layer_and_pair():
    rows = cosine_rows({"stem": np.array([[1.0, 0.2], [0.2, 1.0]])}, ["a", "b"])
    assert rows.to_numpy().tolist()[1] == ["stem", "a", "b", 0.2]
    assert len(rows) == 4
