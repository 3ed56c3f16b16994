"""Being asked to stop: training saves at once, and goes on to the same bits."""

import os
import signal
import threading

import pytest
import torch
from test_finetune import SETTINGS, run

from task_arithmetic import finetune as module
from task_arithmetic.preemption import PreemptedError, stop_requests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_its_handler_restored(number):
    before = signal.getsignal(number)
    with stop_requests() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal == signal.Signals(number).name
    assert signal.getsignal(number) is before


def test_another_thread_leaves_signals_alone():
    found = []

    def work():
        with stop_requests() as stop:
            found.append((bool(stop), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]


def test_training_saves_when_asked_to_stop_and_goes_on_to_the_same_bits(
    problem,
    tmp_path,
    monkeypatch,
):
    # Step 5 of 10, between the states that are saved every 3 steps.
    whole, whole_log = run(problem, SETTINGS, tmp_path / "whole")
    rate = module.scheduled_rate

    def asked_at_the_fifth_step(step, *arguments):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return rate(step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "scheduled_rate", asked_at_the_fifth_step)
        with pytest.raises(
            PreemptedError, match=r"stopped by SIGTERM after step 5 of 10.*run again"
        ):
            run(problem, SETTINGS, tmp_path)
    steps = []
    monkeypatch.setattr(
        module, "scheduled_rate", lambda step, *a: steps.append(step) or rate(step, *a)
    )
    resumed, log = run(problem, SETTINGS, tmp_path)
    assert steps == [5, 6, 7, 8, 9]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert log.equals(whole_log)
