"""Schedules: who claims an iteration creates the next one, exactly once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import structs
from worker_bench import Bench

from sandq.errors import QueueError
from sandq.store import cron, work


def schedule(bench: Bench, *, run_ms: int, record: dict[str, Any], repeat: dict[str, Any], **opts: Any) -> str:
    """A scheduler whose current iteration waits; the iteration's id."""
    job_id = f"repeat:ev:{run_ms}"
    whole = {"attempts": 2, "repeat": repeat, "jobId": job_id, "delay": 0, "timestamp": run_ms, "repeatJobKey": "ev"}
    bench.write_job(job_id, opts=json.dumps({**whole, **opts}), rjk="ev", timestamp=run_ms)
    bench.client.zadd(bench.keys.key("repeat"), {"ev": run_ms})
    bench.client.hset(bench.keys.key("repeat:ev"), mapping={"name": "tick", "ic": 1, **record})
    bench.client.lpush(bench.keys.key("wait"), job_id)
    return job_id


def iterate(bench: Bench, taken: work.Taken) -> str:
    operation = work.iterate(bench.keys, taken.job, taken.token)
    assert operation is not None
    return bench.run(operation)


def test_an_interval_goes_on_one_period_after_the_last_run(bench: Bench) -> None:
    run = bench.now_ms() - 100
    schedule(bench, run_ms=run, record={"every": 20_000, "data": '{"c":1}'}, repeat={"every": 20_000, "count": 1})
    assert iterate(bench, bench.take()) == "ok"

    following = f"repeat:ev:{run + 20_000}"
    assert bench.zset("repeat") == {"ev": run + 20_000}
    assert bench.zset("delayed") == {following: (run + 20_000) * 4096}
    record = bench.hash("repeat:ev")
    assert (record["ic"], record["offset"]) == ("2", str((run + 20_000) % 20_000))
    fields = bench.hash(following)
    assert (fields["name"], fields["data"], fields["rjk"]) == ("tick", '{"c":1}', "ev")
    opts = json.loads(fields["opts"])
    assert opts["repeat"] == {"every": 20_000, "count": 2}
    assert (opts["jobId"], opts["attempts"], opts["repeatJobKey"]) == (following, 2, "ev")
    assert opts["delay"] == int(fields["delay"]) == run + 20_000 - int(fields["timestamp"])
    assert "prevMillis" not in opts


def test_an_interval_that_fell_behind_is_brought_back_into_step(bench: Bench) -> None:
    now = bench.now_ms()
    every, offset = 60_000, 1234
    late = now // every * every + offset - 10 * every
    schedule(bench, run_ms=late, record={"every": every, "offset": offset}, repeat={"every": every, "count": 1})
    assert iterate(bench, bench.take()) == "ok"
    (score,) = bench.zset("repeat").values()
    assert score % every == offset
    assert now < score <= now + every


def test_only_the_current_iteration_makes_the_next(bench: Bench, dump) -> None:
    run = bench.now_ms()
    schedule(bench, run_ms=run, record={"every": 20_000}, repeat={"every": 20_000, "count": 1})
    taken = bench.take()
    assert iterate(bench, taken) == "ok"
    before = dump("render:")
    assert iterate(bench, taken) == "not-current"
    assert dump("render:") == before


def test_whoever_lost_the_lock_makes_no_iteration(bench: Bench, dump) -> None:
    schedule(bench, run_ms=bench.now_ms(), record={"every": 20_000}, repeat={"every": 20_000, "count": 1})
    taken = bench.take()
    bench.lose_lock(taken.job.id)
    before = dump()
    assert iterate(bench, taken) == "lost"
    assert dump() == before


def test_a_repeated_iteration_call_makes_one_iteration(bench: Bench, repeat, dump) -> None:
    schedule(bench, run_ms=bench.now_ms(), record={"every": 20_000}, repeat={"every": 20_000, "count": 1})
    taken = bench.take()
    operation = work.iterate(bench.keys, taken.job, taken.token)
    assert operation is not None
    assert repeat(operation, "op1") == "ok"
    before = dump()
    assert repeat(operation, "op1") == "ok"
    assert dump() == before


@pytest.mark.parametrize("repeat_opts", [{"count": 2, "limit": 2}, {"count": 1, "endDate": 1000}])
def test_a_schedule_ends_at_its_limit_or_end_date(bench: Bench, repeat_opts: dict[str, Any]) -> None:
    schedule(bench, run_ms=bench.now_ms(), record={"every": 2000}, repeat={"every": 2000, **repeat_opts})
    taken = bench.take()
    assert work.iterate(bench.keys, taken.job, taken.token) is None


def test_a_removed_schedule_makes_no_iteration(bench: Bench) -> None:
    schedule(bench, run_ms=bench.now_ms(), record={"every": 2000}, repeat={"every": 2000, "count": 1})
    bench.client.delete(bench.keys.key("repeat"))
    assert iterate(bench, bench.take()) == "no-schedule"


def test_a_leftover_in_the_next_slot_does_not_end_the_schedule(bench: Bench) -> None:
    run = bench.now_ms()
    schedule(bench, run_ms=run, record={"every": 20_000}, repeat={"every": 20_000, "count": 1})
    leftover = f"repeat:ev:{run + 20_000}"
    bench.write_job(leftover)
    taken = bench.take()
    events = bench.events_during(lambda: iterate(bench, taken))
    assert events[0] == f"duplicated jobId={leftover}"
    assert bench.zset("repeat") == {"ev": run + 40_000}


def test_a_cron_schedule_goes_on_at_its_next_time(bench: Bench) -> None:
    pattern = {"pattern": "*/5 * * * * *", "tz": "UTC", "count": 1, "limit": 9}
    run = bench.now_ms() // 5000 * 5000
    schedule(bench, run_ms=run, record={"pattern": "*/5 * * * * *", "offset": 0}, repeat=pattern, prevMillis=run)
    taken = bench.take()
    assert taken.job.processed_on is not None
    assert iterate(bench, taken) == "ok"
    following = taken.job.processed_on // 5000 * 5000 + 5000
    assert bench.zset("repeat") == {"ev": following}
    opts = json.loads(bench.hash(f"repeat:ev:{following}")["opts"])
    assert (opts["prevMillis"], opts["repeat"]) == (following, {**pattern, "count": 2})


def test_a_cron_iteration_that_was_held_for_long_leaves_out_the_times_it_missed(bench: Bench) -> None:
    run = bench.now_ms() // 1000 * 1000 - 10_000
    pattern = {"pattern": "*/5 * * * * *", "tz": "UTC", "count": 1}
    schedule(bench, run_ms=run, record={"pattern": "*/5 * * * * *"}, repeat=pattern, prevMillis=run)
    taken = bench.take()
    held = work.Taken(structs.replace(taken.job, processed_on=run), taken.token)
    before = bench.now_ms()
    assert iterate(bench, held) == "ok"
    (score,) = bench.zset("repeat").values()
    assert before < score <= before + 5000


def test_a_job_without_a_schedule_owes_nothing(bench: Bench) -> None:
    bench.add()
    taken = bench.take()
    assert work.iterate(bench.keys, taken.job, taken.token) is None


def moment(text: str, hours: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() - hours * 3600) * 1000


@pytest.mark.parametrize(
    ("pattern", "tz", "after", "runs"),
    [
        ("*/5 * * * *", "UTC", "2026-01-01T00:00:00", ["2026-01-01T00:05:00", "2026-01-01T00:10:00"]),
        ("*/30 * * * * *", "UTC", "2026-01-01T00:00:01", ["2026-01-01T00:00:30", "2026-01-01T00:01:00"]),
        ("0 9 * * MON", "Europe/Berlin", "2026-01-01T00:00:00", ["2026-01-05T08:00:00", "2026-01-12T08:00:00"]),
        # Berlin skips 02:30 on 29 March: the job runs when the clocks have been put forward.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00", ["2026-03-29T01:00:00", "2026-03-30T00:30:00"]),
        ("0 0 ? * *", "UTC", "2026-01-01T00:00:00", ["2026-01-02T00:00:00", "2026-01-03T00:00:00"]),
        ("@hourly", "UTC", "2026-01-01T00:00:00", ["2026-01-01T01:00:00", "2026-01-01T02:00:00"]),
    ],
)
def test_a_cron_pattern_names_the_moments_after_a_moment(pattern: str, tz: str, after: str, runs: list[str]) -> None:
    assert list(cron.next_runs(pattern, moment(after), tz, 2)) == [moment(run) for run in runs]


def test_a_cron_schedule_never_steps_back_when_an_hour_repeats() -> None:
    runs = cron.next_runs("*/20 * * * *", moment("2026-10-24T23:30:00"), "Europe/Berlin", 12)
    assert list(runs) == sorted(set(runs))


@pytest.mark.parametrize(
    ("pattern", "tz"), [("nonsense", None), ("61 * * * *", None), ("* * * * *", "Mars/Base"), ("0 0 30 2 *", "UTC")]
)
def test_a_schedule_that_cannot_be_read_says_so(pattern: str, tz: str | None) -> None:
    with pytest.raises(QueueError, match=r"cron pattern|time zone"):
        cron.next_runs(pattern, 0, tz)


def test_a_schedule_that_starts_beyond_all_calendars_says_so() -> None:
    with pytest.raises(QueueError, match="prevMillis"):
        cron.next_runs("* * * * *", 10**300, "UTC")


@pytest.mark.parametrize("every", ["0", "-5", "inf", "nan"])
def test_a_record_with_an_impossible_interval_writes_nothing(bench: Bench, dump, every: str) -> None:
    schedule(bench, run_ms=bench.now_ms(), record={"every": every}, repeat={"every": 1000, "count": 1})
    taken = bench.take()
    before = dump()
    assert iterate(bench, taken) == "no-schedule"
    assert dump() == before
