"""Celery: the prefork pool, acknowledging after the handler ended ("late"), so that a dead worker loses no job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.speed import program, work
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

if TYPE_CHECKING:
    from redis import Redis


def _ended(client: Redis, queue: str, added: int) -> int:
    with client.pipeline(transaction=True) as pipe:
        pipe.llen(queue)
        pipe.hlen("unacked")
        return added - int(sum(pipe.execute()))


SYSTEM = System(
    name="celery",
    program=__name__,
    package="celery",
    settings="prefork, concurrency 2, acks_late, reject_on_worker_lost, prefetch multiplier 4 (default), no results",
    isolated="yes",
    ended=_ended,
    jobs=2_000,
    takes_lock=True,
)


def _app(spec: Spec) -> tuple[Any, Any]:
    from celery import Celery

    app = Celery("speed", broker=spec.url.replace("unix://", "redis+socket://"))
    app.conf.update(
        task_default_queue=spec.queue,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
    )
    if spec.lock_s is not None:
        app.conf.broker_transport_options = {"visibility_timeout": spec.lock_s}
    return app, app.task(name="speed.run")(work.run)


def _work(spec: Spec) -> None:
    app, _ = _app(spec)
    quiet = ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    app.worker_main(["worker", "--pool", "prefork", "--concurrency", str(spec.handlers), *quiet])


def _add(spec: Spec, jobs: Jobs) -> float:
    app, task = _app(spec)
    with app.producer_pool.acquire(block=True) as producer:
        return program.add_all(jobs, lambda data: task.apply_async((data,), producer=producer))


if __name__ == "__main__":
    program.main(_work, _add)
