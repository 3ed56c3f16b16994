"""Real fine-tuning steps under a scheduler's signals, and shared by two processes."""

import os
import shlex
import signal
import subprocess
import time

import pytest
from test_faults import CHECKPOINT, leftovers, recorded_command

from task_arithmetic.artifacts import read_csv, read_json, read_tensors, sha256
from task_arithmetic.lineage import record_path


def wait_for_step(log, step, running, seconds=60):
    """Wait until a training's log file reports progress."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and running.poll() is None:
        if log.exists() and step in log.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"no {step!r} in {log}")


def test_a_step_that_is_asked_to_stop_saves_and_says_how_to_go_on(project):
    artifact = CHECKPOINT.format(mode="nonlinear")
    # No state is saved but the one of the signal.
    project.configure(
        lambda config: config["finetuning"].update(steps=400, checkpoint_every=100000)
    )
    target = project.result(artifact)
    planned = project.run("-n", "-p", "--quiet", "host", "--", target.relative_to(project.root))
    line = next(x for x in planned.stdout.splitlines() if "exec task-arithmetic finetune" in x)
    command = shlex.split(line[line.index("task-arithmetic") :])
    log = project.result("logs/finetune/tiny/0/nonlinear/digits.log")
    log.unlink()
    running = subprocess.Popen(
        command,
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(project.root / "workflow")},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_step(log, "steps, ", running)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in errors
    assert "Traceback" not in errors
    assert target.with_suffix(".resume.safetensors").exists()


@pytest.mark.parametrize("mode", ["nonlinear", "linear"])
def test_two_processes_train_like_one(project, mode):
    artifact = CHECKPOINT.format(mode=mode)
    # 33 examples in 2 parts over 2 processes: neither parts nor slices are of equal size.
    project.configure(
        lambda config: config["finetuning"].update(batch_size=33, accumulation=2, steps=6)
    )
    target = project.result(artifact)
    assert project.run("--cores", "1", target.relative_to(project.root)).returncode == 0
    alone, _ = read_tensors(target, kind="checkpoint")
    alone_log = read_csv(target.with_suffix(".csv"))
    before = sha256(target)
    command = recorded_command(project, artifact)
    command[command.index("--processes") + 1] = "2"
    done = project.run(*command[1:], command=command[0])
    assert done.returncode == 0, done.stderr
    assert read_json(record_path(target))["facts"]["processes"] == 2
    shared, _ = read_tensors(target, kind="checkpoint")
    # Sums in another order: were the bits the same, the processes would not have shared the work.
    assert sha256(target) != before
    for name, tensor in alone.items():
        assert (shared[name] - tensor).abs().max() <= 2e-4 * max(1.0, tensor.abs().max()), name
    shared_log = read_csv(target.with_suffix(".csv"))
    for column in ("loss", "accuracy", "gradient_norm"):
        assert shared_log[column].tolist() == pytest.approx(alone_log[column].tolist(), rel=2e-3)
    assert leftovers(project) == []
