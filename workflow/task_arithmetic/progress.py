"""Progress of long work: a bar on a terminal, plain lines in the log."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from task_arithmetic.distributed import is_main_process

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Count finished units of work; a bar on standard error if it is a terminal, and log lines."""

    def __init__(self, description: str, total: int, unit: str, done: int = 0) -> None:
        """Start counting.

        Args:
            description: What is being done.
            total: How many units there are.
            unit: What a unit is, such as `image`.
            done: How many were done before (a resumed training).
        """
        self._description, self._unit, self._total = description, unit, total
        # disable=None: no bar where standard error is not a terminal.
        disable = None if is_main_process() else True
        self._bar = tqdm(
            desc=description,
            total=total,
            unit=unit,
            initial=done,
            disable=disable,
            leave=False,
            unit_scale=unit == "byte",
        )
        self._done, self._started, self._logged = done, time.monotonic(), 0.0
        self._done_before = done

    def advance(self, units: int, **facts: float) -> None:
        """Count more finished units.

        Args:
            units: How many.
            **facts: Numbers to show beside, such as the loss.
        """
        self._done += units
        self._bar.set_postfix(facts, refresh=False)
        self._bar.update(units)
        now = time.monotonic()
        if now - self._logged >= SECONDS_BETWEEN_LINES or self._done >= self._total:
            self._logged = now
            rate = (self._done - self._done_before) / max(now - self._started, 1e-9)
            shown = "".join(f", {name} {value:.4g}" for name, value in facts.items())
            logger.info(
                "%s: %d of %d %ss, %.4g per second%s",
                self._description, self._done, self._total, self._unit, rate, shown,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
