"""arq: handlers on the worker's event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from benchmarks.speed import program, work
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

if TYPE_CHECKING:
    from redis import Redis


def _ended(client: Redis, queue: str, added: int) -> int:
    return added - int(client.zcard(queue))  # a job leaves its set when it has ended


SYSTEM = System(
    name="arq",
    program=__name__,
    package="arq",
    settings="two processes, max_jobs 10 each and poll_delay 0.5 s (defaults)",
    isolated="no",
    ended=_ended,
    process_per_handler=True,
    jobs=1_000,
)


def _settings(spec: Spec) -> Any:
    from arq.connections import RedisSettings

    return RedisSettings(unix_socket_path=spec.url.removeprefix("unix://"))


async def run(_context: dict[Any, Any], data: dict[str, Any]) -> bool:
    """The handler."""
    return work.run(data)


def _work(spec: Spec) -> None:
    from arq.worker import Worker

    asyncio.set_event_loop(asyncio.new_event_loop())
    options = {"max_jobs": 1} if spec.handlers == 1 else {}
    Worker([run], queue_name=spec.queue, redis_settings=_settings(spec), **options).run()


def _add(spec: Spec, jobs: Jobs) -> float:
    return asyncio.run(_produce(spec, jobs))


async def _produce(spec: Spec, jobs: Jobs) -> float:
    from arq import create_pool

    pool = await create_pool(_settings(spec), default_queue_name=spec.queue)
    return await program.add_all_async(jobs, lambda data: pool.enqueue_job("run", data))


if __name__ == "__main__":
    program.main(_work, _add)
