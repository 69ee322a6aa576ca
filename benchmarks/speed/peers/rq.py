"""rq: a process forked for every job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.speed import program
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

if TYPE_CHECKING:
    from redis import Redis

HANDLER = "benchmarks.speed.work.run"


def _ended(client: Redis, queue: str, added: int) -> int:  # noqa: ARG001  # a system's signature
    with client.pipeline(transaction=True) as pipe:
        pipe.zcard(f"rq:finished:{queue}")
        pipe.zcard(f"rq:failed:{queue}")
        return int(sum(pipe.execute()))


SYSTEM = System(
    name="rq",
    program=__name__,
    package="rq",
    settings="two Worker processes, each forks a process per job",
    isolated="yes",
    ended=_ended,
    process_per_handler=True,
    jobs=200,
)


def _work(spec: Spec) -> None:
    from redis import Redis
    from rq import Worker

    Worker([spec.queue], connection=Redis.from_url(spec.url)).work(logging_level="WARNING")


def _add(spec: Spec, jobs: Jobs) -> float:
    from redis import Redis
    from rq import Queue, Retry

    queue = Queue(spec.queue, connection=Redis.from_url(spec.url))
    retry = Retry(max=jobs.attempts - 1) if jobs.attempts > 1 else None
    return program.add_all(
        jobs,
        lambda data: queue.enqueue(HANDLER, data, retry=retry),
        lambda chunk: queue.enqueue_many([Queue.prepare_data(HANDLER, (data,), retry=retry) for data in chunk]),
    )


if __name__ == "__main__":
    program.main(_work, _add)
