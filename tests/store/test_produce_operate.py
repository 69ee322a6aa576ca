"""What an operator does to jobs that are there: pause, resume, promote, retry, remove, cancel."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from producer_bench import Bench, T
from redis import Redis

from sandq.errors import StoreRefused
from sandq.job import JobState
from sandq.store import produce, reads
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys, split_job_key
from sandq.store.newjob import Parent, new_job


@pytest.fixture
def bench(redis_url: str, redis_client: Redis, keys: QueueKeys) -> Iterator[Bench]:
    executor = SyncExecutor(redis_url)
    yield Bench(executor, redis_client, keys)
    executor.close()


# Pause and resume


def test_a_paused_queue_says_so_and_forgets_its_markers(bench: Bench) -> None:
    bench.add()
    bench.events()
    bench.run(produce.pause(bench.keys))
    assert bench.hash("meta")["paused"] == "1"
    assert bench.zset("marker") == {}
    assert bench.events() == [("paused",)]


def test_resume_wakes_workers_for_what_waits(bench: Bench) -> None:
    bench.run(produce.pause(bench.keys))
    bench.add(priority=2)
    bench.events()
    assert bench.run(produce.resume(bench.keys)) == "ok"
    assert "paused" not in bench.hash("meta")
    assert bench.zset("marker") == {"0": 0}
    assert bench.events() == [("resumed",)]


def test_resume_with_only_delayed_jobs_says_when_the_first_is_due(bench: Bench) -> None:
    bench.run(produce.pause(bench.keys))
    bench.add(timestamp=T, delay=60)
    bench.client.delete(bench.keys.key("marker"))
    bench.run(produce.resume(bench.keys))
    assert bench.zset("marker") == {"1": T + 60000}


def test_resume_brings_back_what_bullmq_5_set_aside_in_front_of_the_others(bench: Bench) -> None:
    bench.run(produce.pause(bench.keys))
    bench.client.rpush(bench.keys.key("wait"), "7", "6", "5")
    bench.client.rpush(bench.keys.key("paused"), "legacy2", "legacy1")
    assert bench.run(reads.state(bench.keys, "legacy1")) == JobState.WAITING
    assert bench.run(produce.resume(bench.keys)) == "ok"
    assert bench.wait() == ["7", "6", "5", "legacy2", "legacy1"]


def test_resume_of_many_set_aside_takes_several_calls_and_one_event(bench: Bench) -> None:
    bench.run(produce.pause(bench.keys))
    bench.client.rpush(bench.keys.key("wait"), "w")
    old = [f"old-{n}" for n in range(7001)]
    bench.client.rpush(bench.keys.key("paused"), *old)
    bench.events()
    assert bench.run(produce.resume(bench.keys)) == "more"
    assert bench.run(produce.resume(bench.keys)) == "ok"
    assert bench.wait() == ["w", *old]
    assert bench.events() == [("resumed",)]


# Promote


def test_a_promoted_job_joins_the_end_of_the_line(bench: Bench) -> None:
    bench.add()
    bench.add(delay=60)
    bench.events()
    bench.client.delete(bench.keys.key("marker"))
    assert bench.run(produce.promote(bench.keys, "2")) == "ok"
    assert bench.wait() == ["2", "1"]
    assert bench.hash("2")["delay"] == "0"
    assert json.loads(bench.hash("2")["opts"])["delay"] == 60000
    assert bench.zset("marker") == {"0": 0}
    assert bench.events() == [("waiting", "jobId", "2", "prev", "delayed")]


def test_a_promoted_job_keeps_its_priority(bench: Bench) -> None:
    bench.add(delay=60, priority=5)
    bench.run(produce.promote(bench.keys, "1"))
    assert bench.zset("prioritized") == {"1": 21474836481}


def test_only_a_delayed_job_can_be_promoted(bench: Bench) -> None:
    bench.add()
    assert bench.run(produce.promote(bench.keys, "1")) == "not-delayed"
    assert bench.run(produce.promote(bench.keys, "2")) == "missing"


# Retry


def finish(bench: Bench, job_id: str, state: str, at: int = T) -> None:
    """As a worker would have left it."""
    bench.client.lrem(bench.keys.key("wait"), 0, job_id)
    bench.client.zrem(bench.keys.key("prioritized"), job_id)
    bench.client.zadd(bench.keys.key(state), {job_id: at})
    ending = {"failedReason": "boom"} if state == "failed" else {"returnvalue": "7"}
    fields = {"finishedOn": at, "processedOn": at - 1, "atm": 1, "ats": 1, "stacktrace": '["boom"]', **ending}
    bench.client.hset(bench.keys.key(job_id), mapping=fields)


@pytest.mark.parametrize(("state", "ending"), [("failed", "failedReason"), ("completed", "returnvalue")])
def test_a_retried_job_waits_again_without_its_ending(bench: Bench, state: str, ending: str) -> None:
    bench.add()
    finish(bench, "1", state)
    counted = {"sq_crashes": 3, "sq_interruptions": 2, "sq_unknown": 1, "sq_death": "{}", "sq_fence": 99}
    bench.client.hset(bench.keys.key("1"), mapping=counted)
    bench.events()
    assert bench.run(produce.retry(bench.keys, "1")) == "ok"
    assert bench.wait() == ["1"]
    assert bench.zset(state) == {}
    left = bench.hash("1")
    assert not left.keys() & {
        "finishedOn",
        "processedOn",
        ending,
        "sq_crashes",
        "sq_interruptions",
        "sq_unknown",
        "sq_death",
    }
    assert (left["atm"], left["ats"], left["stacktrace"], left["sq_fence"]) == ("1", "1", '["boom"]', "99")
    assert bench.events() == [("waiting", "jobId", "1", "prev", state)]


def test_a_retried_job_goes_where_its_options_put_it(bench: Bench) -> None:
    bench.add("plain")
    bench.add("lifo", lifo=True)
    bench.add("prioritized", priority=2)
    bench.add("waits")
    for job_id in ("1", "2", "3"):
        finish(bench, job_id, "failed")
        bench.run(produce.retry(bench.keys, job_id))
    assert bench.wait() == ["1", "4", "2"]
    assert list(bench.zset("prioritized")) == ["3"]


def test_only_a_finished_job_can_be_retried(bench: Bench) -> None:
    bench.add()
    assert bench.run(produce.retry(bench.keys, "1")) == "not-finished"
    assert bench.run(produce.retry(bench.keys, "2")) == "missing"


@pytest.mark.parametrize("trace", ["processed", "failed", "unsuccessful"])
def test_a_parent_waits_again_for_its_retried_child(bench: Bench, trace: str) -> None:
    bench.add("mother")
    bench.park("1")
    bench.add("child", parent=bench.parent("1"))
    finish(bench, "2", "completed" if trace == "processed" else "failed")
    child = bench.keys.key("2")
    bench.client.srem(bench.keys.key("1:dependencies"), child)
    if trace == "unsuccessful":
        bench.client.zadd(bench.keys.key("1:unsuccessful"), {child: T})
    else:
        bench.client.hset(bench.keys.key(f"1:{trace}"), child, "7")
    bench.run(produce.retry(bench.keys, "2"))
    assert bench.client.smembers(bench.keys.key("1:dependencies")) == {child.encode()}
    assert not bench.client.exists(bench.keys.key(f"1:{trace}"))


def test_a_child_whose_failure_left_no_trace_is_not_waited_for_again(bench: Bench) -> None:
    bench.add("mother")
    bench.add("child", parent=bench.parent("1"))
    finish(bench, "2", "failed")
    bench.client.delete(bench.keys.key("1:dependencies"))
    bench.run(produce.retry(bench.keys, "2"))
    assert not bench.client.exists(bench.keys.key("1:dependencies"))


def test_retrying_all_keeps_their_order_priority_and_lifo(bench: Bench) -> None:
    options: list[dict[str, Any]] = [{}, {}, {"lifo": True}, {"priority": 3}, {}]
    for n, option in enumerate(options):
        bench.add(**option)
        finish(bench, str(n + 1), "failed", T + n)
    assert bench.run(produce.retry_all(bench.keys)) == produce.Retried(5, None)
    assert bench.wait() == ["5", "2", "1", "3"]
    assert list(bench.zset("prioritized")) == ["4"]
    assert bench.run(produce.retry_all(bench.keys)) == produce.Retried(0, None)


def test_retrying_all_goes_in_rounds_and_leaves_what_fails_meanwhile(bench: Bench) -> None:
    for n in range(5):
        bench.add()
        finish(bench, str(n + 1), "failed", T + n)
    first = bench.run(produce.retry_all(bench.keys, limit=3))
    assert first.count == 3
    assert first.again is not None
    finish(bench, "1", "failed", first.again + 1)
    assert bench.run(produce.retry_all(bench.keys, again=first.again, limit=3)) == produce.Retried(2, None)
    assert list(bench.zset("failed")) == ["1"]


def test_retrying_all_leaves_cancelled_jobs_alone_unless_asked(bench: Bench) -> None:
    for n, reason in enumerate(["cancelled", "boom", "cancelled: too late", "cancelled by the bank", "boom"]):
        bench.add()
        finish(bench, str(n + 1), "failed", T + n)
        bench.client.hset(bench.keys.key(str(n + 1)), "failedReason", reason)
    count, again, passed = 0, 0, 0
    while True:
        done = bench.run(produce.retry_all(bench.keys, again=again, passed=passed, limit=2))
        count, passed = count + done.count, done.passed
        if done.again is None:
            break
        again = done.again
    assert (count, passed) == (3, 2)
    assert list(bench.zset("failed")) == ["1", "3"]
    assert bench.run(produce.retry_all(bench.keys, cancelled=True)) == produce.Retried(2, None)


def test_retrying_all_drops_an_id_whose_job_is_gone(bench: Bench) -> None:
    bench.client.zadd(bench.keys.key("failed"), {"ghost": T})
    assert bench.run(produce.retry_all(bench.keys)) == produce.Retried(0, None)
    assert bench.zset("failed") == {}
    assert bench.wait() == []


# Remove


@pytest.mark.parametrize(
    ("options", "prev"), [({}, "wait"), ({"delay": 5}, "delayed"), ({"priority": 5}, "prioritized")]
)
def test_a_removed_job_leaves_nothing(
    bench: Bench, options: dict[str, Any], prev: str, dump: Callable[..., Any]
) -> None:
    bench.add(deduplication="S", **options)
    for part in ("logs", "dependencies"):
        assert bench.client.rpush(bench.keys.key(f"1:{part}x"), "kept: not a part of the job")
    bench.client.rpush(bench.keys.key("1:logs"), "line")
    bench.events()
    assert bench.run(produce.remove(bench.keys, "1")) == "removed"
    assert bench.events() == [("removed", "jobId", "1", "prev", prev)]
    left = {name for name in dump("render:") if not name.startswith("sq:op:")}
    assert left - {"marker", "pc"} == {"id", "meta", "events", "1:logsx", "1:dependenciesx"}
    assert bench.run(produce.remove(bench.keys, "1")) == "missing"


def test_a_removed_finished_job_leaves_its_set(bench: Bench) -> None:
    bench.add()
    finish(bench, "1", "completed")
    bench.events()
    bench.run(produce.remove(bench.keys, "1"))
    assert bench.zset("completed") == {}
    assert bench.events() == [("removed", "jobId", "1", "prev", "completed")]


def test_a_locked_job_is_not_removed(bench: Bench) -> None:
    bench.add()
    bench.activate("1")
    bench.client.set(bench.keys.lock("1"), "token")
    assert bench.run(produce.remove(bench.keys, "1")) == "locked"
    assert bench.hash("1")["name"] == "page"
    bench.client.delete(bench.keys.lock("1"))
    assert bench.run(produce.remove(bench.keys, "1")) == "removed"
    assert bench.client.llen(bench.keys.key("active")) == 0


def test_an_id_without_a_job_is_taken_out_of_the_list_it_stands_in(bench: Bench) -> None:
    bench.client.lpush(bench.keys.key("wait"), "ghost")
    assert bench.run(produce.remove(bench.keys, "ghost")) == "removed"
    assert bench.wait() == []


def schedule(bench: Bench) -> str:
    """A scheduler's next run, made by hand: its id."""
    run = f"repeat:nightly:{T}"
    bench.client.zadd(bench.keys.key("repeat"), {"nightly": T})
    fields = {"name": "n", "data": "{}", "opts": "{}", "timestamp": T, "delay": 5, "priority": 0, "rjk": "nightly"}
    bench.client.hset(bench.keys.key(run), mapping=fields)
    bench.client.zadd(bench.keys.key("delayed"), {run: T * 4096})
    return run


@pytest.mark.parametrize("operation", [produce.remove, produce.cancel])
def test_a_schedulers_next_run_is_left_alone_since_the_schedule_would_end(bench: Bench, operation: Any) -> None:
    run = schedule(bench)
    assert bench.run(operation(bench.keys, run)) == "scheduler"
    assert list(bench.zset("delayed")) == [run]
    bench.client.zadd(bench.keys.key("repeat"), {"nightly": T + 1000})
    assert bench.run(operation(bench.keys, run)) in ("removed", "was_waiting")


def family(bench: Bench, queue: QueueKeys) -> None:
    """1 waits for C1 in another queue, C2 there is done; C1 waits for a three-part id of our own queue."""
    bench.add("mother")
    bench.park("1")
    mother = bench.parent("1")
    bench.run(produce.add(queue, [new_job("c", job_id="C1", parent=mother), new_job("c", job_id="C2", parent=mother)]))
    bench.client.srem(bench.keys.key("1:dependencies"), queue.key("C2"))
    bench.client.hset(bench.keys.key("1:processed"), queue.key("C2"), "7")
    bench.add("g", job_id="a:b:c", parent=Parent(id="C1", queue=queue.base[:-1]))


def test_children_are_removed_with_their_parent_across_queues(bench: Bench, prefix: str) -> None:
    other = QueueKeys("other", prefix)
    family(bench, other)
    bench.add("stranger")
    assert bench.run(produce.remove(bench.keys, "1")) == "removed"
    assert bench.wait() == ["3"]
    for key in (other.key("C1"), other.key("C2"), bench.keys.key("a:b:c"), bench.keys.key("1:processed")):
        assert not bench.client.exists(key)
    assert bench.run(reads.counts(other))["waiting"] == 0


def test_a_family_with_a_running_child_stays_whole(bench: Bench, prefix: str) -> None:
    other = QueueKeys("other", prefix)
    family(bench, other)
    bench.client.set(bench.keys.lock("a:b:c"), "token")
    assert bench.run(produce.remove(bench.keys, "1")) == "locked"
    assert bench.client.exists(other.key("C1"), other.key("C2"), bench.keys.key("1"), bench.keys.key("a:b:c")) == 4


def test_children_stay_when_only_their_parent_is_removed(bench: Bench, prefix: str) -> None:
    other = QueueKeys("other", prefix)
    family(bench, other)
    assert bench.run(produce.remove(bench.keys, "1", "")) == "removed"
    assert bench.client.exists(other.key("C1"), other.key("C2")) == 2


def test_a_job_that_took_a_childs_old_id_is_not_removed_with_the_parent(bench: Bench, prefix: str) -> None:
    other = QueueKeys("other", prefix)
    family(bench, other)
    bench.run(produce.remove(other, "C2"))
    bench.run(produce.add(other, [new_job("unrelated", job_id="C2")]))
    bench.run(produce.remove(bench.keys, "1"))
    assert bench.client.exists(other.key("C2")) == 1


def test_removing_the_last_pending_child_releases_its_parent(bench: Bench) -> None:
    bench.add("mother")
    bench.park("1")
    for _ in range(2):
        bench.add("child", parent=bench.parent("1"))
    bench.run(produce.remove(bench.keys, "2"))
    assert bench.run(reads.state(bench.keys, "1")) == JobState.WAITING_CHILDREN
    bench.run(produce.remove(bench.keys, "3"))
    assert bench.wait() == ["1"]


def removed_in_rounds(bench: Bench, job_id: str, limit: int, children: produce.Family = "all") -> int:
    """How many rounds it took, as the errand goes about it."""
    path, rounds = [(bench.keys, job_id)], 0
    while path:
        answer = bench.run(produce.remove(*path[-1], children, limit))
        rounds += 1
        if isinstance(answer, produce.Below):
            path.append(split_job_key(answer.key, bench.keys.prefix))
        elif answer == "removed":
            path.pop()
        else:
            assert answer == "more"
    return rounds


def brood(bench: Bench, above: str, count: int, **options: Any) -> None:
    """Children of a job; it waits for them."""
    bench.park(above)
    bench.run(produce.add(bench.keys, [new_job("c", parent=bench.parent(above), **options)] * count))


@pytest.mark.parametrize("limit", [2, 7, 20, 500])
def test_a_large_family_is_removed_round_by_round_and_leaves_nothing(
    bench: Bench, limit: int, prefix: str, dump: Callable[..., Any]
) -> None:
    before = bench.add("stranger").id
    mother = bench.add("mother").id
    brood(bench, mother, 30)
    brood(bench, "3", 15, priority=4)
    brood(bench, "4", 12, delay=60)
    bench.run(produce.add(QueueKeys("other", prefix), [new_job("c", parent=bench.parent("5"))] * 10))
    after = bench.add("stranger").id
    bench.events()
    rounds = removed_in_rounds(bench, mother, limit)
    assert (rounds == 1) == (limit > 70)
    assert bench.wait() == [after, before]
    gone = Counter(event[2] for event in bench.events() if event[0] == "removed")
    assert len(gone) == 1 + 30 + 15 + 12
    assert set(gone.values()) == {1}
    shared = {"id", "pc", "meta", "events", "marker", "wait", before, after}
    assert {name for name in dump("render:") if not name.startswith("sq:op:")} == shared
    assert {name for name in dump("other:") if not name.startswith("sq:op:")} == {"id", "meta", "events", "marker"}


def test_a_family_in_a_long_row_is_removed_from_its_end(bench: Bench) -> None:
    bench.add("first")
    for n in range(1, 30):
        brood(bench, str(n), 1)
    assert removed_in_rounds(bench, "1", 4) > 8
    assert bench.run(reads.counts(bench.keys)) == dict.fromkeys(reads.COUNTED, 0)
    assert {event[-1] for event in bench.events() if event[0] == "removed"} == {"waiting-children", "wait"}


def test_a_job_that_lost_children_in_a_round_cannot_run_without_them(bench: Bench) -> None:
    """Neither when the others end in between, nor when nobody comes back for the rest."""
    mother = bench.add("mother").id
    brood(bench, mother, 6)
    assert bench.run(produce.remove(bench.keys, mother, limit=4)) == "more"
    left = bench.wait()
    assert len(left) == 3
    for job_id in left:
        assert bench.run(produce.cancel(bench.keys, job_id)) == "was_waiting"
    assert bench.run(reads.state(bench.keys, mother)) == JobState.UNKNOWN
    assert bench.wait() == []
    assert removed_in_rounds(bench, mother, 4) == 1
    assert ("removed", "jobId", mother, "prev", "waiting-children") in bench.events()


def test_what_a_parent_knows_of_children_that_are_gone_does_not_stop_its_removal(bench: Bench) -> None:
    mother = bench.add("mother").id
    bench.client.hset(bench.keys.key(f"{mother}:processed"), mapping={f"gone{n}": "1" for n in range(20)})
    bench.client.zadd(bench.keys.key(f"{mother}:unsuccessful"), {f"gone{n}": n for n in range(20)})
    assert removed_in_rounds(bench, mother, 5) > 4
    assert bench.wait() == []


def test_a_large_family_of_which_the_first_round_sees_one_run_stays_whole(
    bench: Bench, dump: Callable[..., Any]
) -> None:
    mother = bench.add("mother").id
    brood(bench, mother, 3)
    brood(bench, "2", 20)
    for job_id in ("2", "3", "4"):
        bench.client.set(bench.keys.lock(job_id), "token")
    before = dump()
    assert bench.run(produce.remove(bench.keys, mother, limit=5)) == "locked"
    assert dump() == before


def test_jobs_taken_out_of_a_long_list_leave_the_others_in_their_order(bench: Bench) -> None:
    mother = bench.add("mother").id
    bench.park(mother)
    others = []
    for n in range(5000):
        parent = {"parent": bench.parent(mother)} if n % 50 == 7 else {}
        others.append(new_job("page", **parent))
    for chunk in produce.chunks(others):
        bench.run(produce.add(bench.keys, chunk))
    before, meant = bench.wait(), {raw.decode() for raw in bench.client.smembers(bench.keys.key("1:dependencies"))}
    assert len(meant) == 100
    assert bench.run(produce.remove(bench.keys, mother)) == "removed"
    assert bench.wait() == [job_id for job_id in before if bench.keys.key(job_id) not in meant]


def test_pending_children_of_a_child_go_with_it_and_those_that_run_or_have_ended_stay(bench: Bench) -> None:
    bench.add("child")
    brood(bench, "1", 4)
    bench.client.set(bench.keys.lock("2"), "token")
    finish(bench, "3", "failed")
    finish(bench, "4", "completed")
    bench.client.srem(bench.keys.key("1:dependencies"), bench.keys.key("4"))
    bench.client.hset(bench.keys.key("1:processed"), bench.keys.key("4"), "7")
    assert bench.run(produce.remove(bench.keys, "3", "pending")) == "ended"
    assert bench.run(produce.remove(bench.keys, "2", "pending")) == "locked"
    assert bench.run(produce.remove(bench.keys, "1", "pending")) == "removed"
    assert [bench.client.exists(bench.keys.key(str(n))) for n in range(1, 6)] == [0, 1, 1, 1, 0]


# Cancel


@pytest.mark.parametrize(
    ("options", "state"), [({}, "waiting"), ({"delay": 5}, "delayed"), ({"priority": 5}, "prioritized")]
)
def test_a_job_that_has_not_begun_fails_at_once(bench: Bench, options: dict[str, Any], state: str) -> None:
    bench.add(**options)
    bench.events()
    assert bench.run(produce.cancel(bench.keys, "1", "no longer wanted")) == "was_waiting"
    assert list(bench.zset("failed")) == ["1"]
    left = bench.hash("1")
    assert (left["failedReason"], left["atm"], left["delay"]) == ("cancelled: no longer wanted", "1", "0")
    assert bench.events() == [
        ("failed", "jobId", "1", "failedReason", "cancelled: no longer wanted", "prev", state),
        ("retries-exhausted", "jobId", "1", "attemptsMade", "1"),
        ("drained",),
    ]
    assert bench.run(reads.counts(bench.keys)) == {
        "completed": 0,
        "failed": 1,
        "delayed": 0,
        "prioritized": 0,
        "active": 0,
        "waiting": 0,
        "waiting-children": 0,
    }


def test_a_cancelled_job_is_not_tried_again_whatever_its_attempts(bench: Bench) -> None:
    bench.add(attempts=5)
    bench.run(produce.cancel(bench.keys, "1"))
    assert bench.hash("1")["failedReason"] == "cancelled"
    assert "retries-exhausted" not in [event[0] for event in bench.events()]


def test_cancelling_one_of_several_does_not_call_the_queue_drained(bench: Bench) -> None:
    bench.add()
    bench.add()
    bench.run(produce.cancel(bench.keys, "1"))
    assert "drained" not in [event[0] for event in bench.events()]


def test_a_cancelled_child_does_to_its_parent_what_a_failed_one_does(bench: Bench) -> None:
    bench.add("mother")
    bench.park("1")
    ignored = Parent(id="1", queue=bench.keys.base[:-1], on_failure="ignore")
    bench.add("child", parent=ignored)
    bench.run(produce.cancel(bench.keys, "2", "why"))
    assert bench.client.hgetall(bench.keys.key("1:failed")) == {bench.keys.key("2").encode(): b"cancelled: why"}
    assert bench.wait() == ["1"]


def test_a_parent_that_waits_for_children_can_be_cancelled(bench: Bench) -> None:
    bench.add("mother")
    bench.park("1")
    bench.add("child", parent=bench.parent("1"))
    assert bench.run(produce.cancel(bench.keys, "1")) == "was_waiting"
    assert bench.zset("waiting-children") == {}
    assert list(bench.zset("failed")) == ["1"]


def test_a_cancelled_job_obeys_its_own_retention(bench: Bench) -> None:
    bench.add(remove_on_fail=True)
    assert bench.run(produce.cancel(bench.keys, "1")) == "was_waiting"
    assert bench.hash("1") == {}
    assert bench.zset("failed") == {}


def test_a_running_job_is_asked_to_stop_under_the_token_that_runs_it(bench: Bench) -> None:
    bench.add()
    bench.activate("1")
    bench.client.set(bench.keys.lock("1"), "supervisor:1:0")
    bench.events()
    assert bench.run(produce.cancel(bench.keys, "1", "why")) == "was_running"
    assert bench.client.lrange(bench.keys.key("active"), 0, -1) == [b"1"]
    assert bench.events() == []
    requests = bench.client.hgetall(bench.keys.key("sq:cancels"))
    assert requests == {b"1": b"supervisor:1:0\nwhy"}
    assert bench.client.ttl(bench.keys.key("sq:cancels")) > 0


def test_a_running_job_that_lost_its_lock_fails_at_once(bench: Bench) -> None:
    bench.add()
    bench.activate("1")
    bench.client.sadd(bench.keys.key("stalled"), "1")
    assert bench.run(produce.cancel(bench.keys, "1")) == "was_abandoned"
    assert bench.client.llen(bench.keys.key("active")) == 0
    assert bench.client.scard(bench.keys.key("stalled")) == 0
    assert list(bench.zset("failed")) == ["1"]


def test_a_job_that_ended_or_never_was_cannot_be_cancelled(bench: Bench) -> None:
    bench.add()
    finish(bench, "1", "completed")
    assert bench.run(produce.cancel(bench.keys, "1")) == "already_done"
    assert bench.run(produce.cancel(bench.keys, "2")) == "missing"


def test_a_cancelled_job_can_be_retried(bench: Bench) -> None:
    bench.add(delay=60)
    bench.run(produce.cancel(bench.keys, "1"))
    assert bench.run(produce.retry(bench.keys, "1")) == "ok"
    assert bench.wait() == ["1"]


# All of them


@pytest.mark.parametrize(
    "operation",
    [
        produce.pause,
        produce.resume,
        lambda keys: produce.promote(keys, "1"),
        lambda keys: produce.retry(keys, "2"),
        produce.retry_all,
        lambda keys: produce.remove(keys, "3"),
        lambda keys: produce.cancel(keys, "3"),
    ],
)
def test_a_repeated_operation_changes_nothing_and_answers_the_same(
    bench: Bench, operation: Any, dump: Callable[..., Any]
) -> None:
    bench.add(delay=60)
    bench.add()
    finish(bench, "2", "failed")
    bench.add()
    once = operation(bench.keys)
    arguments = (once.script.source, 2, bench.keys.base, bench.keys.slot("mine"), "op-1", *once.args)
    first, after = once.parse(bench.client.eval(*arguments)), dump()
    assert once.parse(bench.client.eval(*arguments)) == first
    assert dump() == after


@pytest.mark.parametrize("operation", [produce.promote, produce.retry, produce.remove, produce.cancel])
def test_an_operation_that_meets_a_foreign_type_changes_nothing(
    bench: Bench, operation: Any, dump: Callable[..., Any]
) -> None:
    bench.client.set(bench.keys.key("1"), "no job")
    bench.client.zadd(bench.keys.key("failed"), {"1": T})
    before = dump()
    with pytest.raises(StoreRefused):
        bench.run(operation(bench.keys, "1"))
    assert dump() == before


@pytest.mark.parametrize(
    ("operation", "passes"),
    [
        (lambda keys: produce.add(keys, [new_job("page"), new_job("page", job_id="x", deduplication="S")]), False),
        (produce.pause, False),
        (lambda keys: produce.promote(keys, "1"), False),
        (lambda keys: produce.retry(keys, "2"), False),
        (produce.retry_all, False),
        (produce.resume, True),
        (lambda keys: produce.remove(keys, "3"), True),
        (lambda keys: produce.cancel(keys, "3"), True),
        (lambda keys: produce.cancel(keys, "4"), True),
    ],
)
def test_without_memory_an_operation_is_done_whole_or_not_at_all(
    make_server: Callable[..., Any], keys: QueueKeys, operation: Any, passes: bool
) -> None:
    starved = make_server()
    executor = SyncExecutor(starved.url)
    bench = Bench(executor, starved.client(), keys)
    bench.add(delay=60)
    for _ in range(3):
        bench.add()
    finish(bench, "2", "failed")
    bench.activate("4")
    bench.client.set(keys.lock("4"), "token")
    before = bench.image()
    bench.client.config_set("maxmemory", 1)
    if passes:
        assert bench.run(operation(keys)) in ("ok", "removed", "was_waiting", "was_running")
    else:
        with pytest.raises(StoreRefused):
            bench.run(operation(keys))
        assert bench.image() == before
    executor.close()
    bench.client.close()
