"""Jobs claimed ahead, one per busy child, so that a child which ends a short job begins the next one at once.

Worth it only for short jobs, and safe only for them: a job that is held here is one that no other supervisor can run.
So none is held unless jobs of this queue have been short lately, and one that waits for long goes back as it was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from sandq.clock import boottime
from sandq.config import QueueSettings
from sandq.supervisor.assignment import Assignment

SHORT_S = 0.05  # jobs that run shorter than this on average are claimed ahead; far below lock/10, of at least 1 s
HOLD_S = 0.25  # a long job has appeared: what waits behind it goes back
MANY_JOBS = 100  # of one child
_WEIGHT = 0.2  # of the newest run in the running mean


def may_claim_ahead(settings: QueueSettings) -> bool:
    """Whether it can pay: not under a limiter, and not where a child is soon gone that the job was meant for."""
    return settings.limiter_max is None and (settings.recycle_after or MANY_JOBS) >= MANY_JOBS


class Ahead:
    """What is held until a child is free, oldest first. `put_back` gets what has waited too long."""

    def __init__(self, put_back: Callable[[Assignment], None]) -> None:
        self._put_back = put_back
        self._held: deque[tuple[float, Assignment]] = deque()
        self._mean_s = 1.0  # until short jobs have proven themselves
        self._call_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> Sequence[Assignment]:
        """Claimed, and not begun."""
        return [assignment for _, assignment in self._held]

    def ran(self, wall_s: float) -> None:
        """A job ran for so long."""
        self._mean_s += (wall_s - self._mean_s) * _WEIGHT

    def claimed(self, call_s: float) -> None:
        """A call that claimed took so long."""
        self._call_s += (call_s - self._call_s) * _WEIGHT

    def room(self, busy: int) -> int:
        """How many to claim ahead while so many children are busy: one for each, counted when the answer is there."""
        if self._mean_s >= SHORT_S:
            return 0
        begun_by_then = min(busy, int(busy * self._call_s / self._mean_s))
        return max(0, min(busy, busy - len(self._held) + begun_by_then))

    def hold(self, assignment: Assignment) -> None:
        """Keep it until a child is free, but not for long."""
        self._held.append((boottime(), assignment))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HOLD_S, self._look)

    def next(self) -> Assignment | None:
        """The one that has waited longest."""
        return self._held.popleft()[1] if self._held else None

    def empty(self) -> None:
        """Put all of them back, the newest first: each goes to the front of its queue."""
        while self._held:
            self._put_back(self._held.pop()[1])

    def _look(self) -> None:
        self._timer = None
        if not self._held:
            return
        waited_s = boottime() - self._held[0][0]
        if waited_s >= HOLD_S:
            self._mean_s = max(self._mean_s, 1.0)
            self.empty()
        else:
            self._timer = asyncio.get_running_loop().call_later(HOLD_S - waited_s, self._look)
