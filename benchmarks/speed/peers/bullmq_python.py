"""bullmq for Python: handlers on the worker's event loop."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from benchmarks.speed import program, work
from benchmarks.speed.peers.bull_keys import ended
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

CONCURRENCY = 50

SYSTEM = System(
    name="bullmq-python",
    program=__name__,
    package="bullmq",
    settings=f"two processes, a Worker of concurrency {CONCURRENCY} in each, handlers on its event loop",
    isolated="no",
    ended=ended,
    process_per_handler=True,
    jobs=4_000,
    takes_lock=True,
)


def _work(spec: Spec) -> None:
    asyncio.run(_serve(spec))


async def _serve(spec: Spec) -> None:
    from bullmq import Worker

    async def handle(job: Any, token: str) -> bool:  # noqa: ARG001  # bullmq passes both
        return work.run(job.data)

    options: dict[str, Any] = {"connection": spec.url, "concurrency": 1 if spec.handlers == 1 else CONCURRENCY}
    if spec.lock_s is not None:
        options |= {"lockDuration": int(spec.lock_s * 1000), "stalledInterval": int(spec.lock_s * 1000)}
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    worker = Worker(spec.queue, handle, options)
    await stopped.wait()
    await worker.close(force=True)


def _add(spec: Spec, jobs: Jobs) -> float:
    return asyncio.run(_produce(spec, jobs))


async def _produce(spec: Spec, jobs: Jobs) -> float:
    from bullmq import Queue

    queue = Queue(spec.queue, {"connection": spec.url})
    options = {"attempts": jobs.attempts}

    async def many(chunk: list[program.Data]) -> None:
        await queue.addBulk([{"name": jobs.kind, "data": data, "opts": options} for data in chunk])

    try:
        return await program.add_all_async(jobs, lambda data: queue.add(jobs.kind, data, options), many)
    finally:
        await queue.close()


if __name__ == "__main__":
    program.main(_work, _add)
