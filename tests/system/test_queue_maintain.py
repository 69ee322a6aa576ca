"""What an operator can do with a queue and its jobs; every case holds for `Queue` and `AsyncQueue` alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import LIMIT_S, eventually, handlers, serving, wait_gone
from redis import Redis
from test_queue import Awaited, Worker

from sandq.config import Keep
from sandq.errors import JobFailed, JobNotFound, QueueError
from sandq.job import JobState
from sandq.queue import Queue
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.supervisor.facts import Settled, Started


@pytest.fixture(params=[Queue, Awaited], ids=["Queue", "AsyncQueue"])
def queue(request: pytest.FixtureRequest, redis_url: str, queue_name: str, prefix: str) -> Iterator[Any]:
    made = request.param(queue_name, redis=redis_url, prefix=prefix)
    yield made
    made.close()


@pytest.fixture
def worker(redis_url: str, keys: QueueKeys) -> Iterator[Worker]:
    executor = SyncExecutor(redis_url)
    yield Worker(executor, keys)
    executor.close()


def ids(jobs: Any) -> list[str]:
    return [job.id for job in jobs]


# Many jobs


def test_a_drained_queue_is_empty_but_for_what_is_delayed(queue: Any) -> None:
    queue.add_many([("page", n) for n in range(600)])
    queue.add("page", delay="1h")
    assert queue.drain() == 600
    assert queue.counts()["delayed"] == 1
    assert queue.drain(delayed=True) == 1


def test_waiting_for_a_drained_job_ends(queue: Any) -> None:
    job = queue.add("page")
    queue.drain()
    with pytest.raises((JobNotFound, JobFailed)):
        queue.result(job, timeout=5)


def test_cleaning_answers_the_ids_it_deleted(queue: Any, worker: Worker) -> None:
    queue.add_many([("page", n) for n in range(3)])
    for _ in range(3):
        worker.complete()
    assert queue.clean("completed", "1h") == []
    assert queue.clean(JobState.COMPLETED, 0, limit=2) == ["1", "2"]
    assert queue.counts()["completed"] == 1


def test_a_thousand_jobs_are_cleaned_up_to_the_limit(queue: Any) -> None:
    queue.add_many([("page", n) for n in range(1200)])
    assert queue.clean("waiting", 0, limit=1100) == [str(n + 1) for n in range(1100)]


@pytest.mark.parametrize("state", ["waiting-children", "unknown", "done"])
def test_only_states_that_can_be_cleaned_are_accepted(queue: Any, state: str) -> None:
    with pytest.raises(QueueError, match="cannot be cleaned; use one of waiting"):
        queue.clean(state, 0)


def test_an_obliterated_queue_begins_anew(queue: Any, worker: Worker, dump: Callable[..., Any]) -> None:
    queue.add_many([("page", n) for n in range(1200)])
    worker.claim()
    with pytest.raises(QueueError, match="are running"):
        queue.obliterate()
    assert not queue.paused()
    queue.obliterate(force=True)
    assert [name for name in dump("render:") if not name.startswith("sq:")] == []
    assert not queue.paused()
    assert queue.add("page").id == "1"


def test_an_obliterated_queue_forgets_deduplication_ids_that_outlived_their_jobs(
    queue: Any, worker: Worker, prefix: str, redis_url: str
) -> None:
    with Queue("other", redis=redis_url, prefix=prefix) as other:
        other.add("page", deduplication={"id": "T", "ttl": "1h"})
        queue.add("page", deduplication={"id": "T", "ttl": "1h"}, remove_on_complete=True)
        worker.complete()
        assert queue.deduplication_job_id("T") == "1"
        queue.obliterate()
        assert queue.deduplication_job_id("T") is None
        assert other.deduplication_job_id("T") == "1"


def test_all_delayed_jobs_are_promoted(queue: Any) -> None:
    queue.add_many([{"name": "page", "delay": "1h", "priority": n % 2} for n in range(1100)])
    assert queue.promote_all() == 1100
    assert queue.counts_per_priority([0, 1]) == {0: 550, 1: 550}
    assert queue.promote_all() == 0


def test_children_stay_when_only_their_parent_is_removed(queue: Any) -> None:
    mother = queue.add("mother")
    child = queue.add("child", parent=mother)
    queue.remove(mother, children=False)
    assert queue.state(child) == "waiting"


# Single jobs


def test_a_jobs_priority_and_delay_can_be_changed(queue: Any) -> None:
    late = queue.add("page", delay="1h")
    queue.add("page", priority=3)
    queue.change_priority(late, 2)
    queue.change_delay(late.id, "1ms")
    assert queue.job(late).delay == 1
    queue.promote(late)
    assert ids(queue.jobs("prioritized")) == [late.id, "2"]
    queue.change_priority("2", 2, lifo=True)
    assert ids(queue.jobs("prioritized")) == ["2", late.id]
    queue.change_priority("2", 0)
    assert queue.state("2") == "waiting"


def test_what_cannot_be_changed_is_refused_with_the_reason(queue: Any) -> None:
    job = queue.add("page")
    with pytest.raises(QueueError, match="is not delayed"):
        queue.change_delay(job, "5s")
    for wrong in (-1, 2**21, 1.5, True):
        with pytest.raises(QueueError, match="priority"):
            queue.change_priority(job, wrong)
    with pytest.raises(QueueError, match="not JSON"):
        queue.update_progress(job, float("nan"))
    with pytest.raises(QueueError, match="over the limit"):
        queue.update_data(job, "x" * (1 << 20))
    with pytest.raises(QueueError, match=r"progress of job '1' is 1MiB, over the limit"):
        queue.update_progress(job, "x" * (1 << 20))
    assert queue.job(job).data == {}
    assert not queue.job(job).progress


@pytest.mark.parametrize(
    "operation",
    [
        lambda queue: queue.change_priority("no", 1),
        lambda queue: queue.change_delay("no", 1),
        lambda queue: queue.update_data("no", {}),
        lambda queue: queue.update_progress("no", 1),
        lambda queue: queue.log("no", "line"),
        lambda queue: queue.clear_logs("no"),
    ],
)
def test_a_job_that_is_not_there_is_not_made(queue: Any, operation: Any, dump: Callable[..., Any]) -> None:
    with pytest.raises(JobNotFound):
        operation(queue)
    assert not any(name.startswith("render:no") for name in dump())


def test_data_and_progress_are_replaced_and_read_again(queue: Any) -> None:
    job = queue.add("page", {"n": 1})
    queue.update_data(job, {"n": 2, "half": "\ud800"})
    queue.update_progress(job, [1, "zwei"])
    stored = queue.job(job)
    assert stored.data == {"n": 2, "half": "\ud800"}
    assert stored.progress == [1, "zwei"]


def test_a_log_keeps_as_many_lines_as_its_job_says(queue: Any) -> None:
    job = queue.add("page", keep_logs=2)
    for line in ("one", "two", "three \ud800"):
        queue.log(job, line)
    assert queue.logs(job) == ["two", "three \\ud800"]
    queue.clear_logs(job, keep=1)
    assert queue.log_count(job) == 1
    queue.clear_logs(job)
    assert queue.logs(job) == []


def test_a_line_of_a_log_is_cut_where_a_handlers_is(queue: Any) -> None:
    job = queue.add("page")
    queue.log(job, "x" * 8191 + "é")
    queue.log(job, "x" * 20_000)
    assert queue.logs(job) == ["x" * 8191, "x" * 8192]


def test_many_large_jobs_are_read_piece_by_piece(queue: Any) -> None:
    queue.add_many([("page", "x" * 1_000_000) for _ in range(20)])
    assert ids(queue.jobs("waiting", limit=30)) == [str(n + 1) for n in range(20)]
    assert ids(queue.jobs("waiting", start=5, limit=10)) == [str(n + 6) for n in range(10)]


def test_logs_come_in_pages_from_either_end(queue: Any) -> None:
    job = queue.add("page")
    for n in range(5):
        queue.log(job, str(n))
    assert queue.logs(job, 1, 2) == ["1", "2"]
    assert queue.logs(job, 3) == ["3", "4"]
    assert queue.logs(job, 1, 2, newest_first=True) == ["3", "2"]
    assert queue.logs(job, newest_first=True) == ["4", "3", "2", "1", "0"]
    assert queue.logs(job, 3, 9, newest_first=True) == ["1", "0"]
    assert queue.logs(job, 5, newest_first=True) == queue.logs(job, 0, 0) == []


def test_a_deduplication_id_names_its_job_until_it_is_removed(queue: Any) -> None:
    job = queue.add("page", deduplication="S")
    assert queue.deduplication_job_id("S") == job.id
    assert queue.remove_deduplication_key("S")
    assert not queue.remove_deduplication_key("S")
    assert queue.deduplication_job_id("S") is None
    assert queue.add("page", deduplication="S").id != job.id


# Limits


def test_a_global_concurrency_bounds_all_workers_and_wakes_them_when_lifted(
    queue: Any, worker: Worker, redis_client: Redis, keys: QueueKeys
) -> None:
    queue.add_many([("page", n) for n in range(3)])
    assert (queue.global_concurrency(), queue.is_maxed()) == (None, False)
    queue.set_global_concurrency(1)
    worker.claim()
    assert (queue.global_concurrency(), queue.is_maxed()) == (1, True)
    assert worker.look().why == "full"
    redis_client.delete(keys.key("marker"))
    queue.set_global_concurrency(None)
    assert redis_client.zrange(keys.key("marker"), 0, -1) == [b"0"]
    assert queue.global_concurrency() is None
    assert worker.look().why == ""


def test_a_global_rate_limit_bounds_all_workers(queue: Any, worker: Worker) -> None:
    queue.add_many([("page", n) for n in range(3)])
    assert (queue.global_rate_limit(), queue.rate_limit_ttl()) == (None, 0)
    queue.set_global_rate_limit(1, "1h")
    worker.claim()
    assert worker.look().why == "limited"
    assert queue.global_rate_limit() == (1, 3600)
    assert 3590 < queue.rate_limit_ttl() <= 3600
    assert queue.remove_rate_limit()
    assert queue.rate_limit_ttl() == 0
    queue.set_global_rate_limit(None)
    assert queue.global_rate_limit() is None


def test_a_rate_limit_by_hand_holds_the_queue_for_a_while(queue: Any, worker: Worker) -> None:
    queue.add("page")
    queue.rate_limit("1h")
    assert worker.look().why == "limited"
    assert 3590 < queue.rate_limit_ttl() <= 3600
    assert queue.remove_rate_limit()
    assert not queue.remove_rate_limit()
    worker.claim()


def test_a_workers_own_limit_can_be_asked_about(queue: Any, redis_client: Redis, keys: QueueKeys) -> None:
    redis_client.set(keys.key("limiter"), 2, px=3_600_000)
    assert queue.rate_limit_ttl() == queue.rate_limit_ttl(max=3) == 0
    assert queue.rate_limit_ttl(max=2) > 3590


@pytest.mark.parametrize(
    "operation",
    [
        lambda queue: queue.set_global_concurrency(0),
        lambda queue: queue.set_global_rate_limit(5),
        lambda queue: queue.set_global_rate_limit(0, "1s"),
        lambda queue: queue.set_global_rate_limit(5, 0),
        lambda queue: queue.rate_limit(0),
        lambda queue: queue.rate_limit("soon"),
        lambda queue: queue.trim_events(-1),
        lambda queue: queue.clean("completed", 0, limit=0),
        lambda queue: queue.clean("completed", "soon"),
        lambda queue: queue.clean("completed", -1),
        lambda queue: queue.delayed_count(-1),
        lambda queue: queue.jobs(["waiting", "nowhere"]),
        lambda queue: queue.metrics("waiting"),
        lambda queue: queue.counts_per_priority([2**21]),
    ],
)
def test_what_makes_no_sense_is_refused_before_redis_hears_of_it(
    queue: Any, operation: Any, dump: Callable[..., Any]
) -> None:
    with pytest.raises(QueueError):
        operation(queue)
    assert dump() == {}


def test_the_settings_of_a_queue_are_read_at_once(queue: Any) -> None:
    queue.set_global_concurrency(4)
    queue.pause()
    meta = queue.meta()
    assert (meta.paused, meta.concurrency) == (True, 4)


# Looking


def test_pages_go_over_several_states_without_a_gap(queue: Any) -> None:
    queue.add_many([("page", n) for n in range(3)])
    queue.add_many([{"name": "page", "priority": 2}, {"name": "page", "delay": "1h"}])
    states = ["waiting", "prioritized", JobState.DELAYED]
    assert ids(queue.jobs(states)) == ["1", "2", "3", "4", "5"]
    pages = [ids(queue.jobs(states, start, 2)) for start in (0, 2, 4, 6)]
    assert pages == [["1", "2"], ["3", "4"], ["5"], []]
    assert ids(queue.jobs(["waiting"], newest_first=True)) == ["3", "2", "1"]
    assert ids(queue.jobs(["waiting", "waiting"])) == ["1", "2", "3"]


def test_a_long_list_comes_in_many_short_calls(queue: Any) -> None:
    queue.add_many([("page", n) for n in range(1200)])
    queue.add("page", priority=1)
    found = queue.jobs(["waiting", "prioritized"], 100, 5000)
    assert ids(found) == [str(n + 1) for n in range(100, 1201)]


def test_jobs_are_counted_per_priority_and_by_when_they_are_due(queue: Any) -> None:
    queue.add_many([{"name": "page", "priority": priority} for priority in (0, 1, 1, 5, 2**21 - 1)])
    queue.add_many([{"name": "page", "delay": delay} for delay in ("1m", "1h")])
    assert queue.counts_per_priority([1, 0, 2, 5, 2**21 - 1]) == {1: 2, 0: 1, 2: 0, 5: 1, 2**21 - 1: 1}
    assert queue.counts_per_priority([]) == {}
    assert [queue.delayed_count(within) for within in (0, "5m", "2h")] == [0, 1, 2]


def test_metrics_tell_how_many_ended_per_minute(queue: Any, redis_client: Redis, keys: QueueKeys) -> None:
    assert queue.metrics("completed").count == 0
    redis_client.hset(keys.key("metrics:completed"), mapping={"count": 9, "prevTS": 60_000, "prevCount": 7})
    redis_client.rpush(keys.key("metrics:completed:data"), "0", "4", "3")
    found = queue.metrics("completed", 0, 1)
    assert (found.count, found.data, found.points, found.counted_to) == (9, (0, 4), 3, 60_000)


def test_connected_workers_are_listed_whatever_they_are_written_in(queue: Any, redis_url: str, keys: QueueKeys) -> None:
    assert queue.workers() == []
    with Redis.from_url(redis_url, protocol=2) as named, Redis.from_url(redis_url, protocol=2) as other:
        named.client_setname(keys.client_name("worker-7"))
        other.client_setname(QueueKeys("renderer", keys.prefix).client_name("worker-8"))
        (found,) = queue.workers()
    assert found.name == "worker-7"
    assert found.age_s >= 0


def test_events_are_counted_and_trimmed(queue: Any) -> None:
    queue.add_many([("page", n) for n in range(10)])
    assert queue.event_count() == 20
    assert queue.trim_events(5) == 15
    assert queue.event_count() == 5


def test_a_supervisor_keeps_the_queues_metrics_and_is_listed_among_its_workers(redis_url: str, prefix: str) -> None:
    settings = handlers(metrics_points=5, keep_completed=Keep(count=1))
    with (
        serving({"render": settings}, redis_url, prefix, name="here"),
        Queue("render", redis=redis_url, prefix=prefix) as queue,
    ):
        for _ in range(2):
            queue.result(queue.add("ok"), timeout=LIMIT_S)
        with pytest.raises(JobFailed):
            queue.result(queue.add("raises"), timeout=LIMIT_S)
        assert (queue.metrics("completed").count, queue.metrics("failed").count) == (2, 1)
        assert queue.counts()["completed"] == 1
        # By the connection on which it sleeps, as BullMQ's workers are: made when it first has nothing to do.
        eventually(lambda: [worker.name for worker in queue.workers()] == ["here"], "it is listed")


def test_a_job_of_an_obliterated_queue_is_killed_at_the_next_renewal(
    redis_url: str, prefix: str, end: Path, dump: Callable[..., Any]
) -> None:
    with (
        serving({"render": handlers()}, redis_url, prefix, lock_s=1.0) as only,
        Queue("render", redis=redis_url, prefix=prefix) as queue,
    ):
        job = queue.add("waits", {"until": str(end)})
        child = only.facts.wait(Started, job_id=job.id).pid
        queue.obliterate(force=True)
        assert only.facts.wait(Settled, job_id=job.id).outcome == "LockLost"
        wait_gone(child, 1.0)
        assert {name for name in dump("render:") if name[0].isdigit()} == set()
