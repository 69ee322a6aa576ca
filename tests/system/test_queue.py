"""What a producer and an operator can do with a queue; every case holds for `Queue` and `AsyncQueue` alike."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sandq.config import Lease, QueueSettings
from sandq.errors import (
    ConfigError,
    JobFailed,
    JobNotFound,
    QueueError,
    ResultTimeout,
    StoreUnavailable,
    WrongState,
)
from sandq.job import JobState
from sandq.outcome import Place, Settlement
from sandq.queue import AsyncQueue, Queue
from sandq.store import work
from sandq.store.executors import SyncExecutor

if TYPE_CHECKING:
    from conftest import RedisServer
    from redis import Redis

    from sandq.store.keys import QueueKeys

WAIT_LIMIT_S = 5.0


class Awaited:
    """An AsyncQueue whose methods return when they are done, so that one test serves both classes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._queue = AsyncQueue(*args, **options)
        self.keys, self.name = self._queue.keys, self._queue.name

    def events(self, *args: Any, **options: Any) -> Iterator[Any]:
        stream = self._queue.events(*args, **options)
        try:
            while True:
                try:
                    yield self._runner.run(anext(stream))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(stream.aclose())  # type: ignore[attr-defined]

    def close(self) -> None:
        self._runner.run(self._queue.close())
        self._runner.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._queue, name)
        return lambda *args, **options: self._runner.run(method(*args, **options))


@pytest.fixture(params=[Queue, Awaited], ids=["Queue", "AsyncQueue"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def queue(kind: Any, redis_url: str, queue_name: str, prefix: str) -> Iterator[Any]:
    made = kind(queue_name, redis=redis_url, prefix=prefix)
    yield made
    made.close()


class Worker:
    """Claims and settles by hand."""

    def __init__(self, executor: SyncExecutor, keys: QueueKeys) -> None:
        self._executor, self._keys, self._tokens = executor, keys, itertools.count()

    def look(self) -> work.Claimed:
        wanted = work.NextClaim(tokens=[f"w:{next(self._tokens)}"], lease=Lease(30))
        return self._executor.run(work.claim(self._keys, wanted))

    def claim(self) -> work.Taken:
        return self.look().jobs[0]

    def settle(self, taken: work.Taken, settlement: Settlement) -> None:
        call = work.settle(self._keys, taken.job.id, taken.token, settlement, QueueSettings())
        assert self._executor.run(call).word == "ok"

    def complete(self, result: bytes = b'{"pages":3}') -> None:
        self.settle(self.claim(), Settlement(to=Place.COMPLETED, result=result))

    def fail(self, reason: str = "ValueError: no") -> None:
        self.settle(self.claim(), Settlement(to=Place.FAILED, reason=reason))


@pytest.fixture
def worker(redis_url: str, keys: QueueKeys) -> Iterator[Worker]:
    executor = SyncExecutor(redis_url)
    yield Worker(executor, keys)
    executor.close()


WhenBlocked = Callable[..., None]


@pytest.fixture
def when_blocked(redis_client: Redis) -> Iterator[WhenBlocked]:
    """Do something in another thread as soon as somebody waits in a blocking read (of another server, if given)."""
    threads: list[threading.Thread] = []

    def run(action: Callable[[], None], client: Redis) -> None:
        deadline = time.monotonic() + WAIT_LIMIT_S
        while time.monotonic() < deadline:
            if int(client.info("clients")["blocked_clients"]) > 0:
                action()
                return

    def start(action: Callable[[], None], client: Redis = redis_client) -> None:
        threads.append(threading.Thread(target=run, args=(action, client)))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(WAIT_LIMIT_S)


def test_an_added_job_is_held_as_it_was_given(queue: Any) -> None:
    added = queue.add("page", {"n": 1}, attempts=3, backoff="exponential:1s", delay="5s", timeout=timedelta(minutes=2))
    held = queue.job(added.id)
    assert (held.name, held.data, held.attempts, held.delay) == ("page", {"n": 1}, 3, 5000)
    assert held.opts["sq"] == {"timeout": 120000}
    assert held.timestamp == added.timestamp
    assert queue.state(added) is JobState.DELAYED
    assert queue.counts()["delayed"] == 1


def test_many_jobs_are_added_in_their_order(queue: Any) -> None:
    items: list[Any] = [("page", {"n": n}) for n in range(1200)]
    added = queue.add_many([*items, {"name": "last", "priority": 1}])
    assert [job.data for job in added[:1200]] == [{"n": n} for n in range(1200)]
    assert {state: n for state, n in queue.counts().items() if n} == {"waiting": 1200, "prioritized": 1}
    assert [job.data["n"] for job in queue.jobs("waiting", start=1, limit=2)] == [1, 2]


@pytest.mark.parametrize("item", ["page", 5, ("a", 1, 2)])
def test_what_is_no_job_is_refused_before_anything_is_added(queue: Any, item: Any) -> None:
    with pytest.raises(QueueError, match=r"not a job; give \(name, data\)"):
        queue.add_many([("page", None), item])
    assert queue.counts()["waiting"] == 0


def test_a_result_is_there_as_soon_as_the_job_completed(queue: Any, worker: Worker, when_blocked: WhenBlocked) -> None:
    job = queue.add("page")
    when_blocked(worker.complete)
    assert queue.result(job, timeout="5s") == {"pages": 3}
    assert queue.result(job.id, timeout=0) == {"pages": 3}
    assert queue.job(job.id).returnvalue == {"pages": 3}


def test_a_failed_job_raises_its_reason(queue: Any, worker: Worker, when_blocked: WhenBlocked) -> None:
    job = queue.add("page")
    when_blocked(worker.fail)
    for _ in range(2):  # while waiting, and afterwards
        with pytest.raises(JobFailed, match=r"^ValueError: no$"):
            queue.result(job, timeout=5)


@pytest.mark.parametrize("by_id", [False, True], ids=["job", "id"])
def test_the_result_of_a_job_that_was_removed_on_completion_is_found(
    queue: Any, worker: Worker, when_blocked: WhenBlocked, by_id: bool
) -> None:
    job = queue.add("page", remove_on_complete=True)
    when_blocked(worker.complete)
    assert queue.result(job, timeout=5) == {"pages": 3}
    with pytest.raises(JobNotFound):
        queue.job(job.id)
    assert queue.result(job.id if by_id else job, timeout=0) == {"pages": 3}


def test_a_result_is_found_when_its_event_has_not_been_heard_yet_and_the_job_is_gone(
    queue: Any, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when whoever listens is busy with the events of thousands of others."""
    job = queue.add("page", remove_on_complete=True)

    def hear_nothing(*_: Any) -> Iterator[Any]:
        worker.complete()
        return "0-0", None
        yield

    async def hear_nothing_in_a_loop(*_: Any) -> None:
        worker.complete()

    monkeypatch.setattr("sandq.errands.ending.hear", hear_nothing)
    monkeypatch.setattr("sandq.waiters.Waiter.hear", hear_nothing_in_a_loop)
    assert queue.result(job.id, timeout=5) == {"pages": 3}


def test_a_result_that_does_not_come_is_a_timeout(queue: Any) -> None:
    job = queue.add("page")
    started = time.monotonic()
    with pytest.raises(ResultTimeout, match=f"job {job.id} of queue render has not ended within 0.2s; it goes on"):
        queue.result(job, timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 1


def test_waiting_for_a_job_that_is_removed_ends(
    queue: Any, redis_url: str, keys: QueueKeys, when_blocked: WhenBlocked
) -> None:
    job = queue.add("page")
    with Queue(keys.queue, redis=redis_url, prefix=keys.prefix) as other:
        when_blocked(lambda: other.remove(job))
        with pytest.raises(JobNotFound, match="gone and left no result"):
            queue.result(job, timeout=5)


def test_results_of_other_jobs_are_not_taken_for_it(queue: Any, worker: Worker, when_blocked: WhenBlocked) -> None:
    first, second = queue.add("page"), queue.add("page")

    def complete_both() -> None:
        worker.complete(b"1")
        worker.complete(b"2")

    when_blocked(complete_both)
    assert queue.result(second, timeout=5) == 2
    assert queue.result(first, timeout=5) == 1


def test_what_is_not_there_is_said_so(queue: Any) -> None:
    for ask in (queue.job, queue.state, queue.cancel, queue.retry, queue.promote, queue.remove):
        with pytest.raises(JobNotFound, match="nobody"):
            ask("nobody")
    for ask in (
        queue.logs,
        queue.log_count,
        queue.children,
        queue.child_values,
        queue.child_failures,
        queue.child_counts,
    ):
        with pytest.raises(JobNotFound, match="nobody"):
            ask("nobody")
    with pytest.raises(JobNotFound, match="nobody"):
        queue.logs("nobody", newest_first=True)
    with pytest.raises(JobNotFound, match="nobody"):
        queue.result("nobody", timeout=1)


def test_a_queues_own_keys_are_no_jobs(queue: Any) -> None:
    queue.add("page")
    with pytest.raises(JobNotFound, match="own keys"):
        queue.remove("meta")


def test_cancelling_what_waits_fails_it_and_what_ended_is_left(queue: Any) -> None:
    job = queue.add("page")
    assert queue.cancel(job, reason="no longer needed") == "was_waiting"
    assert queue.cancel(job) == "already_done"
    with pytest.raises(JobFailed, match="cancelled: no longer needed"):
        queue.result(job, timeout=1)


def test_jobs_that_have_yet_to_run_are_counted_together(queue: Any, worker: Worker) -> None:
    queue.add_many([("done", None), ("running", None), ("next", None), {"name": "later", "delay": "1h"}])
    parent = queue.add("gathers", priority=5)
    worker.complete()
    worker.claim()
    assert queue.count() == 3
    queue.add("child", parent=parent, delay="1h")
    assert queue.count() == 4


def test_a_job_that_nothing_lists_is_in_no_known_state(queue: Any, redis_client: Redis) -> None:
    job = queue.add("page")
    redis_client.delete(queue.keys.key("wait"))
    assert queue.state(job) is JobState.UNKNOWN


def test_a_child_that_is_added_by_itself_says_what_its_failure_does_to_its_parent(queue: Any, worker: Worker) -> None:
    parent = queue.add("gathers", delay="1h")
    child = queue.add("page", parent=parent, on_failure="ignore")
    queue.promote(parent)
    worker.fail("ValueError: torn")
    assert queue.child_failures(parent) == {queue.keys.key(child.id): "ValueError: torn"}


def test_what_a_job_is_not_ready_for_is_refused_as_such(queue: Any, worker: Worker) -> None:
    job = queue.add("page")
    for ask in (queue.retry, queue.promote, queue.remove_child_dependency):
        with pytest.raises(WrongState, match=f"job {job.id} of queue render"):
            ask(job)
    with pytest.raises(WrongState, match="not delayed"):
        queue.change_delay(job, "1s")
    worker.claim()
    with pytest.raises(WrongState, match="is running"):
        queue.remove(job)
    with pytest.raises(WrongState, match="are running"):
        queue.obliterate()


def test_failed_jobs_run_again_one_by_one_or_all(queue: Any, worker: Worker) -> None:
    jobs = queue.add_many([("page", n) for n in range(3)])
    for _ in jobs:
        worker.fail()
    with pytest.raises(QueueError, match="only such a job can be retried"):
        queue.retry(queue.add("page"))
    queue.retry(jobs[0])
    assert queue.state(jobs[0]) is JobState.WAITING
    assert queue.retry_all() == 2
    assert queue.counts()["failed"] == 0
    assert queue.counts()["waiting"] == 4


def test_a_delayed_job_is_promoted_and_no_other(queue: Any) -> None:
    job = queue.add("page", delay="1h")
    queue.promote(job)
    assert queue.state(job) is JobState.WAITING
    with pytest.raises(QueueError, match="not delayed"):
        queue.promote(job)


def test_a_running_job_is_not_removed(queue: Any, worker: Worker) -> None:
    job = queue.add("page")
    worker.claim()
    with pytest.raises(QueueError, match="running; cancel it first"):
        queue.remove(job)


def test_a_paused_queue_says_so_until_it_is_resumed(queue: Any) -> None:
    assert not queue.paused()
    queue.pause()
    assert queue.paused()
    queue.resume()
    assert not queue.paused()


def test_events_tell_what_happened_from_the_beginning_and_then_what_happens(
    queue: Any, redis_url: str, keys: QueueKeys, when_blocked: WhenBlocked
) -> None:
    job = queue.add("page")
    stream = queue.events(since="0", block=5)
    seen = [next(stream).fields for _ in range(2)]
    assert seen == [
        {"event": "added", "jobId": job.id, "name": "page"},
        {"event": "waiting", "jobId": job.id},
    ]
    with Queue(keys.queue, redis=redis_url, prefix=keys.prefix) as other:
        when_blocked(other.pause)
        assert next(stream).fields == {"event": "paused"}
    stream.close()


def test_events_from_now_on_end_when_nothing_happens(queue: Any) -> None:
    queue.add("page")
    assert list(queue.events(block=0.05)) == []


def test_an_unknown_state_is_refused_with_those_there_are(queue: Any) -> None:
    with pytest.raises(QueueError, match="no state 'done'; use one of waiting, "):
        queue.jobs("done")


def test_logs_are_read_oldest_first(queue: Any, redis_client: Redis) -> None:
    job = queue.add("page")
    redis_client.rpush(queue.keys.key(f"{job.id}:logs"), "one", "two")
    assert queue.logs(job) == ["one", "two"]


def test_a_queue_without_a_named_redis_is_refused(kind: Any, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.delenv("SANDQ_REDIS_URL", raising=False)
    with pytest.raises(QueueError, match="set SANDQ_REDIS_URL"):
        kind("render")
    with pytest.raises(ConfigError, match="not a Redis URL"):
        kind("render", redis="http://localhost")
    monkeypatch.setenv("SANDQ_REDIS_URL", redis_url)
    kind("render").close()


def test_a_server_that_went_away_is_reported_within_redis_timeout(kind: Any, server: RedisServer) -> None:
    queue = kind("render", redis=server.url, redis_timeout=0.5)
    queue.add("page")
    server.kill()
    with pytest.raises(StoreUnavailable, match="outcome unknown"):
        queue.add("page")
    queue.close()


def test_waiting_for_a_result_survives_a_restart_of_redis(
    kind: Any, make_server: Any, when_blocked: WhenBlocked
) -> None:
    own = make_server("--appendonly", "yes", "--appendfsync", "always")
    queue = kind("render", redis=own.url)
    job = queue.add("page")

    def restart() -> None:
        own.kill()
        own.start()
        executor = SyncExecutor(own.url)
        Worker(executor, queue.keys).complete()
        executor.close()

    with own.client() as looking:
        when_blocked(restart, looking)
        assert queue.result(job, timeout=10) == {"pages": 3}
    queue.close()


def test_an_async_queue_does_many_things_at_once(redis_url: str, queue_name: str, prefix: str) -> None:
    async def run() -> dict[str, int]:
        async with AsyncQueue(queue_name, redis=redis_url, prefix=prefix) as queue:
            await asyncio.gather(*(queue.add("page", n) for n in range(100)))
            return await queue.counts()

    assert asyncio.run(run())["waiting"] == 100
