"""Schedules from a producer's call to the runs of real children, whoever is killed on the way."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import SupervisorProcess, eventually, handlers, serving

from sandq.errors import QueueError, SchedulerNotFound
from sandq.queue import AsyncQueue, Queue
from sandq.store.script import load
from sandq.supervisor.facts import Settled, Started

if TYPE_CHECKING:
    from conftest import RedisServer
    from faults import Proxy
    from redis import Redis

Supervise = Callable[..., SupervisorProcess]


def test_a_schedule_is_made_found_changed_and_removed(queue: Queue) -> None:
    made = queue.upsert_scheduler("nightly", cron="0 4 * * *", tz="Europe/Berlin", name="report", attempts=3)
    assert queue.scheduler("nightly") == made
    assert queue.schedulers() == [made]
    assert queue.job(str(made.job_id)).opts["attempts"] == 3
    assert made.next_run is not None
    assert made.next_run > datetime.now(UTC)
    changed = queue.upsert_scheduler("nightly", every="1h", data={"n": 1})
    assert (changed.every_ms, changed.cron, changed.data, changed.name) == (3_600_000, None, {"n": 1}, "nightly")
    assert queue.schedulers_count() == 1
    assert queue.remove_scheduler("nightly") is True
    assert queue.remove_scheduler("nightly") is False
    with pytest.raises(QueueError, match="there is no scheduler nightly"):
        queue.scheduler("nightly")


def test_an_async_client_does_the_same(redis_url: str, prefix: str) -> None:
    async def use() -> None:
        async with AsyncQueue("render", redis=redis_url, prefix=prefix) as queue:
            made = await queue.upsert_scheduler("nightly", cron="0 4 * * *", end=datetime(2999, 1, 1, tzinfo=UTC))
            assert await queue.scheduler("nightly") == made
            assert await queue.schedulers(limit=5) == [made]
            assert await queue.schedulers_count() == 1
            assert await queue.remove_scheduler("nightly") is True
            assert await queue.schedulers() == []

    asyncio.run(use())


@pytest.mark.parametrize(
    "name", ["upsert_scheduler", "scheduler", "schedulers", "schedulers_count", "remove_scheduler"]
)
def test_both_clients_are_asked_alike(name: str) -> None:
    ours, theirs = (getattr(kind, name) for kind in (Queue, AsyncQueue))
    assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters
    assert ours.__doc__ == theirs.__doc__


def test_an_interval_runs_as_often_as_its_limit_says(queue: Queue, redis_url: str, prefix: str) -> None:
    made = queue.upsert_scheduler("often", every="50ms", limit=3, name="ok", data={"n": 1})
    with serving({"render": handlers(concurrency=1)}, redis_url, prefix) as served:
        ran = [served.facts.wait(Settled, nth=n).job_id for n in (1, 2, 3)]
    times = [int(job_id.rpartition(":")[2]) for job_id in ran]
    assert times[0] == made.next_ms
    assert sorted(set(times)) == times
    assert {time % 50 for time in times} == {times[0] % 50}
    assert queue.counts() == {**dict.fromkeys(queue.counts(), 0), "completed": 3}
    assert (queue.scheduler("often").next_run, queue.scheduler("often").iterations) == (None, 3)


def test_runs_that_take_longer_than_the_interval_leave_out_the_slots_they_missed(
    queue: Queue, end: Path, redis_url: str, redis_client: Redis, prefix: str
) -> None:
    """Each iteration is made when the one before it begins, so at most one waits behind the one that runs."""
    first = queue.upsert_scheduler("slow", every="20ms", limit=3, name="waits", data={"until": str(end)})
    with serving({"render": handlers(concurrency=1)}, redis_url, prefix) as served:
        served.facts.wait(Started)
        second = queue.scheduler("slow").next_ms
        assert second != first.next_ms
        late = (second or 0) + 200
        eventually(lambda: _now_ms(redis_client) > late, "ten slots are missed")
        counts = queue.counts()
        assert counts["active"] + counts["waiting"] + counts["delayed"] == 2
        end.touch()
        third = served.facts.wait(Settled, nth=3).job_id
    assert int(third.rpartition(":")[2]) > late


def _now_ms(client: Redis) -> int:
    second, micro = client.time()
    return second * 1000 + micro // 1000


def test_an_iteration_that_is_too_large_to_run_does_not_end_its_schedule(
    queue: Queue, redis_url: str, prefix: str
) -> None:
    queue.upsert_scheduler("large", every="1h", name="ok", data="x" * 2000)
    with serving({"render": handlers(max_data=1000)}, redis_url, prefix) as served:
        assert served.facts.wait(Settled).outcome == "TooLarge"
    assert queue.counts()["delayed"] == 1


def test_a_schedule_goes_on_when_its_supervisor_is_killed_between_the_claim_and_the_next_iteration(
    server: RedisServer, proxy: Proxy, prefix: str
) -> None:
    proxy.hold_request(load("iterate").sha.encode())
    with Queue("render", redis=server.url, prefix=prefix) as queue:
        made = queue.upsert_scheduler("often", every="1h", name="ok")
        with SupervisorProcess(proxy.url, prefix) as first:
            proxy.wait()
            first.kill()
        assert queue.counts() == {**dict.fromkeys(queue.counts(), 0), "active": 1}
        with SupervisorProcess(server.url, prefix) as second:
            assert second.facts.wait(Settled).job_id == made.job_id
        following = queue.scheduler("often")
    assert following.next_ms == (made.next_ms or 0) + 3_600_000
    assert following.iterations == 2


@pytest.mark.slow
def test_a_schedule_goes_on_while_supervisors_are_killed_at_every_turn(queue: Queue, supervise: Supervise) -> None:
    """Whatever the moment, each supervisor finds what the one before it left."""
    queue.upsert_scheduler("often", every="100ms", name="ok")
    seen: set[str] = set()
    for _ in range(4):
        one = supervise(concurrency=1)
        one.facts.wait(Started, nth=2)
        one.kill()
        seen |= {fact.job_id for fact in one.facts.all(Started)}
    with_end: Any = supervise(concurrency=1)
    with_end.facts.wait(Settled, nth=3)
    assert len(seen) >= 4
    assert queue.scheduler("often").next_run is not None


def test_any_number_of_schedulers_is_listed_page_by_page(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandq.errands.scheduler.PAGE", 2)
    begin = round(time.time() * 1000) + 3_600_000
    for n in range(5):
        queue.upsert_scheduler(f"s{n}", every="1h", start=begin + n * 1000)
    shown = lambda *places: [each.id for each in queue.schedulers(*places)]  # noqa: E731
    assert shown() == ["s0", "s1", "s2", "s3", "s4"]
    assert (shown(1, 3), shown(3, 9), shown(0, 0), shown(9, 9)) == (["s1", "s2", "s3"], ["s3", "s4"], [], [])


def test_a_scheduler_that_is_not_there_is_an_error_of_its_own(queue: Queue) -> None:
    with pytest.raises(SchedulerNotFound, match="there is no scheduler nightly in queue render"):
        queue.scheduler("nightly")
