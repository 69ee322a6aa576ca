"""When a processor that could not be loaded is tried again: later each time, for loading is work that jobs feel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

FIRST_BACKOFF_S = 1.0
LAST_BACKOFF_S = 300.0


class Breaker:
    """Keeps a processor that cannot load from burning the CPU: 1 s, doubling, up to 5 min. Then `again` is called."""

    def __init__(self, again: Callable[[], None]) -> None:
        self.why: str | None = None  # it failed last time, and nothing has loaded since
        self.processor_broken = False  # that was the processor's own failure, not the host's
        self._again = again
        self._failures = 0
        self._retry: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()  # the live view asks from a thread of its own

    @property
    def open(self) -> bool:
        """Nothing is to be tried before `again` is called."""
        return self._retry is not None

    @property
    def retry_in_s(self) -> float | None:
        """A broken processor is tried again in so many seconds; None while nothing is broken."""
        if self.why is None:
            return None
        retry = self._retry
        return 0.0 if retry is None else round(max(0.0, retry.when() - self._loop.time()), 1)

    def fail(self, why: str, *, host: bool) -> float:
        """Note a failure, the processor's or the host's; how long to wait before the next try."""
        self.why = why
        self.processor_broken = not host
        self._failures += 1
        return min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 16))

    def wait(self, delay_s: float) -> None:
        """Have nothing tried for so long."""
        self._retry = self._loop.call_later(delay_s, self._try_again)

    def reset(self) -> None:
        """It loaded. A wait that has begun goes on: others may have failed meanwhile."""
        self.why, self.processor_broken, self._failures = None, False, 0

    def close(self) -> None:
        """Nothing will be tried any more."""
        if self._retry is not None:
            self._retry.cancel()

    def _try_again(self) -> None:
        self._retry = None
        self._again()
