"""Variants: ascent and snapshots against plain loops, and random vectors."""

import copy
from dataclasses import replace

import pytest
import torch
from plain_training import train_plainly
from test_finetune import SETTINGS

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.variants import (
    Variant,
    load_variant,
    random_like,
    save_variants,
    train_variant,
)
from task_arithmetic.vectors import TaskVector


def train(problem, path, variant, settings=SETTINGS):
    return train_variant(variant, *problem, settings, path / "resume.safetensors", "x")


def plain_loop(problem, settings, steps, sign):
    """Return θ − θ0 after the first steps of a plain AdamW loop on `sign` times the loss."""
    encoder = problem[0]
    tower = copy.deepcopy(encoder.tower)
    train_plainly(tower, tower, problem, settings, steps, sign)
    return TaskVector.between(encoder.tower, tower)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_ascent_is_the_plain_loop_with_the_loss_negated(problem, tmp_path):
    found = train(problem, tmp_path, Variant("ascent", ascend=True))
    assert_same(found["ascent"], plain_loop(problem, SETTINGS, SETTINGS.steps, -1))


def test_snapshots_are_on_the_way_to_the_final_vector(problem, tmp_path):
    found = train(problem, tmp_path, Variant("seed-1", {"seed": 1}, snapshots=(3, 7)))
    assert set(found) == {"seed-1", "seed-1@3", "seed-1@7"}
    settings = replace(SETTINGS, seed=1)
    for name, steps in (("seed-1@3", 3), ("seed-1@7", 7), ("seed-1", SETTINGS.steps)):
        assert_same(found[name], plain_loop(problem, settings, steps, 1))


def test_the_encoder_is_left_at_its_pretrained_weights(problem, tmp_path):
    before = copy.deepcopy(problem[0].tower.state_dict())
    train(problem, tmp_path, Variant("ascent", ascend=True))
    train(problem, tmp_path, Variant("rate", {"learning_rate": 0.1}))
    after = problem[0].tower.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_random_vector_has_the_norm_of_each_tensor_and_no_common_direction():
    torch.manual_seed(1234)
    vector = TaskVector({"a": torch.randn(50, 40), "b": 3 * torch.randn(1000), "c": torch.zeros(4)})
    other = random_like(vector, seed=0)
    for name in vector:
        torch.testing.assert_close(other[name].norm(), vector[name].norm())
    assert abs(vector.cosine(other)) < 0.1
    assert torch.equal(other["a"], random_like(vector, seed=0)["a"])
    assert not torch.equal(other["a"], random_like(vector, seed=1)["a"])


def test_variants_of_one_file_are_read_by_name(tmp_path):
    vectors = {
        "seed-1": TaskVector({"w": torch.ones(2)}),
        "seed-1@3": TaskVector({"w": torch.zeros(2)}),
    }
    path = tmp_path / "variants.safetensors"
    save_variants(path, vectors, {"task": "a"})
    assert load_variant(path, "seed-1")["w"].tolist() == [1, 1]
    assert load_variant(path, "seed-1@3")["w"].tolist() == [0, 0]
    with pytest.raises(PipelineError, match="ascent"):
        load_variant(path, "ascent")
