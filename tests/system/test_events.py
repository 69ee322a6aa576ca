"""Following a queue's events, and waiting for results over them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from harness import eventually
from network import ChaosProxy
from redis import Redis

from sandq import AsyncQueue, AsyncQueueEvents, Event, Queue, QueueEvents
from sandq.config import Lease, QueueSettings
from sandq.errors import JobFailed, JobNotFound, QueueError, StoreUnavailable
from sandq.event import NotJson
from sandq.outcome import Place, Settlement
from sandq.store import work
from sandq.store.executors import SyncExecutor

if TYPE_CHECKING:
    from conftest import RedisServer

    from sandq.store.keys import QueueKeys

WAIT_LIMIT_S = 10.0
QUIET_S = 0.05

Listen = Callable[..., Any]


class Awaited:
    """AsyncQueueEvents as a plain iterator, so that one test serves both classes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._events = AsyncQueueEvents(*args, **options)

    def __enter__(self) -> Awaited:
        self._runner.run(self._events.__aenter__())
        return self

    def __iter__(self) -> Iterator[Event]:
        found = aiter(self._events)
        try:
            while True:
                try:
                    yield self._runner.run(anext(found))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(found.aclose())  # type: ignore[attr-defined]

    @property
    def last_id(self) -> str:
        return self._events.last_id

    def close(self) -> None:
        if not self._events._closed:
            self._runner.run(self._events.close())
            self._runner.close()


@pytest.fixture(params=[QueueEvents, Awaited], ids=["QueueEvents", "AsyncQueueEvents"])
def listen(request: pytest.FixtureRequest, redis_url: str, keys: QueueKeys) -> Iterator[Listen]:
    """Follow the events of this test's queue; closed with the test."""
    with ExitStack() as ends:

        def start(**options: Any) -> Any:
            events = request.param(keys.queue, **{"redis": redis_url, "prefix": keys.prefix, **options})
            return ends.enter_context(closing(events))

        yield start


@pytest.fixture
def queue(redis_url: str, keys: QueueKeys) -> Iterator[Queue]:
    with Queue(keys.queue, redis=redis_url, prefix=keys.prefix) as made:
        yield made


def until_blocked(client: Redis) -> None:
    eventually(lambda: client.info("clients")["blocked_clients"], "somebody waits in a blocking read")


@contextmanager
def while_blocked(client: Redis, action: Callable[[], object]) -> Iterator[None]:
    """Do something in another thread as soon as somebody waits in a blocking read."""

    def run() -> None:
        until_blocked(client)
        action()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(WAIT_LIMIT_S)


def say(client: Redis, keys: QueueKeys, **fields: Any) -> str:
    """What any other program may write into the stream."""
    return client.xadd(keys.key("events"), fields).decode()  # type: ignore[union-attr]


def settle_one(url: str, keys: QueueKeys, settlement: Settlement, token: str = "t") -> None:
    with closing(SyncExecutor(url)) as executor:
        taken = executor.run(work.claim(keys, work.NextClaim(tokens=[token], lease=Lease(30)))).jobs[0]
        call = work.settle(keys, taken.job.id, token, settlement, QueueSettings())
        assert executor.run(call).word == "ok"


# -- what an event says ------------------------------------------------------------------------------------------------


def test_events_are_typed_where_they_have_types(listen: Listen, queue: Queue, redis_url: str, keys: QueueKeys) -> None:
    job = queue.add("page")
    settle_one(redis_url, keys, Settlement(to=Place.COMPLETED, result=b'{"pages":3}'))
    later = queue.add("page", delay="1h")
    with Redis.from_url(redis_url, protocol=2) as client:
        say(client, keys, event="progress", jobId=job.id, data='{"percent":50}')
        say(client, keys, event="failed", jobId=job.id, failedReason="ValueError: no", prev="active")
    found = {event.name: event for event in listen(since="0", block=QUIET_S)}
    assert found["completed"].returnvalue == {"pages": 3}
    assert (found["completed"].job_id, found["completed"].progress, found["completed"].due) == (job.id, None, None)
    assert found["progress"].progress == {"percent": 50}
    assert found["failed"].failed_reason == "ValueError: no"
    assert found["delayed"].due == later.timestamp + 3_600_000
    assert 0 <= found["added"].timestamp - job.timestamp < 10_000
    assert found["waiting"].fields == {"event": "waiting", "jobId": job.id}


GARBAGE: list[dict[Any, Any]] = [
    {"event": "completed", "jobId": "1", "returnvalue": '{"open":'},
    {"event": "completed", "jobId": "1", "returnvalue": "[" * 100_000},
    {"event": "completed", "jobId": "1", "returnvalue": b"\xff\xfe"},
    {"event": "completed", "jobId": "1", "returnvalue": "9" * 10_000},
    {"event": "progress", "data": ""},
    {"event": "completed"},
    {"event": "delayed", "jobId": "1", "delay": "soon"},
    {"event": "delayed", "jobId": "1", "delay": "inf"},
    {b"\xff": b"\xff"},
    {"": ""},
    {"event": ""},
    {"jobId": "x" * 1_000_000},
]


def test_no_event_that_anybody_writes_stops_a_reader(
    listen: Listen, redis_client: Redis, keys: QueueKeys, queue: Queue
) -> None:
    for fields in GARBAGE:
        redis_client.xadd(keys.key("events"), fields)
    queue.add("page")
    found = list(listen(since="0", block=QUIET_S))
    assert len(found) == len(GARBAGE) + 2
    values = [(event.returnvalue, event.progress, event.due) for event in found]
    assert values[0] == ('{"open":', None, None)
    assert isinstance(values[0][0], NotJson)
    assert all(isinstance(value, NotJson) for value, _, _ in values[:4])
    assert isinstance(values[4][1], NotJson)
    assert values[5:8] == [(None, None, None)] * 3
    assert found[-1].name == "waiting"


# -- where to begin and to go on ---------------------------------------------------------------------------------------


def test_from_now_on_means_from_entering(listen: Listen, queue: Queue) -> None:
    queue.add("before")
    events = listen(block=QUIET_S)
    events.__enter__()
    job = queue.add("after")
    assert [event.job_id for event in events] == [job.id, job.id]


def test_a_reader_that_was_closed_is_followed_by_one_that_misses_nothing(listen: Listen, queue: Queue) -> None:
    jobs = queue.add_many([("page", n) for n in range(50)])
    first = listen(since="0", block=QUIET_S)
    seen = [event for _, event in zip(range(37), first, strict=False)]  # in the middle of what it has read
    assert first.last_id == seen[-1].id
    first.close()
    seen += list(listen(since=first.last_id, block=QUIET_S))
    assert [event.job_id for event in seen if event.name == "added"] == [job.id for job in jobs]
    assert len(seen) == 100
    assert not any(event.after_gap for event in seen)


def test_iterating_again_goes_on_behind_the_last_event(listen: Listen, queue: Queue) -> None:
    queue.add_many([("page", n) for n in range(3)])
    events = listen(since="0", block=QUIET_S)
    names = [next(iter(events)).name for _ in range(4)]
    assert names == ["added", "waiting"] * 2
    assert len(list(events)) == 2


def test_only_wanted_names_are_handed_out_and_the_others_passed_over(listen: Listen, queue: Queue) -> None:
    queue.add_many([("page", n) for n in range(3)])
    queue.pause()
    events = listen(since="0", names="added", block=QUIET_S)
    assert [event.name for event in events] == ["added"] * 3
    assert [event.name for event in listen(since=events.last_id, block=QUIET_S)] == []


def test_more_events_than_one_page_come_in_order(listen: Listen, queue: Queue) -> None:
    jobs = queue.add_many([("page", n) for n in range(1200)])
    found = [event.job_id for event in listen(since="0", names=["waiting"], block=QUIET_S)]
    assert found == [job.id for job in jobs]


@pytest.mark.parametrize("since", ["", "now", "-", "+", "1-2-3", ">", "1; FLUSHALL"])
def test_what_is_no_event_id_is_refused_at_once(since: str, redis_url: str) -> None:
    for kind in (QueueEvents, AsyncQueueEvents):
        with pytest.raises(QueueError, match="is no event id; give one like"):
            kind("render", since=since, redis=redis_url)


def test_an_id_that_was_trimmed_is_told_with_the_next_event(
    listen: Listen, queue: Queue, redis_client: Redis, keys: QueueKeys
) -> None:
    queue.add_many([("page", n) for n in range(3)])
    events = listen(since="0", names=("added", "paused"), block=QUIET_S)
    last = [event.id for event in events][-1]
    queue.add_many([("page", n) for n in range(3)])
    queue.pause()
    redis_client.xtrim(keys.key("events"), maxlen=2, approximate=False)
    resumed = list(listen(since=last, names="paused", block=QUIET_S))
    assert [(event.name, event.after_gap) for event in resumed] == [("paused", True)]
    assert [(event.name, event.after_gap) for event in events] == [("paused", True)]
    assert [event.after_gap for event in listen(since="0", block=QUIET_S)] == [False, False]


def test_a_stream_that_was_lost_is_told_and_followed_anew(listen: Listen, redis_client: Redis, keys: QueueKeys) -> None:
    """Another stream may even begin with older ids: a replica whose clock is behind, a copy from a disk."""
    events = listen(since="9000000000000-0", block=QUIET_S)
    assert list(events) == []
    redis_client.xadd(keys.key("events"), {"event": "first"}, id="1000-0")
    redis_client.xadd(keys.key("events"), {"event": "second"}, id="1000-1")
    assert [(event.name, event.after_gap) for event in events] == [("first", True), ("second", False)]


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def way(server: RedisServer) -> Iterator[ChaosProxy]:
    way = ChaosProxy(server.socket)
    yield way
    way.close()


def test_a_reader_whose_connection_breaks_misses_nothing_and_hears_nothing_twice(
    listen: Listen, server: RedisServer, way: ChaosProxy, keys: QueueKeys
) -> None:
    events = listen(redis=way.url, block=QUIET_S)
    events.__enter__()
    with Queue(keys.queue, redis=server.url, prefix=keys.prefix) as queue:
        jobs = []
        for fault in ("drop-request", "drop-reply", "cut", "drip"):
            way.fault(fault, "XREAD")  # type: ignore[arg-type]
            jobs += queue.add_many([("page", n) for n in range(20)])
            seen = [event.job_id for event in events if event.name == "added"]
            assert seen == [job.id for job in jobs[-20:]], fault
        assert not way._rules


def test_a_reader_survives_a_restart_of_redis(listen: Listen, make_server: Any, keys: QueueKeys) -> None:
    own = make_server("--appendonly", "yes", "--appendfsync", "always")
    with Queue(keys.queue, redis=own.url, prefix=keys.prefix) as queue, own.client() as client:
        before = queue.add("before")
        stream = iter(listen(redis=own.url, since="0", names="added", block="9s"))
        assert next(stream).job_id == before.id

        def restart() -> None:
            own.kill()
            own.start()
            queue.add("after")

        with while_blocked(client, restart):
            event = next(stream)
        assert (event.fields["name"], event.after_gap) == ("after", False)
        stream.close()  # type: ignore[attr-defined]


def test_a_reader_says_that_redis_is_away_and_goes_on_when_it_is_back(
    listen: Listen, server: RedisServer, way: ChaosProxy, keys: QueueKeys
) -> None:
    events = listen(redis=way.url, since="0", redis_timeout=1, block=QUIET_S)
    with Queue(keys.queue, redis=server.url, prefix=keys.prefix) as queue:
        first = queue.add("first")
        assert {event.job_id for event in events} == {first.id}
        way.refuse()
        with pytest.raises(StoreUnavailable):
            next(iter(events))
        second = queue.add("second")
        way.heal()
        assert {event.job_id for event in events} == {second.id}


def test_closing_ends_an_iteration_in_another_thread(redis_url: str, redis_client: Redis, keys: QueueKeys) -> None:
    events = QueueEvents(keys.queue, redis=redis_url, prefix=keys.prefix, redis_timeout=1)
    with while_blocked(redis_client, events.close):
        assert list(events) == []


def test_closing_ends_an_iteration_in_another_task(redis_url: str, keys: QueueKeys) -> None:
    async def run() -> list[Event]:
        async with AsyncQueueEvents(keys.queue, redis=redis_url, prefix=keys.prefix) as events:

            async def read() -> list[Event]:
                return [event async for event in events]

            reading = asyncio.create_task(read())
            await asyncio.sleep(0)
            await events.close()
            return await asyncio.wait_for(reading, 2)

    assert asyncio.run(run()) == []


def test_a_reader_is_listed_as_bullmq_lists_its_own(listen: Listen, redis_client: Redis, keys: QueueKeys) -> None:
    listen().__enter__()
    names = [each["name"] for each in redis_client.client_list()]
    assert names.count(f"{keys.prefix}:cmVuZGVy:qe") == 1


# -- a word of one's own -----------------------------------------------------------------------------------------------


def test_what_is_published_is_heard(listen: Listen, queue: Queue) -> None:
    event_id = queue.publish("invoice", customer="Ærø 😀", cents=1250, name={"a": None})
    [event] = listen(since="0", block=QUIET_S)
    assert (event.id, event.name, event.job_id) == (event_id, "invoice", None)
    assert event.fields == {"event": "invoice", "customer": "Ærø 😀", "cents": "1250", "name": '{"a": null}'}


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("completed", {"returnvalue": "{"}, "the queue itself says that"),
        ("error", {}, "the queue itself says that"),
        ("completed:1", {"returnvalue": "1"}, "the queue itself says that"),
        ("failed:1", {}, "the queue itself says that"),
        ("", {}, "a text that is not empty"),
        (b"mine", {}, "event name b'mine' must be a text"),
        ("mine", {"event": "completed"}, "choose another name for your field"),
        ("mine", {"x": float("nan")}, "cannot be published"),
        ("mine", {"x": object()}, "cannot be published"),
        ("mine", {"x": "\ud800"}, "cannot be published"),
        ("\udc00", {}, "half a surrogate pair"),
        ("mine", {"\ud800": 1}, "half a surrogate pair"),
    ],
)
def test_nothing_is_published_that_could_stop_somebody_elses_reader(
    queue: Queue, name: str, fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(QueueError, match=why):
        queue.publish(name, **fields)
    assert list(queue.events(since="0", block=0.01)) == []


def test_publishing_keeps_as_many_events_as_the_queue_does(queue: Queue, redis_client: Redis, keys: QueueKeys) -> None:
    redis_client.hset(keys.key("meta"), "opts.maxLenEvents", 100)
    for n in range(400):
        queue.publish("tick", n=n)
    assert 100 <= redis_client.xlen(keys.key("events")) < 300  # Redis trims whole blocks


# -- results -----------------------------------------------------------------------------------------------------------


def complete_all(url: str, keys: QueueKeys, count: int) -> None:
    with closing(SyncExecutor(url)) as executor:
        wanted = work.NextClaim(tokens=[f"t{n}" for n in range(count)], lease=Lease(30))
        for taken in executor.run(work.claim(keys, wanted)).jobs:
            settlement = Settlement(to=Place.COMPLETED, result=taken.job.data_json)
            executor.run(work.settle(keys, taken.job.id, taken.token, settlement, QueueSettings()))


def connections(client: Redis) -> int:
    return int(client.info("clients")["connected_clients"])


def test_a_hundred_waiters_share_one_listening_connection(server: RedisServer, keys: QueueKeys) -> None:
    async def run(client: Redis) -> tuple[list[Any], int]:
        async with AsyncQueue(keys.queue, redis=server.url, prefix=keys.prefix) as queue:
            jobs = await queue.add_many([("page", n) for n in range(100)])
            # Every other one leaves nothing behind but its event.
            jobs += await queue.add_many(
                [{"name": "page", "data": n, "remove_on_complete": True} for n in range(100, 150)]
            )
            waiting = asyncio.gather(*(queue.result(job, timeout=10) for job in jobs))
            await asyncio.to_thread(until_blocked, client)
            open_ = await asyncio.to_thread(connections, client)
            await asyncio.to_thread(complete_all, server.url, keys, 150)
            return await waiting, open_

    with server.client() as client:
        results, open_ = asyncio.run(run(client))
    assert results == list(range(150))
    assert open_ <= 4 + 1 + 1  # for commands, for listening, and the one that asked


def test_waiters_that_come_and_go_each_get_what_is_theirs(redis_url: str, keys: QueueKeys) -> None:
    async def run() -> list[Any]:
        async with AsyncQueue(keys.queue, redis=redis_url, prefix=keys.prefix) as queue:
            good, bad, gone, never = [await queue.add(name) for name in ("good", "bad", "gone", "never")]
            waiting = [asyncio.create_task(queue.result(job, timeout=9)) for job in (good, good, bad, gone, never)]
            given_up = asyncio.create_task(queue.result(never, timeout=0.05))
            for settlement in (
                Settlement(to=Place.COMPLETED, result=b"1"),
                Settlement(to=Place.FAILED, reason="ValueError: no"),
            ):
                await asyncio.to_thread(settle_one, redis_url, keys, settlement)
            await queue.remove(gone)
            ended = await asyncio.gather(*waiting[:4], given_up, return_exceptions=True)
            await queue.close()
            return [*ended, *await asyncio.gather(waiting[4], return_exceptions=True)]

    one, same, failed, removed, late, closed = asyncio.run(run())
    assert (one, same) == (1, 1)
    assert isinstance(failed, JobFailed)
    assert isinstance(removed, JobNotFound)
    assert "has not ended within 0.05s" in str(late)
    assert isinstance(closed, StoreUnavailable)


@pytest.mark.parametrize("kind", [Queue, AsyncQueue])
def test_a_job_that_vanishes_without_an_event_is_noticed(
    kind: Any, server: RedisServer, way: ChaosProxy, keys: QueueKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As BullMQ's `drain` removes it."""
    monkeypatch.setattr("sandq.errands.ending.LOOK_EVERY_S", 0.1)
    with Queue(keys.queue, redis=server.url, prefix=keys.prefix) as queue, server.client() as client:
        job = queue.add("page")

        def vanish() -> None:
            way.wait_total("pass", "ending")  # it has been seen, waiting
            client.delete(keys.key("wait"), keys.key(job.id))

        async def wait() -> Any:
            async with AsyncQueue(keys.queue, redis=way.url, prefix=keys.prefix) as own:
                return await own.result(job, timeout=9)

        vanishing = threading.Thread(target=vanish)
        vanishing.start()
        with (
            pytest.raises(JobNotFound, match="gone and left no result"),
            Queue(keys.queue, redis=way.url, prefix=keys.prefix) as own,
        ):
            _ = own.result(job, timeout=9) if kind is Queue else asyncio.run(wait())
        vanishing.join(WAIT_LIMIT_S)


def test_a_result_that_is_not_json_is_told_as_such(queue: Queue, redis_client: Redis, keys: QueueKeys) -> None:
    job = queue.add("page")
    redis_client.hset(keys.key(job.id), "returnvalue", "{'python': True}")
    redis_client.zadd(keys.key("completed"), {job.id: 1})
    with pytest.raises(QueueError, match="the result its worker wrote is not JSON"):
        queue.result(job, timeout=1)
