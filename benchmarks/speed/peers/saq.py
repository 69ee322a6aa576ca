"""saq: handlers on the worker's event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from benchmarks.speed import program, work
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

if TYPE_CHECKING:
    from redis import Redis


def _ended(client: Redis, queue: str, added: int) -> int:
    return added - int(client.zcard(f"saq:{queue}:incomplete"))


SYSTEM = System(
    name="saq",
    program=__name__,
    package="saq",
    settings="two processes, concurrency 10 each (default)",
    isolated="no",
    ended=_ended,
    process_per_handler=True,
    jobs=4_000,
)


async def run(_context: dict[str, Any], *, data: dict[str, Any]) -> bool:
    """The handler."""
    return work.run(data)


def _queue(spec: Spec) -> Any:
    from redis.asyncio import Redis as AsyncRedis
    from saq.queue.redis import RedisQueue

    return RedisQueue(AsyncRedis.from_url(spec.url), name=spec.queue)  # its own from_url knows no unix sockets


def _work(spec: Spec) -> None:
    asyncio.run(_serve(spec))


async def _serve(spec: Spec) -> None:
    from saq import Worker

    queue = _queue(spec)
    options = {"concurrency": 1} if spec.handlers == 1 else {}
    await Worker(queue, functions=[("run", run)], **options).start()


def _add(spec: Spec, jobs: Jobs) -> float:
    return asyncio.run(_produce(spec, jobs))


async def _produce(spec: Spec, jobs: Jobs) -> float:
    queue = _queue(spec)
    await queue.connect()
    try:
        return await program.add_all_async(jobs, lambda data: queue.enqueue("run", data=data, retries=jobs.attempts))
    finally:
        await queue.disconnect()


if __name__ == "__main__":
    program.main(_work, _add)
