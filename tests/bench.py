"""One supervisor that lives through a whole file of tests, and what each of them did to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from harness import Served, serving

from sandq.clock import boottime
from sandq.config import QueueSettings
from sandq.job import Job
from sandq.queue import Queue
from sandq.supervisor.facts import Settled

LOOK_EVERY_S = 0.005


class LoopLag:
    """A listener that measures how late the supervisor's event loop wakes."""

    def __init__(self) -> None:
        self.worst_ms = 0.0
        self._task: asyncio.Task[None] | None = None

    def __call__(self, _fact: object) -> None:
        self._task = self._task or asyncio.get_running_loop().create_task(self._measure())

    async def _measure(self) -> None:
        while True:
            asleep_at = boottime()
            await asyncio.sleep(LOOK_EVERY_S)
            self.worst_ms = max(self.worst_ms, (boottime() - asleep_at - LOOK_EVERY_S) * 1000)


@dataclass(frozen=True)
class Bench:
    """The supervisor, the queues that it serves, by name, and how late its event loop was."""

    served: Served
    queues: Mapping[str, Queue]
    lag: LoopLag

    @property
    def once(self) -> Queue:
        """The queue in which no crash is forgiven."""
        return self.queues["once"]

    @property
    def twice(self) -> Queue:
        """The queue in which two crashes are forgiven."""
        return self.queues["twice"]

    def end(self, name: str, data: Any = None, queue: str = "once", nth: int = 1, **asked: Any) -> tuple[Job, Settled]:
        """Run a job until its nth attempt was settled; the job as it stands then, and the settlement."""
        job = self.queues[queue].add(name, data, **asked)
        settled = self.served.facts.wait(Settled, queue=queue, job_id=job.id, nth=nth)
        return self.queues[queue].job(job.id), settled

    def child(self, queue: str = "once") -> int:
        """The pid of the child that takes the next job of a queue; proves that one can still be run."""
        made = self.queues[queue].add("who")
        return int(self.queues[queue].result(made, timeout=20)["pid"])

    def ready(self, queue: str) -> int:
        """How many children of a queue wait for a job."""
        return int(self.served.supervisor.stats()["queues"][queue]["ready"])


@contextmanager
def a_bench(url: str, prefix: str, plans: Mapping[str, QueueSettings], **settings: Any) -> Iterator[Bench]:
    """A supervisor for these queues. It must not lose a lock, whatever is done to it."""
    lag = LoopLag()
    with ExitStack() as ends:
        queues = {name: ends.enter_context(Queue(name, redis=url, prefix=prefix)) for name in plans}
        served = ends.enter_context(serving(plans, url, prefix, listener=lag, **settings))
        yield Bench(served, queues, lag)
        assert served.supervisor.stats()["locks_lost"] == 0


def result(job: Job) -> Any:
    """What a job that has completed returned."""
    assert job.returnvalue_json is not None
    return job.returnvalue


def death(job: Job) -> Mapping[str, Any]:
    """The certificate of a job that has one."""
    assert job.death is not None
    return job.death
