"""What an operator does to many jobs at once, and changes about single ones, as Redis shows it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from worker_bench import DONE, FAILED, Bench

from sandq.errands import maintain as errands
from sandq.errands.step import Errand
from sandq.errors import StoreRefused
from sandq.job import JobState
from sandq.store import maintain, produce, reads, work
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.newjob import Parent, new_job

T = 1_700_000_000_000
HOUR_MS = 3_600_000


def do(bench: Bench, errand: Errand[Any]) -> Any:
    """Run an errand to its end."""
    answer: Any = None
    try:
        while True:
            answer = bench.run(errand.send(answer))
    except StopIteration as stop:
        return stop.value


def counts(bench: Bench) -> dict[str, int]:
    """The states that hold any job."""
    return {state: count for state, count in bench.run(reads.counts(bench.keys)).items() if count}


def names(bench: Bench, dump: Callable[..., Any]) -> set[str]:
    """All keys of the queue but what expires by itself."""
    return {name for name in dump(f"{bench.keys.queue}:") if not name.startswith("sq:")}


def parent_in(bench: Bench, job_id: str, **options: Any) -> Parent:
    """A job that waits for children which are about to be added, and how they name it."""
    parent = Parent(id=bench.add("parent", job_id=job_id, **options), queue=bench.keys.base[:-1])
    bench.client.lrem(bench.keys.key("wait"), 0, job_id)
    bench.client.zrem(bench.keys.key("prioritized"), job_id)
    bench.client.zadd(bench.keys.key("waiting-children"), {job_id: T})
    return parent


def next_run(bench: Bench, place: str, scheduler: str = "nightly") -> str:
    """A schedule's next run, made by hand."""
    run = bench.write_job(f"repeat:{scheduler}:{T}", rjk=scheduler).removeprefix(bench.keys.base)
    bench.client.zadd(bench.keys.key("repeat"), {scheduler: T})
    bench.client.hset(bench.keys.key(f"repeat:{scheduler}"), "name", scheduler)
    if place == "wait":
        bench.client.lpush(bench.keys.key(place), run)
    else:
        bench.client.zadd(bench.keys.key(place), {run: 0})
    return run


# Drain


def test_drain_deletes_what_waits_and_nothing_else(bench: Bench, dump: Callable[..., Any]) -> None:
    bench.add("runs")
    bench.take()
    for options in ({}, {"lifo": True}, {"priority": 3}, {"delay": 60}):
        bench.add(**options)
    bench.run(work.log(bench.keys, "2", "line"))
    assert do(bench, errands.drain(bench.keys)) == 3
    assert counts(bench) == {"active": 1, "delayed": 1}
    assert {name for name in names(bench, dump) if name[0].isdigit()} == {"1", "1:lock", "5"}
    assert bench.events_during(lambda: do(bench, errands.drain(bench.keys))) == []


def test_drain_takes_the_delayed_only_when_asked_to(bench: Bench) -> None:
    bench.add(delay=60)
    assert do(bench, errands.drain(bench.keys)) == 0
    assert do(bench, errands.drain(bench.keys, delayed=True)) == 1
    assert counts(bench) == {}


def test_drain_takes_what_bullmq_5_set_aside(bench: Bench) -> None:
    bench.add()
    bench.client.rename(bench.keys.key("wait"), bench.keys.key("paused"))
    assert do(bench, errands.drain(bench.keys)) == 1
    assert bench.list("paused") == []


@pytest.mark.parametrize("place", ["wait", "prioritized", "delayed"])
def test_drain_keeps_the_next_run_of_every_schedule_wherever_it_stands(bench: Bench, place: str) -> None:
    """BullMQ cuts as many ids off the list's head as it deleted: a run there is lost, and a ghost stays at the tail."""
    options: dict[str, Any] = {"wait": {}, "prioritized": {"priority": 1}, "delayed": {"delay": 60}}[place]
    bench.add(**options)
    first = next_run(bench, place, "one")
    bench.add(**options)
    second = next_run(bench, place, "two")
    bench.add(**options)
    assert do(bench, errands.drain(bench.keys, delayed=True)) == 3
    left = bench.list(place) if place == "wait" else list(bench.zset(place))
    assert sorted(left) == sorted([first, second])
    assert bench.hash(first)["rjk"] == "one"


def test_drain_in_small_pieces_skips_what_it_keeps_and_misses_nothing(bench: Bench) -> None:
    kept = []
    for n in range(4):
        bench.add()
        kept.append(next_run(bench, "wait", f"s{n}"))
        bench.add()
    after: str | None = ""
    rounds = 0
    while after is not None:
        done = bench.run(maintain.drain(bench.keys, "wait", after, limit=3))
        rounds, after = rounds + 1, done.after
    assert (rounds, bench.list("wait")) == (5, kept[::-1])


def test_draining_goes_on_although_what_it_kept_was_claimed_meanwhile(bench: Bench) -> None:
    kept = next_run(bench, "wait")
    bench.add()
    first = bench.run(maintain.drain(bench.keys, "wait", limit=1))
    assert first.after == kept
    assert bench.take().job.id == kept
    assert bench.run(maintain.drain(bench.keys, "wait", first.after, limit=2)) == maintain.Drained(1, None)


def test_an_id_without_a_job_is_drained_but_not_counted(bench: Bench) -> None:
    bench.client.rpush(bench.keys.key("wait"), "ghost")
    assert do(bench, errands.drain(bench.keys)) == 0
    assert bench.list("wait") == []


def test_a_drained_job_gives_up_its_deduplication_id(bench: Bench, dump: Callable[..., Any]) -> None:
    bench.add(deduplication={"id": "S", "ttl": "1h"})
    do(bench, errands.drain(bench.keys))
    assert "de:S" not in names(bench, dump)
    assert bench.add(deduplication="S") == "2"


def test_a_parent_whose_last_child_is_drained_goes_on(bench: Bench) -> None:
    parents = bench.other("parents")
    parent = parent_in(parents, "mother")
    bench.add("child", parent=parent)
    bench.add("child", parent=parent)
    assert parents.events_during(lambda: do(bench, errands.drain(bench.keys))) == [
        "waiting jobId=mother prev=waiting-children"
    ]
    assert (parents.list("wait"), counts(bench)) == (["mother"], {})


def test_a_parent_in_the_drained_queue_is_drained_with_its_last_child(bench: Bench, dump: Callable[..., Any]) -> None:
    grandmother = parent_in(bench, "grandmother")
    mother = parent_in(bench, "mother", parent=grandmother)
    bench.add("child", parent=mother)
    waits = parent_in(bench, "waits")
    bench.add("child", parent=waits, delay=60)
    bench.add("child", parent=waits)
    assert do(bench, errands.drain(bench.keys)) == 4
    assert counts(bench) == {"waiting-children": 1, "delayed": 1}
    assert {name for name in names(bench, dump) if "mother" in name} == set()


# Clean


def finish(bench: Bench, count: int, settlement: Any = DONE) -> None:
    """Jobs that ended one second after the other, the last one now."""
    for n in range(count):
        bench.add()
        job_id = bench.run_one(settlement)
        at = bench.now_ms() - 1000 * (count - n)
        bench.client.hset(bench.keys.key(job_id), "finishedOn", at)
        bench.client.zadd(bench.keys.key(settlement.to.value), {job_id: at})


@pytest.mark.parametrize(("settlement", "state"), [(DONE, "completed"), (FAILED, "failed")])
def test_clean_deletes_what_ended_long_enough_ago(bench: Bench, settlement: Any, state: str) -> None:
    finish(bench, 5, settlement)
    bench.events()
    assert do(bench, errands.clean(bench.keys, state, "2500ms")) == ["1", "2", "3"]
    assert list(bench.zset(state)) == ["4", "5"]
    assert bench.hash("1") == {}
    assert bench.events()[-1] == "cleaned count=3"


def test_clean_says_that_nothing_was_old_enough(bench: Bench) -> None:
    finish(bench, 1)
    assert bench.events_during(lambda: do(bench, errands.clean(bench.keys, "completed", "1h"))) == ["cleaned count=0"]


def test_clean_deletes_no_more_than_the_limit_oldest_first(bench: Bench) -> None:
    finish(bench, 5)
    assert do(bench, errands.clean(bench.keys, "completed", 0, limit=2)) == ["1", "2"]
    for _ in range(3):
        bench.add()
    assert do(bench, errands.clean(bench.keys, JobState.WAITING, 0, limit=2)) == ["6", "7"]


def test_a_limit_counts_what_is_deleted_not_what_is_looked_at(bench: Bench) -> None:
    for n in range(6):
        bench.add(timestamp=T if n > 2 else None)
    assert bench.run(maintain.clean(bench.keys, "wait", HOUR_MS, 2)) == maintain.Cleaned(("4", "5"), "3")


@pytest.mark.parametrize(
    ("state", "options"), [("waiting", {}), ("prioritized", {"priority": 2}), ("delayed", {"delay": HOUR_MS})]
)
def test_the_age_of_a_job_that_waits_counts_from_its_adding(bench: Bench, state: str, options: dict[str, Any]) -> None:
    old = bench.now_ms() - HOUR_MS
    bench.add(timestamp=old, **options)
    bench.add(**options)
    bench.add(timestamp=old, **options)
    kept = next_run(bench, "wait" if state == "waiting" else state)
    assert do(bench, errands.clean(bench.keys, state, "30m")) == ["1", "3"]
    assert counts(bench) == {state: 2}
    assert bench.hash(kept)["timestamp"] == "1"


def test_ages_are_compared_as_numbers(bench: Bench) -> None:
    """BullMQ compares them as texts: a timestamp of fewer digits would count as younger."""
    bench.add(timestamp=999)
    assert do(bench, errands.clean(bench.keys, "waiting", "1h")) == ["1"]


def test_a_job_that_ran_before_is_as_old_as_its_last_run(bench: Bench) -> None:
    bench.add(timestamp=T)
    taken = bench.take()
    bench.lose_lock(taken.job.id)
    assert do(bench, errands.clean(bench.keys, "active", "1h")) == []
    assert do(bench, errands.clean(bench.keys, "active", 0)) == ["1"]


def test_a_running_job_is_never_cleaned(bench: Bench) -> None:
    bench.add(timestamp=T)
    taken = bench.take()
    assert do(bench, errands.clean(bench.keys, "active", 0)) == []
    assert bench.settle(taken, DONE).word == "ok"


def test_a_job_of_unknown_age_is_cleaned_only_by_who_cleans_all(bench: Bench) -> None:
    bench.client.hset(bench.keys.key("foreign"), "name", "page")
    bench.client.lpush(bench.keys.key("wait"), "foreign")
    assert do(bench, errands.clean(bench.keys, "waiting", "1ms")) == []
    assert do(bench, errands.clean(bench.keys, "waiting", 0)) == ["foreign"]


def test_cleaning_in_small_pieces_finds_the_old_among_the_young(bench: Bench) -> None:
    for n in range(10):
        bench.add(timestamp=T if n % 3 == 0 else None)
    found, after, again = [], None, True
    while again:
        done = bench.run(maintain.clean(bench.keys, "wait", HOUR_MS, after=after, limit=2))
        found, after, again = [*found, *done.ids], done.after, done.after is not None
    assert found == ["1", "4", "7", "10"]
    assert [event for event in bench.events() if event.startswith("cleaned")] == ["cleaned count=1"] * 4


def test_a_parent_is_not_deleted_with_a_cleaned_child(bench: Bench) -> None:
    """BullMQ deletes a parent in the same queue together with its last pending child."""
    mother = parent_in(bench, "mother", priority=4)
    bench.add("child", parent=mother)
    bench.run_one(FAILED)
    do(bench, errands.clean(bench.keys, "failed", 0))
    assert bench.run(reads.state(bench.keys, "mother")) in (JobState.WAITING, JobState.PRIORITIZED)
    assert bench.take().job.id == "mother"


# Obliterate


def fill(bench: Bench) -> None:
    """A queue with something in every state, and whatever else belongs to jobs."""
    bench.add("done", deduplication={"id": "D", "ttl": "1h"})
    bench.run_one(DONE, metrics_points=5)
    bench.add("bad")
    bench.run_one(FAILED, metrics_points=5)
    mother = parent_in(bench, "mother")
    bench.add("child", parent=mother, delay=60)
    bench.add(priority=3)
    bench.add(deduplication="S")
    bench.run(work.log(bench.keys, "1", "line"))
    next_run(bench, "delayed")
    bench.run(maintain.limit_for(bench.keys, 60_000))
    bench.client.sadd(bench.keys.key("stalled"), "x")
    bench.client.set(bench.keys.key("stalled-check"), "1")


@pytest.mark.parametrize("limit", [1000, 2])
def test_an_obliterated_queue_leaves_nothing(bench: Bench, dump: Callable[..., Any], limit: int) -> None:
    """BullMQ leaves the jobs that wait for children, and the limiter."""
    fill(bench)
    words = [bench.run(maintain.obliterate(bench.keys, limit=limit))]
    while words[-1] == "more":
        words.append(bench.run(maintain.obliterate(bench.keys, limit=limit)))
    assert words[-1] == "ok"
    assert len(words) == (1 if limit == 1000 else 4)  # its child takes the parent along
    assert names(bench, dump) == set()
    assert bench.add() == "1"


def test_a_queue_with_running_jobs_is_obliterated_only_by_force(bench: Bench, dump: Callable[..., Any]) -> None:
    bench.add()
    taken = bench.take()
    before = dump()
    assert bench.run(maintain.obliterate(bench.keys)) == "active"
    assert dump() == before
    assert bench.run(maintain.obliterate(bench.keys, force=True)) == "ok"
    assert names(bench, dump) == set()
    assert bench.settle(taken, DONE).word == "lost"
    assert names(bench, dump) == set()


def test_nothing_is_claimed_from_a_queue_that_is_being_obliterated(bench: Bench) -> None:
    for _ in range(3):
        bench.add()
    assert bench.run(maintain.obliterate(bench.keys, limit=2)) == "more"
    assert (bench.claim().why, bench.zset("marker")) == ("paused", {})


def test_a_parent_elsewhere_goes_on_when_its_childrens_queue_is_obliterated(bench: Bench) -> None:
    parents = bench.other("parents")
    bench.add("child", parent=parent_in(parents, "mother"))
    bench.run(maintain.obliterate(bench.keys))
    assert parents.take().job.id == "mother"


# Promote all


def test_all_delayed_jobs_are_promoted_each_to_where_its_priority_puts_it(bench: Bench) -> None:
    """BullMQ puts them all into wait, and leaves their `delay` as it was."""
    for n in range(2):
        bench.add(timestamp=T, delay=60 + n)
    bench.add(delay=60, priority=5)
    bench.add(delay=60, priority=2)
    bench.client.delete(bench.keys.key("marker"))
    events = bench.events_during(lambda: do(bench, errands.promote_all(bench.keys)))
    assert events == [f"waiting jobId={n} prev=delayed" for n in (1, 2, 3, 4)]
    assert (bench.list("wait"), list(bench.zset("prioritized"))) == (["2", "1"], ["4", "3"])
    assert {bench.hash(str(n))["delay"] for n in (1, 2, 3, 4)} == {"0"}
    assert bench.zset("marker") == {"0": 0}
    assert [bench.take().job.id for _ in range(4)] == ["1", "2", "4", "3"]


def test_promoting_all_ends_although_others_go_on_delaying(bench: Bench) -> None:
    for _ in range(4):
        bench.add(delay=60)
    done = bench.run(maintain.promote_all(bench.keys, limit=3))
    assert done == maintain.Moved(3, 1)
    for _ in range(3):
        bench.add(delay=30)
    assert bench.run(maintain.promote_all(bench.keys, done.left, limit=3)) == maintain.Moved(1, 0)
    assert counts(bench) == {"waiting": 4, "delayed": 3}


def test_an_id_without_a_job_is_not_promoted(bench: Bench) -> None:
    bench.client.zadd(bench.keys.key("delayed"), {"ghost": 1})
    assert do(bench, errands.promote_all(bench.keys)) == 0
    assert counts(bench) == {}
    assert do(bench, errands.promote_all(bench.keys)) == 0


# Priority and delay


def test_a_waiting_job_moves_to_where_its_new_priority_puts_it(bench: Bench) -> None:
    for _ in range(3):
        bench.add()
    bench.add(priority=5)
    assert bench.run(maintain.change_priority(bench.keys, "1", 5)) == "ok"
    assert (bench.list("wait"), list(bench.zset("prioritized"))) == (["3", "2"], ["4", "1"])
    assert bench.hash("1")["priority"] == "5"
    bench.run(maintain.change_priority(bench.keys, "1", 5, lifo=True))
    assert list(bench.zset("prioritized")) == ["1", "4"]
    bench.run(maintain.change_priority(bench.keys, "4", 0))
    bench.run(maintain.change_priority(bench.keys, "1", 0, lifo=True))
    assert bench.list("wait") == ["4", "3", "2", "1"]


@pytest.mark.parametrize(("lifo", "marked"), [(False, {"0": 0}), (True, {})])
def test_a_worker_is_woken_for_a_job_that_took_a_new_place(bench: Bench, lifo: bool, marked: dict[str, int]) -> None:
    bench.add()
    bench.client.delete(bench.keys.key("marker"))
    bench.run(maintain.change_priority(bench.keys, "1", 2, lifo=lifo))
    assert bench.zset("marker") == marked


def test_a_job_that_does_not_wait_takes_its_new_priority_along(bench: Bench) -> None:
    bench.add(delay=60)
    bench.run(maintain.change_priority(bench.keys, "1", 7))
    assert counts(bench) == {"delayed": 1}
    bench.run(produce.promote(bench.keys, "1"))
    assert bench.zset("prioritized") == {"1": 7 * 2**32 + 1}


def test_a_changed_delay_counts_from_now(bench: Bench) -> None:
    bench.add(timestamp=T, delay=60)
    bench.add(delay=3600)
    before = bench.now_ms()
    assert bench.run(maintain.change_delay(bench.keys, "1", 5000)) == "ok"
    due = bench.zset("delayed")["1"] // 4096
    assert before + 5000 <= due <= bench.now_ms() + 5000
    assert (bench.hash("1")["delay"], bench.zset("marker")) == ("5000", {"1": due})
    assert bench.events()[-1] == f"delayed jobId=1 delay={due}"


def test_what_is_not_there_or_not_delayed_is_said(bench: Bench) -> None:
    bench.add()
    assert bench.run(maintain.change_delay(bench.keys, "1", 1)) == "not-delayed"
    for operation in (
        maintain.change_delay(bench.keys, "2", 1),
        maintain.change_priority(bench.keys, "2", 1),
        maintain.clear_logs(bench.keys, "2"),
    ):
        assert bench.run(operation) == "missing"
    assert bench.hash("2") == {}


# Logs, deduplication, events


def test_a_cleared_log_keeps_its_newest_lines_or_none(bench: Bench) -> None:
    bench.add()
    bench.run(work.log_lines(bench.keys, "1", ["a", "b", "c"]))
    bench.run(maintain.clear_logs(bench.keys, "1", keep=2))
    assert bench.list("1:logs") == ["b", "c"]
    bench.run(maintain.clear_logs(bench.keys, "1"))
    assert bench.list("1:logs") == []


def test_a_forgotten_deduplication_id_can_be_used_again(bench: Bench) -> None:
    bench.add(deduplication="S")
    assert bench.run(maintain.forget_deduplication(bench.keys, "S"))
    assert not bench.run(maintain.forget_deduplication(bench.keys, "S"))
    assert bench.add(deduplication="S") == "2"


def test_trimmed_events_are_exactly_as_many_as_asked_for(bench: Bench) -> None:
    """BullMQ trims whole nodes of the stream: of 500 entries 100 stay where 5 were asked for."""
    for _ in range(250):
        bench.add()
    newest = bench.events()[-5:]
    assert do(bench, errands.trim_events(bench.keys, 5)) == 495
    assert bench.events() == newest
    assert do(bench, errands.trim_events(bench.keys, 5)) == 0


# All of them

OPERATIONS: dict[str, Callable[[QueueKeys], Any]] = {
    "drain": lambda keys: maintain.drain(keys, "wait"),
    "drain delayed": lambda keys: maintain.drain(keys, "delayed"),
    "clean": lambda keys: maintain.clean(keys, "failed", 0),
    "obliterate": lambda keys: maintain.obliterate(keys, force=True),
    "promote_all": maintain.promote_all,
    "change_priority": lambda keys: maintain.change_priority(keys, "2", 3),
    "change_delay": lambda keys: maintain.change_delay(keys, "1", 5000),
    "clear_logs": lambda keys: maintain.clear_logs(keys, "2"),
    "forget_deduplication": lambda keys: maintain.forget_deduplication(keys, "S"),
    "set_concurrency": lambda keys: maintain.set_concurrency(keys, 3),
    "set_rate_limit": lambda keys: maintain.set_rate_limit(keys, 3, 1000),
    "limit_for": lambda keys: maintain.limit_for(keys, 60_000),
    "trim_events": lambda keys: maintain.trim_events(keys, 1),
}
GROWING = {
    "promote_all",
    "change_priority",
    "change_delay",
    "set_concurrency",
    "set_rate_limit",
    "limit_for",
}


def prepare(bench: Bench) -> None:
    bench.add("bad")
    bench.run_one(FAILED)
    bench.client.delete(bench.keys.key("id"))
    bench.client.rename(bench.keys.key("1"), bench.keys.key("old"))
    bench.client.zrem(bench.keys.key("failed"), "1")
    bench.client.zadd(bench.keys.key("failed"), {"old": T})
    bench.add(delay=60)
    bench.add(deduplication="S")
    bench.run(work.log(bench.keys, "2", "line"))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_repeated_operation_changes_nothing_and_answers_the_same(
    bench: Bench, repeat: Callable[..., Any], dump: Callable[..., Any], name: str
) -> None:
    prepare(bench)
    operation = OPERATIONS[name](bench.keys)
    first, after = repeat(operation, "op-1"), dump()
    assert repeat(operation, "op-1") == first
    assert dump() == after


@pytest.mark.parametrize("name", ["drain", "clean", "obliterate", "promote_all", "change_priority", "change_delay"])
def test_an_operation_that_meets_a_foreign_type_changes_nothing(
    bench: Bench, dump: Callable[..., Any], name: str
) -> None:
    prepare(bench)
    bench.client.delete(bench.keys.key("marker"))
    bench.client.set(bench.keys.key("marker"), "none of ours")
    before = dump()
    with pytest.raises(StoreRefused):
        bench.run(OPERATIONS[name](bench.keys))
    assert dump() == before


@pytest.mark.parametrize("name", ["drain", "obliterate"])
def test_a_parent_of_a_foreign_type_keeps_its_childrens_queue_whole(
    bench: Bench, dump: Callable[..., Any], name: str
) -> None:
    bench.add()
    bench.add("child", parent=parent_in(bench.other("parents"), "mother"))
    bench.client.set(bench.other("parents").keys.key("delayed"), "none of ours")
    before = dump()
    with pytest.raises(StoreRefused):
        bench.run(OPERATIONS[name](bench.keys))
    assert dump() == before


def test_without_memory_what_frees_some_is_done_and_the_rest_not_at_all(
    make_server: Callable[..., Any], keys: QueueKeys
) -> None:
    server = make_server()
    executor, client = SyncExecutor(server.url), server.client()
    for name, operation in OPERATIONS.items():
        client.config_set("maxmemory", 0)
        client.flushall()
        bench = Bench(keys, executor, client)
        prepare(bench)
        before = {key: client.dump(key) for key in client.scan_iter()}
        bench.pause_writes()
        if name in GROWING:
            with pytest.raises(StoreRefused):
                bench.run(operation(keys))
            assert {key: client.dump(key) for key in client.scan_iter()} == before
        else:
            bench.run(operation(keys))
    executor.close()
    client.close()


def test_chunks_of_jobs_are_drained_by_the_thousand(bench: Bench) -> None:
    for chunk in produce.chunks([new_job("page") for _ in range(1500)]):
        bench.run(produce.add(bench.keys, chunk))
    assert do(bench, errands.drain(bench.keys)) == 1500
