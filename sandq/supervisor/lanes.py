"""All lanes of one supervisor: fit to start, out of work or drained only when every one of them is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from sandq.clock import boottime
from sandq.config import QueueSettings
from sandq.errors import ProcessorError
from sandq.supervisor.assignment import Assignment
from sandq.supervisor.lane import Lane
from sandq.verdict import Stop

DRAINING = Stop("drain", "the supervisor is draining")
AT_ONCE = Stop("drain", "the supervisor was told to stop at once")


class Lanes:
    """Every queue that a supervisor serves, by its name."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._ladder_s: dict[str, float] = {}  # how long the soft steps of stopping its jobs may take

    def __getitem__(self, queue: str) -> Lane:
        return self._lanes[queue]

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    @property
    def running(self) -> list[Assignment]:
        """All jobs that run now."""
        return [run for lane in self for run in lane.running.values()]

    def add(self, queue: str, lane: Lane, settings: QueueSettings) -> None:
        """Serve one more queue; its children begin to load."""
        self._lanes[queue] = lane
        self._ladder_s[queue] = settings.ladder_s
        lane.pool.refill()

    async def load(self) -> None:
        """One child of each queue shows whether its processor loads: a start that cannot work is refused at once."""
        for queue, lane in self._lanes.items():
            if (why := await lane.pool.loaded) is not None:
                raise ProcessorError(f"queue {queue}: {why}")

    def wake(self, queue: str) -> None:
        """A child of this queue is ready, or cannot be had."""
        self._lanes[queue].wake()

    def refill(self) -> None:
        """The launcher took all children with it: start others."""
        for lane in self:
            lane.pool.refill()

    async def quiet(self) -> str | None:
        """For a burst: wait until each had nothing left when it looked last. Why one will never get on, if so."""
        for lane in self:
            await lane.quiet.wait()
        return next((lane.trouble for lane in self if lane.trouble is not None), None)

    async def have_work(self) -> bool:
        """Whether any has; all are asked, since one that has is not quiet any more."""
        return any([await lane.has_work() for lane in self])

    async def drain(self, limit_s: float, settle_s: float) -> None:
        """Claim no more; let jobs end, then climb the ladder with them, all within `limit_s`.

        What runs even then is killed, and has `settle_s` to be written.
        """
        deadline = boottime() + limit_s
        for lane in self:
            lane.stop_claiming()
        await asyncio.gather(*(self._wind_down(queue, lane, deadline) for queue, lane in self._lanes.items()))
        for run in self.running:
            run.kill(DRAINING)
        await asyncio.gather(*(lane.ended(settle_s) for lane in self))

    def run_on_s(self, limit_s: float) -> dict[str, float]:
        """Of each queue with running jobs: how long `drain` lets them run on, what the ladder leaves of `limit_s`."""
        return {queue: max(0.0, limit_s - self._ladder_s[queue]) for queue, lane in self._lanes.items() if lane.running}

    async def _wind_down(self, queue: str, lane: Lane, deadline: float) -> None:
        """Each queue begins its own ladder in time to reach its end by the deadline; none waits for another's jobs."""
        await lane.ended(deadline - self._ladder_s[queue] - boottime())
        for run in list(lane.running.values()):
            run.stop(DRAINING)
        await lane.ended(deadline - boottime())

    def kill(self) -> None:
        """End at once what runs."""
        for run in self.running:
            run.kill(AT_ONCE)

    async def close(self) -> None:
        """Nothing is left to wait for."""
        for lane in self:
            await lane.close()

    async def close_pools(self) -> None:
        """Let all children go."""
        await asyncio.gather(*(lane.pool.close() for lane in self))
