"""taskiq: its command line, two processes, a Redis stream as broker."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.speed import program, work
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

if TYPE_CHECKING:
    from redis import Redis

TOLD = "SPEED_SPEC"  # its processes import this module anew


def _ended(client: Redis, queue: str, added: int) -> int:
    groups: Any = client.xinfo_groups(queue) if client.exists(queue) else []
    if not groups:
        return 0
    behind = groups[0]["lag"]  # what no worker was given yet; None when the server cannot say
    return added - int(groups[0]["pending"]) - (added if behind is None else int(behind))


SYSTEM = System(
    name="taskiq",
    program=__name__,
    package="taskiq",
    settings="two processes, stream broker, acknowledged when executed, handlers in the event loop",
    isolated="worker is the handler",
    ended=_ended,
    jobs=5_000,
)


def _broker(spec: Spec) -> tuple[Any, Any]:
    from taskiq_redis import RedisStreamBroker

    broker = RedisStreamBroker(spec.url, queue_name=spec.queue, consumer_id="0")

    async def run(data: dict[str, Any]) -> bool:
        return work.run(data)

    return broker, broker.register_task(run, task_name="run")


def _work(spec: Spec) -> None:
    from taskiq.__main__ import main

    os.environ[TOLD] = spec.to_json()
    workers = ["--workers", str(spec.handlers), "--ack-type", "when_executed", "--log-level", "WARNING"]
    sys.argv = ["taskiq", "worker", f"{__spec__.name}:BROKER", *workers]
    main()


def _add(spec: Spec, jobs: Jobs) -> float:
    return asyncio.run(_produce(spec, jobs))


async def _produce(spec: Spec, jobs: Jobs) -> float:
    broker, task = _broker(spec)
    await broker.startup()
    try:
        return await program.add_all_async(jobs, task.kiq)
    finally:
        await broker.shutdown()


BROKER = _broker(Spec(**json.loads(os.environ[TOLD])))[0] if TOLD in os.environ else None

if __name__ == "__main__":
    program.main(_work, _add)
