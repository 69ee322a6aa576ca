"""How long somebody is willing to wait."""

from __future__ import annotations

import math
import time

from sandq.errors import ConfigError, QueueError
from sandq.store.executors import TRY_SHARE
from sandq.units import Duration, seconds


class Patience:
    """How long somebody wants to wait, and how long one blocking read of that may take."""

    def __init__(self, timeout: Duration | None, redis_timeout: float) -> None:
        """`timeout` None: for ever."""
        self.timeout_s = math.inf if timeout is None else _seconds(timeout)
        # Half of what one try may take: the answer to a read that ran out must still be in time.
        self._slice_s = redis_timeout / TRY_SHARE / 2
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self._deadline = time.monotonic() + self.timeout_s

    @property
    def left_s(self) -> float:
        """What is left of the time, never less than nothing."""
        return max(0.0, self._deadline - time.monotonic())

    def passed(self) -> bool:
        """Whether the time is over."""
        return self.left_s == 0

    def block_ms(self) -> int:
        """For how long the next read may block."""
        return max(1, round(min(self.left_s, self._slice_s) * 1000))


def _seconds(value: Duration) -> float:
    try:
        amount = seconds(value)
    except (ConfigError, OverflowError) as error:
        raise QueueError(str(error)) from None
    if math.isnan(amount):
        raise QueueError(f"{value!r} is no time to wait; give seconds, or text like 5s")
    return amount
