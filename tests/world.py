"""One server, a way to it that can be disturbed, supervisors on either, and how jobs must have fared in the end."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Served, eventually, handlers, lives, serving
from network import ChaosProxy

from sandq.job import Job
from sandq.queue import Queue
from sandq.store.keys import QueueKeys
from sandq.store.script import load_all
from sandq.supervisor.facts import Settled, Started

if TYPE_CHECKING:
    from conftest import RedisServer

# Patience of the supervisors here: a call to a Redis that is away ends soon enough to be seen.
REDIS_TIMEOUT_S = 2.0


class World:
    """A server, a way to it that can be disturbed, supervisors on either, and a queue that is never disturbed."""

    def __init__(self, server: RedisServer, prefix: str, end: Path, ends: ExitStack) -> None:
        self.server, self.end, self._prefix, self._ends = server, end, prefix, ends
        self.proxy = ChaosProxy(server.socket)
        ends.callback(self.proxy.close)
        self.client = ends.enter_context(server.client())
        self.queue = ends.enter_context(Queue("render", redis=server.url, prefix=prefix))
        self.keys = QueueKeys("render", prefix)
        for script in load_all():  # else what is lost or held back is an answer that says NOSCRIPT
            self.client.script_load(script.source)

    def serve(self, url: str = "", *, lock_s: float = 2.0, concurrency: int = 1, **settings: Any) -> Served:
        """A supervisor on the proxy, or on another way."""
        queues = {"render": handlers(concurrency=concurrency)}
        settings = {"redis_timeout_s": REDIS_TIMEOUT_S, **settings}
        return self._ends.enter_context(serving(queues, url or self.proxy.url, self._prefix, lock_s=lock_s, **settings))

    def waiting_job(self, served: Served) -> tuple[Job, int]:
        """A job that runs until `end` is there, and the pid of its child."""
        job = self.queue.add("waits", {"until": str(self.end)})
        return job, served.facts.wait(Started, job_id=job.id).pid

    def stamping_job(self, served: Served, stamps: Path) -> tuple[Job, int]:
        """The same for a job that says every millisecond that it lives."""
        job = self.queue.add("stamps", {"path": str(stamps), "until": str(self.end)})
        child = served.facts.wait(Started, job_id=job.id).pid
        eventually(lambda: child in lives(stamps), "the child stamps")
        return job, child

    def locked(self, job: Job) -> bool:
        return bool(self.client.exists(self.keys.lock(job.id)))

    def events(self, job: Job) -> Counter[str]:
        """How often each event was said of the job."""
        seen = self.queue.events(since="0", block=0.01)
        return Counter(event.name for event in seen if event.job_id == job.id)

    def heal(self) -> None:
        """End every disturbance, so that what still runs can end."""
        self.end.touch()
        self.proxy.calm()
        self.proxy.heal()
        with contextlib.suppress(ProcessLookupError):
            self.server.resume()


@contextmanager
def a_world(server: RedisServer, prefix: str, end: Path) -> Iterator[World]:
    with ExitStack() as ends:
        world = World(server, prefix, end, ends)
        try:
            yield world
        finally:
            world.heal()


def story(served: Served) -> str:
    """All that the supervisor said, for a test that failed."""
    return "\n".join(f"{at:.3f} {fact}" for at, fact in served.facts._said)


def ran_once(world: World, served: Served, job: Job) -> None:
    """The job ends, having been started once, without losing its lock."""
    world.end.touch()
    assert world.queue.result(job, timeout=15) is not None
    assert len(served.facts.all(Started, job_id=job.id)) == 1, story(served)
    assert served.supervisor.stats()["locks_lost"] == 0
    assert world.events(job)["completed"] == 1


def ran_again(world: World, served: Served, job: Job) -> None:
    """The job runs a second time and ends as completed once, with one attempt spent and no crash on its account."""
    served.facts.wait(Started, job_id=job.id, nth=2)
    world.end.touch()
    assert world.queue.result(job, timeout=15) is not None
    ended = world.queue.job(job.id)
    assert (ended.attempts_made, ended.crashes, ended.interruptions) == (1, 0, 0)
    assert len(served.facts.all(Started, job_id=job.id)) == 2
    assert world.events(job)["completed"] == 1


def all_once(world: World, served: Served, jobs: list[Job]) -> None:
    assert [world.queue.result(job, timeout=20) for job in jobs] == ["slept"] * len(jobs)
    for job in jobs:
        served.facts.wait(Settled, job_id=job.id)
    starts = Counter(started.job_id for started in served.facts.all(Started))
    assert starts == Counter(job.id for job in jobs), story(served)
    assert Counter(settled.job_id for settled in served.facts.all(Settled)) == starts
    assert served.supervisor.stats()["locks_lost"] == 0
