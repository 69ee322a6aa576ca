"""dramatiq: its command line, two processes of eight threads."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.speed import program, work
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

if TYPE_CHECKING:
    from redis import Redis

THREADS = 8
TOLD = "SPEED_SPEC"  # its processes import this module anew


def _ended(client: Redis, queue: str, added: int) -> int:
    return added - int(client.hlen(f"dramatiq:{queue}.msgs"))  # until acknowledged


SYSTEM = System(
    name="dramatiq",
    program=__name__,
    package="dramatiq",
    settings=f"two processes of {THREADS} threads (its default of threads)",
    isolated="worker is the handler",
    ended=_ended,
    jobs=10_000,
)


def _actor(spec: Spec) -> Any:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=spec.url)
    dramatiq.set_broker(broker)
    return dramatiq.actor(work.run, actor_name="run", queue_name=spec.queue, broker=broker)


def _work(spec: Spec) -> None:
    from dramatiq.cli import main

    os.environ[TOLD] = spec.to_json()
    sys.argv = ["dramatiq", __spec__.name, "--processes", str(spec.handlers), "--threads", str(THREADS)]
    sys.exit(main())


def _add(spec: Spec, jobs: Jobs) -> float:
    return program.add_all(jobs, _actor(spec).send)


if TOLD in os.environ:
    _actor(Spec(**json.loads(os.environ[TOLD])))

if __name__ == "__main__":
    program.main(_work, _add)
