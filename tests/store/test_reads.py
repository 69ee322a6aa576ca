"""Asking a queue changes nothing and answers what stands there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from producer_bench import Bench, T
from redis import Redis

from sandq.job import JobState
from sandq.store import reads, stream
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.reads import Ending, Meta


@pytest.fixture
def bench(redis_url: str, redis_client: Redis, keys: QueueKeys) -> Iterator[Bench]:
    executor = SyncExecutor(redis_url)
    yield Bench(executor, redis_client, keys)
    executor.close()


def test_a_job_is_read_with_its_data_and_options(bench: Bench) -> None:
    bench.add("page", {"n": 1}, attempts=3)
    job = bench.run(reads.job(bench.keys, "1"))
    assert job is not None
    assert (job.name, job.data, job.attempts, job.queue) == ("page", {"n": 1}, 3, "render")


def test_a_job_that_is_not_there_is_none(bench: Bench) -> None:
    assert bench.run(reads.job(bench.keys, "nobody")) is None
    assert bench.run(reads.state(bench.keys, "nobody")) is None


def test_a_job_that_nothing_lists_is_in_no_known_state(bench: Bench) -> None:
    bench.client.hset(bench.keys.key("stray"), "name", "page")
    assert bench.run(reads.state(bench.keys, "stray")) is JobState.UNKNOWN


def place(bench: Bench, state: JobState, job_id: str) -> None:
    key = bench.keys.key("wait" if state is JobState.WAITING else state.value)
    if state in (JobState.WAITING, JobState.ACTIVE):
        bench.client.lpush(key, job_id)
    else:
        bench.client.zadd(key, {job_id: T})
    bench.client.hset(bench.keys.key(job_id), "name", job_id)


@pytest.mark.parametrize("state", reads.COUNTED)
def test_each_state_is_found_counted_and_listed(bench: Bench, state: JobState) -> None:
    place(bench, state, "a")
    assert bench.run(reads.state(bench.keys, "a")) is state
    counts = bench.run(reads.counts(bench.keys))
    assert counts == {other.value: int(other is state) for other in reads.COUNTED}
    assert [job.id for job in bench.run(reads.page(bench.keys, state))] == ["a"]


def test_a_page_of_waiting_jobs_runs_from_the_newest_or_from_the_next_to_run(bench: Bench) -> None:
    for _ in range(5):
        bench.add()
    newest = [job.id for job in bench.run(reads.page(bench.keys, JobState.WAITING, 1, 2))]
    next_to_run = [job.id for job in bench.run(reads.page(bench.keys, JobState.WAITING, 1, 2, newest_first=False))]
    assert (newest, next_to_run) == (["4", "3"], ["2", "3"])


def test_a_page_of_delayed_jobs_runs_from_the_last_or_from_the_first_due(bench: Bench) -> None:
    for seconds in (30, 10, 20):
        bench.add(delay=seconds)
    newest = [job.id for job in bench.run(reads.page(bench.keys, JobState.DELAYED, limit=2))]
    oldest = [job.id for job in bench.run(reads.page(bench.keys, JobState.DELAYED, limit=2, newest_first=False))]
    assert (newest, oldest) == (["1", "3"], ["2", "3"])


def test_pages_side_by_side_list_every_job_once(bench: Bench) -> None:
    for _ in range(7):
        bench.add()
    pages = [bench.run(reads.page(bench.keys, JobState.WAITING, start, 3)) for start in (0, 3, 6, 9)]
    assert [[job.id for job in page] for page in pages] == [["7", "6", "5"], ["4", "3", "2"], ["1"], []]


def test_a_page_ends_with_the_job_that_makes_it_too_large(bench: Bench) -> None:
    for size in (10, 10, 10, 1000, 10):
        bench.add(data="x" * size)
    bench.client.hset(bench.keys.key("2"), "returnvalue", '"' + "y" * 900 + '"')

    def page(start: int, most_bytes: int) -> tuple[list[str], int, bool]:
        found = bench.run(reads.page(bench.keys, JobState.WAITING, start, 5, newest_first=False, most_bytes=most_bytes))
        return [job.id for job in found], found.places, found.full

    assert page(0, 900) == (["1", "2"], 2, True)
    assert page(2, 900) == (["3", "4"], 2, True)
    assert page(4, 900) == (["5"], 1, False)
    assert page(0, 1) == (["1"], 1, True)


def test_an_id_without_a_job_is_not_listed(bench: Bench) -> None:
    bench.add()
    bench.client.lpush(bench.keys.key("wait"), "ghost")
    assert [job.id for job in bench.run(reads.page(bench.keys, JobState.WAITING))] == ["1"]


def test_a_job_with_broken_fields_does_not_spoil_its_page(bench: Bench) -> None:
    bench.add()
    bench.add()
    bench.client.hset(bench.keys.key("1"), mapping={"opts": "{", "stacktrace": "no", "timestamp": "1.5"})
    assert [job.id for job in bench.run(reads.page(bench.keys, JobState.WAITING))] == ["2", "1"]


def test_an_ending_tells_a_waiter_all_it_needs(bench: Bench) -> None:
    place(bench, JobState.COMPLETED, "done")
    bench.client.hset(bench.keys.key("done"), "returnvalue", '{"n":1}')
    place(bench, JobState.COMPLETED, "empty")
    place(bench, JobState.FAILED, "bad")
    bench.client.hset(bench.keys.key("bad"), "failedReason", "boom")
    place(bench, JobState.WAITING, "waits")
    endings = {
        job_id: bench.run(reads.ending(bench.keys, job_id)) for job_id in ("done", "empty", "bad", "waits", "no")
    }
    assert endings == {
        "done": Ending("completed", value_json=b'{"n":1}'),
        "empty": Ending("completed", value_json=b"null"),
        "bad": Ending("failed", reason="boom"),
        "waits": Ending("pending"),
        "no": Ending("missing"),
    }


def test_logs_are_read_from_the_oldest_and_in_part(bench: Bench) -> None:
    bench.client.rpush(bench.keys.key("1:logs"), "one", "zwei é", b"\xff")
    assert bench.run(reads.logs(bench.keys, "1")) == ["one", "zwei é", "\ufffd"]
    assert bench.run(reads.logs(bench.keys, "1", -2, -2)) == ["zwei é"]


def test_events_are_read_on_from_the_last_one_seen(bench: Bench) -> None:
    assert bench.run(reads.events(bench.keys)) == []
    assert bench.run(stream.edges(bench.keys)) == stream.Edges("0-0", "0-0")
    bench.add("page")
    ((first, fields),) = bench.run(reads.events(bench.keys, count=1))
    assert fields == {"event": "added", "jobId": "1", "name": "page"}
    ((second, rest),) = bench.run(reads.events(bench.keys, first))
    assert rest == {"event": "waiting", "jobId": "1"}
    assert bench.run(stream.edges(bench.keys)) == stream.Edges(first, second)
    assert bench.run(reads.events(bench.keys, second)) == []


def test_supervisors_are_listed_until_they_are_silent(bench: Bench) -> None:
    now_ms = int(time.time() * 1000)
    for name, expires in (("alive", now_ms + 60_000), ("expired", now_ms - 1), ("vanished", now_ms + 60_000)):
        bench.client.zadd(bench.keys.key("sq:supervisors"), {name: expires})
        if name != "vanished":
            bench.client.set(bench.keys.key(f"sq:supervisor:{name}"), json.dumps({"id": name}))
    assert bench.run(reads.supervisors(bench.keys)) == [{"id": "alive"}]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({}, Meta()),
        ({"paused": "0"}, Meta(paused=True)),  # presence counts, as for every worker
        (
            {"concurrency": "4", "max": "10", "duration": "1000", "opts.maxLenEvents": "77", "version": "bullmq:6.7.0"},
            Meta(concurrency=4, limiter_max=10, limiter_duration_ms=1000, max_len_events=77, version="bullmq:6.7.0"),
        ),
        ({"concurrency": "many"}, Meta()),
    ],
)
def test_the_queues_settings_are_read_as_its_workers_read_them(
    bench: Bench, stored: dict[str, Any], expected: Meta
) -> None:
    if stored:
        bench.client.hset(bench.keys.key("meta"), mapping=stored)
    assert bench.run(reads.meta(bench.keys)) == expected


def test_a_queue_made_by_bullmq_is_known_as_foreign(bench: Bench) -> None:
    bench.client.hset(bench.keys.key("meta"), "version", "bullmq:6.7.0")
    assert bench.run(reads.meta(bench.keys)).is_foreign
    bench.client.delete(bench.keys.key("meta"))
    bench.add()
    assert not bench.run(reads.meta(bench.keys)).is_foreign


def test_no_read_writes_a_key(bench: Bench) -> None:
    for operation in (reads.state(bench.keys, "a"), reads.counts(bench.keys), reads.ending(bench.keys, "a")):
        bench.run(operation)
    bench.run(reads.page(bench.keys, JobState.FAILED))
    bench.run(reads.supervisors(bench.keys))
    assert bench.client.keys(f"{bench.keys.base}*") == []
