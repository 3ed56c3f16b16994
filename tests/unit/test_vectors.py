"""Task vectors: the algebra against plain tensor arithmetic, and errors that name the tensors."""

import pytest
import torch
from torch import nn

from task_arithmetic import TaskVector
from task_arithmetic.artifacts import PipelineError, write_tensors


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)

    def draw():
        return {
            "layer.weight": torch.randn(3, 4, generator=generator, dtype=torch.float64),
            "layer.bias": torch.randn(3, generator=generator, dtype=torch.float64),
        }

    return TaskVector(draw()), TaskVector(draw())


def flat(vector):
    return torch.cat([vector[name].flatten() for name in sorted(vector)])


def test_between_subtracts_parameters_of_modules():
    before, after = nn.Linear(4, 3), nn.Linear(4, 3)
    tau = TaskVector.between(before, after)
    assert set(tau) == {"weight", "bias"}
    torch.testing.assert_close(tau["weight"], (after.weight - before.weight).detach())


def test_algebra_agrees_with_flat_vectors(pair):
    a, b = pair
    cases = {
        "a + b": (a + b, flat(a) + flat(b)),
        "a - b": (a - b, flat(a) - flat(b)),
        "-a": (-a, -flat(a)),
        "0.3 * a": (0.3 * a, 0.3 * flat(a)),
        "a * 0.3": (a * 0.3, 0.3 * flat(a)),
        "a / 3": (a / 3, flat(a) / 3),
        "sum": (TaskVector.sum([a, b, a]), 2 * flat(a) + flat(b)),
        "builtin sum": (sum([a, b]), flat(a) + flat(b)),
        "analogy": (b + (a - b), flat(a)),
    }
    for name, (found, expected) in cases.items():
        torch.testing.assert_close(flat(found), expected, msg=name)


def test_inner_products_agree_with_flat_vectors(pair):
    a, b = pair
    torch.testing.assert_close(a.dot(b), flat(a) @ flat(b))
    torch.testing.assert_close(a.norm(), flat(a).norm())
    torch.testing.assert_close(a.cosine(b), torch.cosine_similarity(flat(a), flat(b), dim=0))


def test_applying_at_one_restores_the_finetuned_model():
    before, after = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    tau = TaskVector.between(before, after)
    state = tau.apply_to(before.state_dict())
    torch.testing.assert_close(state, dict(after.state_dict()))
    assert tau.apply_to(before, alpha=1.0) is before
    torch.testing.assert_close(before.weight, after.weight)


def test_applying_to_named_tensors_leaves_them_and_other_names_alone():
    state = {"weight": torch.ones(2), "other": torch.ones(3)}
    edited = TaskVector({"weight": torch.full((2,), 2.0)}).apply_to(state, alpha=-0.5)
    torch.testing.assert_close(edited["weight"], torch.zeros(2))
    torch.testing.assert_close(edited["other"], torch.ones(3))
    torch.testing.assert_close(state["weight"], torch.ones(2))


def test_saving_and_loading_keeps_every_bit(pair, tmp_path):
    pair[0].save(tmp_path / "tau.safetensors", {"task": "digits"})
    loaded = TaskVector.load(tmp_path / "tau.safetensors")
    assert all(torch.equal(loaded[name], pair[0][name]) for name in pair[0])


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"weight": torch.zeros(2), "extra": torch.zeros(1)}, "extra"),
        ({}, "weight"),
        ({"weight": torch.zeros(3)}, "weight: shapes [2] and [3]"),
        ({"weight": torch.zeros(2).double()}, "weight: types torch.float32 and torch.float64"),
    ],
)
def test_a_mismatch_raises_with_the_names(other, named):
    a, b = TaskVector({"weight": torch.zeros(2)}), TaskVector(other)
    for operation in (lambda: a + b, lambda: a - b, lambda: a.dot(b)):
        with pytest.raises(ValueError) as error:
            operation()
        assert named in str(error.value)


def test_applying_to_a_model_without_a_name_raises_with_it():
    with pytest.raises(ValueError, match="only in task vector: \\['missing'\\]"):
        TaskVector({"missing": torch.zeros(1)}).apply_to(nn.Linear(2, 2))


def test_integer_tensors_are_refused():
    with pytest.raises(TypeError, match="counter"):
        TaskVector({"counter": torch.zeros(1, dtype=torch.int64)})


def test_undefined_results_raise():
    zero = TaskVector({"weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="zero task vector"):
        zero.cosine(zero)
    with pytest.raises(ValueError, match="no task vectors"):
        TaskVector.sum([])


def test_a_file_of_another_kind_is_refused(tmp_path):
    write_tensors(tmp_path / "head.safetensors", {"weight": torch.zeros(2)}, {"kind": "head"})
    with pytest.raises(PipelineError, match="expected kind 'task_vector', found 'head'"):
        TaskVector.load(tmp_path / "head.safetensors")
