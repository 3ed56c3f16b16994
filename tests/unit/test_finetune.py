"""Fine-tuning: the protocol against a plain loop, and resuming to identical bits."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from plain_training import train_plainly

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.finetune import FinetuneSettings, batches, finetune, scheduled_rate

SETTINGS = FinetuneSettings(
    mode="nonlinear",
    seed=0,
    learning_rate=1e-2,
    weight_decay=0.1,
    warmup_steps=2,
    batch_size=8,
    accumulation=1,
    clip_norm=1.0,
    label_smoothing=0.1,
    precision="fp32",
    checkpoint_every=3,
    steps=10,
)


def run(problem, settings, path, fingerprint="x"):
    # The tower is trained in place, and every run has to start from the same θ0.
    encoder, *rest = problem
    fresh = replace(encoder, tower=copy.deepcopy(encoder.tower))
    return finetune(fresh, *rest, settings, path / "resume.safetensors", fingerprint)


def reference(problem, settings):
    """Return what a plain AdamW loop over the same batches ends with."""
    tower = copy.deepcopy(problem[0].tower)
    theta0 = copy.deepcopy(tower)

    def output(x):
        if settings.mode == "nonlinear":
            return tower(x)
        before = {name: value.detach() for name, value in theta0.named_parameters()}
        tau = {name: value - before[name] for name, value in tower.named_parameters()}
        f0, jvp = torch.func.jvp(
            lambda theta: torch.func.functional_call(theta0, theta, x), (before,), (tau,)
        )
        return f0 + jvp

    train_plainly(tower, output, problem, settings)
    return dict(tower.named_parameters())


@pytest.mark.parametrize("mode", ["nonlinear", "linear"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_follows_a_plain_adamw_loop(problem, tmp_path, mode, accumulation):
    settings = replace(SETTINGS, mode=mode, accumulation=accumulation)
    found, log = run(problem, settings, tmp_path)
    for name, expected in reference(problem, settings).items():
        torch.testing.assert_close(found[name], expected.detach(), rtol=1e-4, atol=1e-5)
    assert log.step.tolist() == list(range(1, 11))
    assert log.epoch.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3]


@pytest.mark.parametrize("mode", ["nonlinear", "linear"])
def test_an_interrupted_training_resumes_to_identical_bits(problem, tmp_path, mode, monkeypatch):
    settings = replace(SETTINGS, mode=mode)
    whole, whole_log = run(problem, settings, tmp_path)
    (tmp_path / "resume.safetensors").unlink()

    class Killed(BaseException):
        pass

    def killed(step, *arguments):
        if step == 7:
            raise Killed
        return scheduled_rate(step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("task_arithmetic.finetune.scheduled_rate", killed)
        with pytest.raises(Killed):
            run(problem, settings, tmp_path)
    resumed, log = run(problem, settings, tmp_path)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert log.equals(whole_log)


def test_a_state_of_another_run_or_a_damaged_one_is_not_resumed(problem, tmp_path):
    expected, _ = run(problem, replace(SETTINGS, seed=1), tmp_path)
    run(problem, SETTINGS, tmp_path, fingerprint="another")
    found, _ = run(problem, replace(SETTINGS, seed=1), tmp_path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    (tmp_path / "resume.safetensors").write_bytes(b"damaged")
    found, _ = run(problem, replace(SETTINGS, seed=1), tmp_path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_loss_that_is_not_finite_names_the_step(problem, tmp_path):
    encoder, head, images, labels = problem
    head = head.clone()
    head[0, 0] = math.nan
    with pytest.raises(PipelineError, match="expected a finite loss, found nan at step 1 of 10"):
        run((encoder, head, images, labels), SETTINGS, tmp_path)


def test_the_schedule_warms_up_linearly_and_ends_at_zero():
    rates = [scheduled_rate(step, 10, SETTINGS) for step in range(11)]
    assert rates[:2] == [0.005, 0.01]
    assert rates[6] == pytest.approx(0.005)
    assert rates[10] == pytest.approx(0)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_an_epoch_sees_every_example_once_and_orders_differ():
    epochs = {
        (seed, epoch): torch.cat([
            b.indices for b in batches(20, 0, 6, replace(SETTINGS, seed=seed)) if b.epoch == epoch
        ])
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert all(sorted(order.tolist()) == list(range(20)) for order in epochs.values())
    assert len({tuple(order.tolist()) for order in epochs.values()}) == 4


def test_steps_or_epochs_decide_the_length():
    assert SETTINGS.total_steps(20) == 10
    assert replace(SETTINGS, steps=None, epochs=2).total_steps(20) == 6
    for wrong in (replace(SETTINGS, epochs=2), replace(SETTINGS, steps=None)):
        with pytest.raises(ValueError, match="exactly one of steps and epochs"):
            wrong.total_steps(20)
