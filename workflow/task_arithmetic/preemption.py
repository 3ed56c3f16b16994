"""Leaving a long step in good order when a scheduler asks for its machine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from task_arithmetic.artifacts import PipelineError

# SLURM sends SIGTERM to a job that it cancels, preempts or ends at its time limit, some seconds
# before SIGKILL; `sbatch --signal` and other schedulers use SIGUSR1 as an earlier notice.
REQUESTS = (signal.SIGTERM, signal.SIGUSR1)
# What a shell reports of a process that SIGTERM ended.
EXIT_CODE = 128 + signal.SIGTERM


class PreemptedError(PipelineError):
    """A step that saved its state and stopped because it was asked to; a rerun goes on."""


class StopRequest:
    """Whether a signal has asked this process to stop.

    Attributes:
        signal: Name of the first such signal; None while there was none.
    """

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def receive(self, number: int, frame: object) -> None:
        """Remember a signal: the handler."""
        self.signal = self.signal or signal.Signals(number).name


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGUSR1 instead of dying of them, until the block ends.

    Only the main thread of a process may do so; in any other, signals keep their effect.

    Yields:
        What has been asked so far; it is true once the block should save and leave.
    """
    request = StopRequest()
    handled = REQUESTS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, request.receive) for number in handled}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
