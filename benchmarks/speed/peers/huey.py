"""huey: its consumer, two worker processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.speed import program, work
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

if TYPE_CHECKING:
    from redis import Redis


def _ended(client: Redis, queue: str, added: int) -> int:  # noqa: ARG001  # a system's signature
    return int(client.hlen(f"huey.results.{queue.replace('-', '')}"))  # its clean name


SYSTEM = System(
    name="huey",
    program=__name__,
    package="huey",
    settings="two process workers; no lock, no lease",
    isolated="worker is the handler",
    ended=_ended,
)


def _huey(spec: Spec) -> tuple[Any, Any]:
    from huey import RedisHuey

    huey = RedisHuey(spec.queue, url=spec.url)
    return huey, huey.task(name="run")(work.run)


def _work(spec: Spec) -> None:
    huey, _ = _huey(spec)
    huey.create_consumer(workers=spec.handlers, worker_type="process", periodic=False).run()


def _add(spec: Spec, jobs: Jobs) -> float:
    _, task = _huey(spec)
    return program.add_all(jobs, task)


if __name__ == "__main__":
    program.main(_work, _add)
