"""What a finished job owes the queue: retention, deduplication, metrics."""

from __future__ import annotations

import pytest
from worker_bench import DONE, FAILED, RETRY, Bench

from sandq.config import Keep
from sandq.outcome import Settlement

DAY_MS = 86_400_000


def finished(bench: Bench, state: str, *ages_ms: int) -> list[str]:
    """Jobs that ended so long ago."""
    now, made = bench.now_ms(), []
    for n, age in enumerate(ages_ms):
        made.append(f"old-{state}-{n}")
        bench.write_job(made[-1], finishedOn=now - age)
        bench.client.zadd(bench.keys.key(state), {made[-1]: now - age})
    return made


@pytest.mark.parametrize(("settlement", "option"), [(DONE, "remove_on_complete"), (FAILED, "remove_on_fail")])
def test_a_job_removed_at_its_end_still_tells_its_listeners(bench: Bench, settlement: Settlement, option: str) -> None:
    job_id = bench.add(**{option: True})
    bench.client.rpush(bench.keys.key(f"{job_id}:logs"), "line")
    bench.run_one(settlement)
    assert bench.client.keys(f"{bench.keys.base}{job_id}*") == []
    assert bench.zset(settlement.to) == {}
    assert any(line.startswith(f"{settlement.to} jobId={job_id}") for line in bench.events())


def test_a_count_keeps_the_newest(bench: Bench) -> None:
    old = finished(bench, "completed", 3000, 2000, 1000)
    job_id = bench.add(remove_on_complete=2)
    bench.run_one(DONE)
    assert set(bench.zset("completed")) == {old[2], job_id}
    assert bench.hash(old[0]) == {}


def test_an_age_removes_at_most_its_limit(bench: Bench) -> None:
    old = finished(bench, "completed", 30_000, 20_000)
    bench.add(remove_on_complete={"age": 1, "limit": 1})
    bench.run_one(DONE)
    assert set(bench.zset("completed")) & set(old) == {old[0]}


def test_the_jobs_option_wins_over_the_supervisors(bench: Bench) -> None:
    old = finished(bench, "completed", 3000)
    bench.add(remove_on_complete=False)
    bench.run_one(DONE, keep_completed=Keep(count=0))
    assert len(bench.zset("completed")) == 2
    bench.add()
    bench.run_one(DONE, keep_completed=Keep(count=1))
    assert len(bench.zset("completed")) == 1
    assert old[0] not in bench.zset("completed")


def test_with_no_rule_completed_jobs_stay_a_day_and_failed_ones_a_week(bench: Bench) -> None:
    finished(bench, "completed", DAY_MS + 1000, DAY_MS - 60_000)
    finished(bench, "failed", 7 * DAY_MS + 1000, 7 * DAY_MS - 60_000)
    bench.add()
    bench.add()
    bench.run_one(DONE)
    bench.run_one(FAILED)
    assert set(bench.zset("completed")) == {"old-completed-1", "1"}
    assert set(bench.zset("failed")) == {"old-failed-1", "2"}


def test_with_no_rule_the_newest_thousand_completed_stay(bench: Bench) -> None:
    finished(bench, "completed", *range(1001, 0, -1))
    bench.add()
    bench.run_one(DONE)
    assert len(bench.zset("completed")) == 1000


def test_another_teams_history_is_not_trimmed(bench: Bench) -> None:
    bench.client.hset(bench.keys.key("meta"), "version", "bullmq:6.7.0")
    finished(bench, "completed", 9 * DAY_MS)
    bench.add()
    bench.run_one(DONE)
    assert len(bench.zset("completed")) == 2


def test_the_deduplication_window_closes_with_its_job(bench: Bench) -> None:
    first = bench.add(deduplication={"id": "S"}, attempts=2)
    assert bench.add(deduplication={"id": "S"}) == first
    bench.run_one(RETRY)
    assert bench.client.get(bench.keys.key("de:S")) == first.encode()
    bench.run_one(FAILED)
    assert bench.client.get(bench.keys.key("de:S")) is None


def test_a_running_ttl_keeps_the_window_open_beyond_its_job(bench: Bench) -> None:
    first = bench.add(deduplication={"id": "S", "ttl": 5})
    bench.run_one(DONE)
    assert bench.client.get(bench.keys.key("de:S")) == first.encode()


def test_a_window_that_another_job_owns_stays(bench: Bench) -> None:
    bench.add(deduplication={"id": "S"})
    bench.client.set(bench.keys.key("de:S"), "other")
    bench.run_one(DONE)
    assert bench.client.get(bench.keys.key("de:S")) == b"other"


def test_the_last_job_added_while_its_owner_ran_is_created_when_the_owner_ends(bench: Bench) -> None:
    rule = {"id": "K", "keep_last_if_active": True}
    first = bench.add("k1", deduplication=rule)
    taken = bench.take()
    assert bench.add("k2", deduplication=rule) == first
    assert bench.add("k3", {"v": 4}, job_id="cust", priority=4, deduplication=rule) == first
    events = bench.events_during(lambda: bench.settle(taken, DONE))

    assert events == [
        "added jobId=cust name=k3",
        "waiting jobId=cust",
        f'completed jobId={first} returnvalue={{"ok":true}} prev=active',
    ]
    assert bench.client.get(bench.keys.key("de:K")) == b"cust"
    assert bench.client.exists(bench.keys.key("dn:K")) == 0
    assert list(bench.zset("prioritized")) == ["cust"]
    assert (bench.hash("cust")["data"], bench.hash("cust")["deid"]) == ('{"v":4}', "K")


def test_metrics_count_per_minute_when_asked_to(bench: Bench) -> None:
    key = bench.keys.key("metrics:completed")
    for _ in range(3):
        bench.add()
    bench.run_one(DONE, metrics_points=5)
    bench.run_one(DONE, metrics_points=5)
    bench.client.hincrby(key, "prevTS", -180_000)
    bench.run_one(DONE, metrics_points=5)
    assert bench.list("metrics:completed:data") == ["0", "0", "2"]
    assert bench.client.hmget(key, "count", "prevCount") == [b"3", b"2"]


def test_without_metrics_nothing_is_counted(bench: Bench) -> None:
    bench.add()
    bench.run_one(DONE)
    assert bench.client.exists(bench.keys.key("metrics:completed")) == 0
