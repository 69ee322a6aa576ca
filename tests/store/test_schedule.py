"""Schedules as a producer makes, changes and ends them, and what becomes of them when workers vanish."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worker_bench import DONE, RETRY, Bench

from sandq.client import drive
from sandq.errands import scheduler as errands
from sandq.errors import QueueError, StoreRefused
from sandq.store import produce, schedule, work
from sandq.store.plan import new_plan
from sandq.store.schedule import Scheduler

EVERY = 20_000
YEARLY = "0 0 1 1 *"


def upsert(bench: Bench, scheduler_id: str = "ev", **asked: Any) -> Scheduler:
    return drive(errands.upsert_scheduler(bench.keys, scheduler_id, **asked), bench.run)


def found(bench: Bench, scheduler_id: str = "ev") -> Scheduler:
    return drive(errands.scheduler(bench.keys, scheduler_id), bench.run)


def claim(bench: Bench) -> work.Taken:
    """Claim the next iteration and make the one after it, as a supervisor does."""
    taken = bench.take()
    owed = work.iterate(bench.keys, taken.job, taken.token)
    if owed is not None:
        bench.run(owed)
    return taken


def opts_of(bench: Bench, job_id: str | None) -> dict[str, Any]:
    assert job_id is not None
    opts: dict[str, Any] = json.loads(bench.hash(job_id)["opts"])
    return opts


def next_year(bench: Bench) -> int:
    year = datetime.fromtimestamp(bench.now_ms() / 1000, UTC).year + 1
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)


# Intervals


def test_an_interval_runs_at_once_and_is_stored_as_bullmq_stores_it(bench: Bench, dump: Any) -> None:
    made = upsert(bench, every="20s", limit=3, name="tick", data={"a": 1}, attempts=2, priority=3)
    time = made.next_ms
    assert time is not None
    job_id = f"repeat:ev:{time}"
    assert dump("render:").keys() - {"sq:op"} >= {
        "id",
        "repeat",
        "repeat:ev",
        job_id,
        "prioritized",
        "marker",
        "events",
    }
    assert bench.zset("repeat") == {"ev": time}
    assert bench.hash("repeat:ev") == {
        "name": "tick",
        "limit": "3",
        "every": "20000",
        "offset": str(time % EVERY),
        "opts": '{"attempts":2,"priority":3}',
        "data": '{"a":1}',
        "ic": "1",
    }
    opts = bench.hash(job_id).pop("opts")
    assert bench.hash(job_id) == {
        "name": "tick",
        "data": '{"a":1}',
        "opts": opts,
        "timestamp": str(time),
        "delay": "0",
        "priority": "3",
        "rjk": "ev",
    }
    assert json.loads(opts) == {
        "attempts": 2,
        "priority": 3,
        "repeat": {"every": EVERY, "limit": 3, "count": 1},
        "repeatJobKey": "ev",
        "jobId": job_id,
        "delay": 0,
        "timestamp": time,
    }
    assert bench.events() == [f"added jobId={job_id} name=tick", f"waiting jobId={job_id}"]
    assert (bench.zset("marker"), bench.client.get(bench.keys.key("id"))) == ({"0": 0}, b"1")


def test_a_schedule_without_a_template_is_named_after_itself_and_has_no_data(bench: Bench) -> None:
    made = upsert(bench, every="20s")
    assert bench.hash("repeat:ev").keys() == {"name", "every", "offset", "ic"}
    assert bench.hash(str(made.job_id))["name"] == "ev"
    assert opts_of(bench, made.job_id).keys() == {"repeat", "repeatJobKey", "jobId", "delay", "timestamp"}


def test_an_interval_with_a_start_to_come_begins_there(bench: Bench) -> None:
    start = bench.now_ms() + 50_000
    made = upsert(bench, every="20s", start=start)
    assert (made.next_ms, bench.zset("delayed")) == (start, {made.job_id: start * 4096})
    assert bench.hash("repeat:ev")["offset"] == str(start % EVERY)


def test_an_interval_whose_start_is_over_runs_at_once(bench: Bench) -> None:
    now = bench.now_ms()
    made = upsert(bench, every="20s", start=datetime.fromtimestamp(now / 1000 - 60, UTC))
    assert made.next_ms is not None
    assert made.next_ms >= now


@pytest.mark.parametrize("offset_ms", [0, 50, 19_999])
def test_an_interval_with_an_offset_keeps_to_it(bench: Bench, offset_ms: int) -> None:
    now = bench.now_ms()
    made = upsert(bench, every="20s", offset=offset_ms / 1000)
    assert made.next_ms is not None
    assert made.next_ms % EVERY == offset_ms
    assert now < made.next_ms <= bench.now_ms() + EVERY
    bench.run(produce.promote(bench.keys, str(made.job_id)))
    claim(bench)
    assert bench.zset("repeat") == {"ev": made.next_ms + EVERY}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 10**10).flatmap(lambda every: st.tuples(st.just(every), st.integers(0, every - 1))))
def test_any_interval_with_any_offset_runs_in_step_within_one_period(bench: Bench, shape: tuple[int, int]) -> None:
    every, offset = shape
    before = bench.now_ms()
    bench.run(schedule.remove(bench.keys, "ev"))
    time = upsert(bench, every=every / 1000, offset=offset / 1000).next_ms
    assert time is not None
    assert time % every == offset
    assert before < time <= bench.now_ms() + every


def test_an_interval_passes_over_slots_that_have_jobs(bench: Bench) -> None:
    start = bench.now_ms() + 50_000
    for step in range(3):
        bench.write_job(f"repeat:ev:{start + step * EVERY}")
    assert upsert(bench, every="20s", start=start).next_ms == start + 3 * EVERY


def test_an_interval_without_a_free_slot_is_refused_and_writes_nothing(bench: Bench, dump: Any) -> None:
    start = bench.now_ms() + 50_000
    for step in range(32):
        bench.write_job(f"repeat:ev:{start + step * EVERY}")
    before = dump()
    with pytest.raises(QueueError, match="all its next times have jobs already"):
        upsert(bench, every="20s", start=start)
    assert dump() == before


# Patterns


def test_a_pattern_is_stored_with_its_zone_and_runs_when_it_matches(bench: Bench) -> None:
    time, end = next_year(bench), bench.now_ms() + 10**12
    made = upsert(bench, cron=YEARLY, limit=4, end=end, name="yearly", data={"c": []})
    assert made.next_ms == time
    assert bench.hash("repeat:ev") == {
        "name": "yearly",
        "tz": "UTC",
        "limit": "4",
        "pattern": YEARLY,
        "endDate": str(end),
        "offset": "0",
        "data": '{"c":[]}',
        "ic": "1",
    }
    opts = opts_of(bench, made.job_id)
    assert opts["prevMillis"] == time
    assert opts["repeat"] == {"pattern": YEARLY, "tz": "UTC", "limit": 4, "endDate": end, "count": 1}
    assert bench.zset("delayed") == {made.job_id: time * 4096}


def test_a_pattern_begins_at_its_start_even_if_that_very_moment_matches(bench: Bench) -> None:
    start = bench.now_ms() // 60_000 * 60_000 + 10 * 60_000
    assert upsert(bench, cron="* * * * *", start=start).next_ms == start


def test_a_pattern_may_run_at_once_and_then_when_it_matches(bench: Bench) -> None:
    before = bench.now_ms()
    made = upsert(bench, cron=YEARLY, immediately=True)
    assert made.next_ms is not None
    assert before <= made.next_ms <= bench.now_ms()
    assert bench.list("wait") == [made.job_id]
    claim(bench)
    assert bench.zset("repeat") == {"ev": next_year(bench)}


def test_times_that_were_over_when_they_arrived_are_asked_for_anew(bench: Bench, dump: Any) -> None:
    plan = new_plan("ev", cron="* * * * * *")
    before = dump()
    answer = bench.run(schedule.upsert(bench.keys, plan, plan.runs_after(bench.now_ms() - 60_000)))
    assert answer.word == "again"
    assert dump() == before
    assert bench.run(schedule.upsert(bench.keys, plan, plan.runs_after(answer.now_ms))).word == "ok"


def test_a_pattern_whose_next_time_ran_already_takes_the_one_after(bench: Bench) -> None:
    # BullMQ would overwrite the job that was promoted, or refuse the schedule.
    made = upsert(bench, cron="0 4 * * *")
    bench.run(produce.promote(bench.keys, str(made.job_id)))
    claim(bench)
    assert made.next_ms is not None
    again = upsert(bench, cron="0 4 * * *", name="other")
    assert again.next_ms == made.next_ms + 24 * 3600 * 1000
    assert bench.hash(str(made.job_id))["name"] == "ev"
    fresh = upsert(bench, cron="0 0,4 * * *")
    assert fresh.next_ms != made.next_ms


def test_a_pattern_whose_next_times_all_ran_is_still_taken_on(bench: Bench) -> None:
    runs = new_plan("ev", cron="0 4 * * *").runs_after(bench.now_ms())
    for run in runs:
        bench.write_job(f"repeat:ev:{run}")
    assert upsert(bench, cron="0 4 * * *").next_ms == runs[-1] + 24 * 3600 * 1000


# Changing a schedule


def test_a_second_upsert_replaces_the_pending_iteration_and_keeps_its_slot(bench: Bench) -> None:
    first = upsert(bench, every="20s", data={"a": 1})
    events = bench.events_during(lambda: upsert(bench, every="20s", name="other", data={"a": 2}, attempts=4))
    assert bench.list("wait") == [first.job_id]
    assert bench.hash(str(first.job_id))["data"] == '{"a":2}'
    assert opts_of(bench, first.job_id)["attempts"] == 4
    assert bench.hash("repeat:ev")["offset"] == str((first.next_ms or 0) % EVERY)
    assert events == [f"added jobId={first.job_id} name=other", f"waiting jobId={first.job_id}"]


def test_a_second_upsert_forgets_what_it_does_not_say_again(bench: Bench) -> None:
    upsert(bench, every="20s", limit=3, end=bench.now_ms() + 10**9, data={"a": 1}, attempts=2)
    upsert(bench, every="20s")
    assert bench.hash("repeat:ev").keys() == {"name", "every", "offset", "ic"}


def test_iterations_are_counted_on_over_upserts_and_a_limit_from_each(bench: Bench) -> None:
    upsert(bench, every="20s", limit=2)
    claim(bench)
    made = upsert(bench, every="20s", limit=2)
    assert (made.iterations, bench.hash("repeat:ev")["ic"]) == (2, "2")
    assert opts_of(bench, made.job_id)["repeat"]["count"] == 1


def test_an_upsert_on_a_paused_queue_leaves_one_iteration(bench: Bench) -> None:
    # BullMQ looks for the pending one in a list that it no longer uses, and adds a second.
    bench.run(produce.pause(bench.keys))
    first = upsert(bench, every="20s")
    second = upsert(bench, every="20s", name="other")
    assert second.job_id == first.job_id
    assert (bench.list("wait"), bench.zset("delayed"), bench.zset("marker")) == ([first.job_id], {}, {})


def test_an_iteration_that_bullmq_5_set_aside_is_replaced(bench: Bench) -> None:
    first = upsert(bench, every="20s")
    bench.client.rename(bench.keys.key("wait"), bench.keys.key("paused"))
    upsert(bench, every="20s")
    assert (bench.list("wait"), bench.list("paused")) == ([first.job_id], [])


def test_a_changed_interval_begins_anew_in_a_phase_of_its_own(bench: Bench) -> None:
    # BullMQ would keep the phase of the old period, which may be longer than the new one.
    upsert(bench, every="20s")
    made = upsert(bench, every="700ms")
    assert bench.hash("repeat:ev")["offset"] == str((made.next_ms or 0) % 700)
    assert bench.list("wait") == [made.job_id]


def test_a_changed_offset_takes_effect_with_the_next_run(bench: Bench) -> None:
    upsert(bench, every="20s")
    made = upsert(bench, every="20s", offset="77ms")
    assert (made.next_ms or 0) % EVERY == 77
    assert bench.list("wait") == []
    assert upsert(bench, every="20s", offset="77ms").next_ms == made.next_ms


def test_a_later_start_moves_the_pending_run(bench: Bench) -> None:
    start = bench.now_ms() + 99_000
    upsert(bench, every="20s")
    assert upsert(bench, every="20s", start=start).next_ms == start
    assert bench.hash("repeat:ev")["offset"] == str(start % EVERY)
    assert upsert(bench, every="20s", start=start).next_ms == start


def test_an_interval_becomes_a_pattern(bench: Bench) -> None:
    upsert(bench, every="20s")
    made = upsert(bench, cron=YEARLY)
    assert made.next_ms == next_year(bench)
    assert bench.list("wait") == []
    assert bench.hash("repeat:ev") == {"name": "ev", "tz": "UTC", "pattern": YEARLY, "offset": "0", "ic": "1"}


def test_a_due_run_of_a_pattern_is_not_lost_by_an_upsert(bench: Bench) -> None:
    made = upsert(bench, cron=YEARLY, immediately=True)  # due, and nobody has come for it yet
    again = upsert(bench, cron=YEARLY, name="deployed")
    assert (again.job_id, bench.list("wait")) == (made.job_id, [made.job_id])
    assert bench.hash(str(made.job_id))["name"] == "deployed"


def test_an_upsert_beside_a_running_iteration_leaves_one_pending(bench: Bench) -> None:
    upsert(bench, every="20s")
    running = bench.take()  # its next iteration is owed, not made
    made = upsert(bench, every="20s")
    assert made.next_ms == int(running.job.id.rpartition(":")[2]) + EVERY
    owed = work.iterate(bench.keys, running.job, running.token)
    assert owed is not None
    assert bench.run(owed) == "not-current"
    assert bench.zset("delayed").keys() == {made.job_id}


def test_a_schedule_that_was_over_goes_on_after_an_upsert(bench: Bench) -> None:
    upsert(bench, every="20s", limit=1)
    bench.settle(claim(bench), DONE)
    over = found(bench)
    assert (over.next_ms, over.job_id, over.next_run) == (None, None, None)
    made = upsert(bench, every="20s")
    assert found(bench).next_ms == made.next_ms
    assert bench.zset("delayed").keys() == {made.job_id}


def test_a_replaced_iteration_takes_its_deduplication_window_with_it(bench: Bench) -> None:
    made = upsert(bench, every="20s")
    bench.client.hset(bench.keys.key(str(made.job_id)), "deid", "d")
    bench.client.set(bench.keys.key("de:d"), str(made.job_id))
    upsert(bench, every="20s")
    assert not bench.client.exists(bench.keys.key("de:d"))


def test_a_repeated_upsert_makes_one_schedule(bench: Bench, repeat: Any, dump: Any) -> None:
    operation = schedule.upsert(bench.keys, new_plan("ev", every="20s"), ())
    first = repeat(operation, "op1")
    before = dump()
    assert repeat(operation, "op1") == first
    assert dump() == before


# The end


def test_nothing_is_made_to_run_after_the_end(bench: Bench) -> None:
    # BullMQ would let one more iteration run.
    upsert(bench, every="20s", end=bench.now_ms() + 19_000)
    taken = bench.take()
    owed = work.iterate(bench.keys, taken.job, taken.token)
    assert owed is not None
    assert bench.run(owed) == "ended"
    assert bench.zset("delayed") == {}


@pytest.mark.parametrize("asked", [{"every": "20s", "offset": 0}, {"cron": YEARLY}])
def test_a_schedule_that_would_never_run_is_refused_and_writes_nothing(
    bench: Bench, dump: Any, asked: dict[str, Any]
) -> None:
    bench.add()
    before = dump()
    with pytest.raises(QueueError, match=r"would never run: it ends .*, before its first run"):
        upsert(bench, **asked, end=bench.now_ms())
    assert dump() == before


def test_an_interval_runs_as_often_as_its_limit_says(bench: Bench) -> None:
    upsert(bench, every="20s", limit=2)
    bench.settle(claim(bench), DONE)
    (second,) = bench.zset("delayed")
    bench.run(produce.promote(bench.keys, second))
    bench.settle(claim(bench), DONE)
    assert bench.zset("delayed") == {}
    assert (found(bench).next_ms, found(bench).iterations) == (None, 2)


# Removing


def test_a_removed_schedule_takes_its_delayed_iteration_with_it(bench: Bench, dump: Any) -> None:
    made = upsert(bench, cron=YEARLY)
    events = bench.events_during(lambda: bench.run(schedule.remove(bench.keys, "ev")))
    assert events == [f"removed jobId={made.job_id} prev=delayed"]
    assert not [key for key in dump("render:") if key.startswith(("repeat", "delayed"))]
    assert bench.run(schedule.remove(bench.keys, "ev")) == "missing"


def test_a_removed_schedule_leaves_a_run_that_waits_already(bench: Bench) -> None:
    made = upsert(bench, every="20s")
    assert bench.run(schedule.remove(bench.keys, "ev")) == "removed"
    assert bench.list("wait") == [made.job_id]
    bench.settle(claim(bench), DONE)
    assert bench.zset("delayed") == {}


def test_removing_by_the_name_of_an_iteration_removes_nothing(bench: Bench, dump: Any) -> None:
    made = upsert(bench, cron=YEARLY)
    before = dump()
    assert bench.run(schedule.remove(bench.keys, f"ev:{made.next_ms}")) == "missing"
    assert dump() == before


# Looking


def test_schedules_are_listed_by_their_next_run(bench: Bench) -> None:
    for number in (3, 1, 2):
        upsert(bench, f"s{number}", every="1h", start=bench.now_ms() + number * 60_000, data={"n": number})
    pages = [bench.run(schedule.page(bench.keys, start, 2)) for start in (0, 2, 4)]
    assert [[each.id for each in page] for page in pages] == [["s1", "s2"], ["s3"], []]
    assert [page.places for page in pages] == [2, 1, 0]
    assert [each.data for each in pages[0]] == [{"n": 1}, {"n": 2}]
    assert bench.run(schedule.count(bench.keys)) == 3


@pytest.mark.parametrize(
    "asked",
    [
        {"every": "20s", "limit": 3, "data": [1], "attempts": 2, "timeout": "5s"},
        {"cron": YEARLY, "tz": "Europe/Berlin", "start": 10**12, "end": 10**13, "name": "tick"},
    ],
)
def test_what_upsert_answers_is_what_is_found_later(bench: Bench, asked: dict[str, Any]) -> None:
    assert upsert(bench, **asked) == found(bench)


def test_a_record_that_somebody_spoiled_is_shown_with_defaults(bench: Bench) -> None:
    bench.client.zadd(bench.keys.key("repeat"), {"bad": 1000, "none": 2000})
    bench.client.hset(bench.keys.key("repeat:bad"), mapping={"every": "soon", "opts": "[", "ic": "x"})
    [shown] = bench.run(schedule.page(bench.keys))
    assert shown == Scheduler(id="bad", name="bad", next_ms=None, iterations=0)


# Faults


@pytest.mark.parametrize("suffix", ["repeat:ev", "repeat", "delayed", "id"])
def test_a_foreign_type_in_the_way_writes_nothing(bench: Bench, dump: Any, suffix: str) -> None:
    bench.client.xadd(bench.keys.key(suffix), {"a": "b"})
    before = dump()
    with pytest.raises(StoreRefused):
        upsert(bench, every="20s")
    assert dump() == before


def test_a_redis_without_memory_keeps_the_schedule_it_has(starved: Bench) -> None:
    made = upsert(starved, every="20s", data={"a": 1})
    starved.pause_writes()
    with pytest.raises(StoreRefused):
        upsert(starved, every="20s", data={"a": 2})
    assert found(starved) == made
    assert starved.hash(str(made.job_id))["data"] == '{"a":1}'


@pytest.mark.parametrize("again", [1, 3], ids=["once", "more often than any limit"])
def test_a_schedule_goes_on_when_workers_vanish_between_a_claim_and_the_next_iteration(
    bench: Bench, again: int
) -> None:
    made = upsert(bench, every="20s")
    for _ in range(again):
        taken = bench.take()
        bench.check_stalled()  # it is a suspect now
        bench.lose_lock(taken.job.id)
        assert bench.check_stalled() == (made.job_id,)
    assert claim(bench).job.id == made.job_id
    assert bench.zset("repeat") == {"ev": (made.next_ms or 0) + EVERY}


def test_a_retried_iteration_makes_no_second_next_one(bench: Bench) -> None:
    upsert(bench, every="20s", attempts=3)
    bench.settle(claim(bench), RETRY)
    pending = bench.zset("delayed")
    claim(bench)
    assert bench.zset("delayed") == pending
    assert len(pending) == 1


# What is refused before Redis hears of it


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "give either every or cron"),
        ({"every": "1s", "cron": "* * * * *"}, "give either every or cron"),
        ({"every": "1 fortnight"}, "every: '1 fortnight' is not a duration"),
        ({"every": 0}, "out of range"),
        ({"every": float("nan")}, "not finite"),
        ({"cron": "61 * * * *"}, "cannot be read"),
        ({"cron": "0 0 30 2 *"}, "cannot be read: Bad day-of-month"),
        ({"cron": "* * * * *", "tz": "Mars/Base"}, "time zone 'Mars/Base' is not known"),
        ({"every": "1s", "tz": "UTC"}, "tz goes with cron"),
        ({"cron": "* * * * *", "offset": "1s"}, "offset goes with every"),
        ({"every": "1s", "offset": "1s"}, "offset must be shorter than every"),
        ({"every": "9s", "offset": "1s", "start": 1}, "start and offset"),
        ({"every": "9s", "immediately": True, "start": 1}, "immediately and start"),
        ({"every": "9s", "immediately": True, "offset": "1s"}, "immediately and offset"),
        ({"every": "1s", "limit": 0}, "limit 0 must be a whole number from 1"),
        ({"every": "1s", "limit": True}, "limit True must be"),
        ({"every": "1s", "start": datetime(2030, 1, 1)}, "has no time zone"),  # noqa: DTZ001
        ({"every": "1s", "start": 10**15}, "is no moment"),
        ({"every": "1s", "end": "tomorrow"}, "is no moment"),
        ({"every": "1s", "start": 2000, "end": 1000}, "ends before it starts"),
        ({"every": "1s", "delay": "1s", "job_id": "x"}, "delay, job_id cannot hold for every iteration"),
        ({"every": "1s", "data": float("inf")}, "not JSON"),
        ({"every": "1s", "priority": -1}, "priority"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_with_the_reason(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(QueueError, match=told):
        new_plan("ev", **asked)


@pytest.mark.parametrize("scheduler_id", ["", "a:b", "a\ud800", "a\n", 7])
def test_an_id_that_could_not_be_part_of_a_key_is_refused(scheduler_id: Any) -> None:
    with pytest.raises(QueueError, match="scheduler id"):
        new_plan(scheduler_id, every="1s")


def test_a_schedule_that_is_not_there_is_told_of(bench: Bench) -> None:
    with pytest.raises(QueueError, match="there is no scheduler ev in queue render"):
        found(bench)
