"""sandq: one supervisor, a child for each handler, a warm spare."""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed import program, work
from benchmarks.speed.peers.bull_keys import ended
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

PROCESSOR = str(Path(work.__file__).resolve())

SYSTEM = System(
    name="sandq",
    program=__name__,
    package="",
    settings="one supervisor, two children and a warm spare, defaults; completed jobs trimmed to the newest 1000",
    isolated="yes",
    ended=ended,
    takes_lock=True,
)


def _work(spec: Spec) -> None:
    from sandq.config import Lease, QueueSettings, SupervisorSettings
    from sandq.supervisor.loop import Supervisor

    lease = Lease() if spec.lock_s is None else Lease(spec.lock_s)
    served = QueueSettings(processor=PROCESSOR, concurrency=spec.handlers, spares=spec.spares)
    Supervisor({spec.queue: served}, spec.url, settings=SupervisorSettings(lease=lease)).run()


def _add(spec: Spec, jobs: Jobs) -> float:
    from sandq.queue import Queue

    with Queue(spec.queue, redis=spec.url) as queue:
        queue.counts()  # connected: a producer that lives on does that once
        return program.add_all(
            jobs,
            lambda data: queue.add(jobs.kind, data, attempts=jobs.attempts),
            lambda chunk: queue.add_many([(jobs.kind, data) for data in chunk]),
        )


if __name__ == "__main__":
    program.main(_work, _add)
