"""streaq: handlers on the worker's event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.speed import program, work
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

if TYPE_CHECKING:
    from redis import Redis


def _ended(client: Redis, queue: str, added: int) -> int:  # noqa: ARG001  # a system's signature
    return int(client.zcard(f"streaq:{queue}:index:results"))


SYSTEM = System(
    name="streaq",
    program=__name__,
    package="streaq",
    settings="two processes, concurrency 16 each (default)",
    isolated="no",
    ended=_ended,
    process_per_handler=True,
    jobs=2_000,
    takes_lock=True,
)


def _worker(spec: Spec) -> tuple[Any, Any]:
    from streaq import Worker

    options: dict[str, Any] = {"concurrency": 1} if spec.handlers == 1 else {}
    if spec.lock_s is not None:
        options["idle_timeout"] = spec.lock_s
    worker = Worker(redis_url=spec.url, queue_name=spec.queue, **options)

    @worker.task(name="run")
    async def run(data: dict[str, Any]) -> bool:
        return work.run(data)

    return worker, run


def _work(spec: Spec) -> None:
    _worker(spec)[0].run_sync()


def _add(spec: Spec, jobs: Jobs) -> float:
    import anyio

    return float(anyio.run(_produce, spec, jobs))


async def _produce(spec: Spec, jobs: Jobs) -> float:
    worker, run = _worker(spec)

    async def one(data: program.Data) -> None:
        await run.enqueue(data)

    async def many(chunk: list[program.Data]) -> None:
        await worker.enqueue_many([run.enqueue(data) for data in chunk])

    async with worker:
        return await program.add_all_async(jobs, one, many)


if __name__ == "__main__":
    program.main(_work, _add)
