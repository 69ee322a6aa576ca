"""What a claim takes, in which order, what it writes, and when it takes nothing."""

from __future__ import annotations

import pytest
from worker_bench import DONE, Bench

from sandq.config import Lease
from sandq.errors import StoreRefused
from sandq.store import produce, work

MANUAL_LIMIT = 9007199254740991


def ids(claimed: work.Claimed) -> list[str]:
    return [taken.job.id for taken in claimed.jobs]


def test_a_claim_moves_the_job_to_active_with_lock_start_time_and_worker_name(bench: Bench) -> None:
    job_id = bench.add("resize", {"n": 1})
    taken = bench.take(worker_name="wk1", lock_s=30)

    assert (taken.job.name, taken.job.data, taken.job.attempts_started) == ("resize", {"n": 1}, 1)
    assert (bench.list("wait"), bench.list("active")) == ([], [job_id])
    fields = bench.hash(job_id)
    assert (fields["pb"], fields["ats"]) == ("wk1", "1")
    assert abs(int(fields["processedOn"]) - bench.now_ms()) < 5000
    assert bench.client.get(bench.keys.lock(job_id)) == taken.token.encode()
    assert 25_000 < bench.client.pttl(bench.keys.lock(job_id)) <= 30_000
    assert bench.events()[-1] == f"active jobId={job_id} prev=waiting"
    assert bench.zset("marker") == {"0": 0}


def test_one_call_claims_a_job_per_token_and_says_why_it_stopped(bench: Bench) -> None:
    added = [bench.add() for _ in range(3)]
    claimed = bench.run(work.claim(bench.keys, work.NextClaim(tokens=["a", "b", "c", "d"], lease=Lease(30))))
    assert [(taken.job.id, taken.token) for taken in claimed.jobs] == list(zip(added, "abc", strict=True))
    assert (claimed.why, claimed.wait_ms) == ("empty", None)
    assert bench.client.get(bench.keys.lock(added[1])) == b"b"


def test_due_jobs_queue_behind_the_waiting_which_come_before_the_prioritized(bench: Bench) -> None:
    due = bench.add(delay=1, timestamp=1)
    low = bench.add(priority=5)
    high = bench.add(priority=1)
    waiting = bench.add()
    assert ids(bench.claim(9)) == [waiting, due, high, low]
    assert bench.hash(due)["delay"] == "0"
    assert f"waiting jobId={due} prev=delayed" in bench.events()


def test_a_due_job_with_a_priority_goes_to_its_priority(bench: Bench) -> None:
    due = bench.add(delay=1, timestamp=1, priority=7)
    bench.run(produce.pause(bench.keys))
    bench.claim()
    assert bench.zset("prioritized") == {due: 7 * 2**32 + 1}


def test_an_empty_claim_tells_how_long_until_a_delayed_job_is_due(bench: Bench) -> None:
    bench.add(delay=60)
    claimed = bench.claim()
    assert claimed.why == "empty"
    assert claimed.wait_ms is not None
    assert 55_000 < claimed.wait_ms <= 60_000


def test_the_priority_counter_starts_anew_once_nothing_prioritized_is_left(bench: Bench) -> None:
    bench.add(priority=3)
    bench.claim()
    assert bench.client.get(bench.keys.key("pc")) == b"1"
    bench.claim()
    assert bench.client.get(bench.keys.key("pc")) is None


def test_a_paused_queue_gives_nothing_but_still_promotes_what_is_due(bench: Bench) -> None:
    due = bench.add(delay=1, timestamp=1)
    bench.run(produce.pause(bench.keys))
    claimed = bench.claim()
    assert (claimed.jobs, claimed.why) == ((), "paused")
    assert bench.list("wait") == [due]
    assert bench.zset("marker") == {}


def test_the_queues_own_concurrency_limits_all_workers_together(bench: Bench) -> None:
    for _ in range(3):
        bench.add()
    bench.client.hset(bench.keys.key("meta"), "concurrency", 2)
    claimed = bench.claim(3)
    assert (len(claimed.jobs), claimed.why) == (2, "full")
    bench.client.delete(bench.keys.key("marker"))
    bench.add()
    assert bench.zset("marker") == {}


def test_a_worker_limiter_lets_so_many_start_in_its_time(bench: Bench) -> None:
    for _ in range(3):
        bench.add()
    claimed = bench.claim(3, limiter_max=2, limiter_ms=10_000)
    assert (len(claimed.jobs), claimed.why) == (2, "limited")
    assert claimed.wait_ms is not None
    assert 0 < claimed.wait_ms <= 10_000


def test_the_queues_max_wins_and_the_workers_duration_wins(bench: Bench) -> None:
    bench.add()
    bench.add()
    bench.client.hset(bench.keys.key("meta"), mapping={"max": 1, "duration": 5_000_000})
    claimed = bench.claim(2, limiter_max=10, limiter_ms=10_000)
    assert (len(claimed.jobs), claimed.why) == (1, "limited")
    assert bench.client.pttl(bench.keys.key("limiter")) <= 10_000


def test_a_limit_set_by_hand_holds_also_where_no_limiter_is_known(bench: Bench) -> None:
    bench.add()
    bench.client.set(bench.keys.key("limiter"), MANUAL_LIMIT, px=60_000)
    claimed = bench.claim()
    assert (claimed.jobs, claimed.why) == ((), "limited")
    bench.client.set(bench.keys.key("limiter"), 500, px=60_000)  # another worker's count is none of ours
    assert len(bench.claim().jobs) == 1


def test_a_condemned_job_does_not_use_up_the_limit(bench: Bench) -> None:
    condemned, other = bench.add(), bench.add()
    bench.client.hset(bench.keys.key(condemned), "defa", "child x failed")
    claimed = bench.claim(2, limiter_max=1, limiter_ms=10_000)
    assert ids(claimed) == [condemned, other]
    assert claimed.jobs[0].job.deferred_failure == "child x failed"


def test_ids_without_a_job_and_markers_of_bullmq_4_are_dropped(bench: Bench, dump) -> None:
    bench.client.lpush(bench.keys.key("wait"), "0:1700000000000", "ghost")
    bench.client.zadd(bench.keys.key("prioritized"), {"ghost2": 5})
    bench.client.zadd(bench.keys.key("delayed"), {"ghost3": 5})
    job_id = bench.add()
    bench.client.set(bench.keys.key("odd"), "a string where a job should be")
    bench.client.rpush(bench.keys.key("wait"), "odd")
    assert ids(bench.claim(4)) == [job_id]
    left = dump(f"{bench.keys.queue}:")
    assert not {"wait", "prioritized", "delayed", "ghost", "ghost2", "ghost3"} & set(left)


def test_data_over_the_limit_is_measured_and_left_in_redis(bench: Bench) -> None:
    bench.add("big", "x" * 2000)
    taken = bench.take(max_data=1000)
    assert taken.oversize == 2002
    assert taken.job.name == "big"
    assert taken.job.data_json == b"{}"


def test_the_fence_of_a_job_only_grows(bench: Bench) -> None:
    job_id = bench.add()
    ahead = bench.now_ms() * 1000 + 10**12
    assert bench.take().job.fence > bench.now_ms() * 1000 - 5_000_000
    bench.client.hset(bench.keys.key(job_id), "sq_fence", ahead)
    bench.client.lrem(bench.keys.key("active"), 0, job_id)
    bench.client.rpush(bench.keys.key("wait"), job_id)
    assert bench.take().job.fence == ahead + 1


def test_a_repeated_claim_gives_the_same_jobs_and_changes_nothing(bench: Bench, repeat, dump) -> None:
    for _ in range(3):
        bench.add()
    operation = work.claim(bench.keys, work.NextClaim(tokens=["a", "b"], lease=Lease(30)))
    first = repeat(operation, "op1")
    before = dump()
    assert repeat(operation, "op1") == first
    assert dump() == before
    assert [taken.token for taken in first.jobs] == ["a", "b"]


def test_a_claim_is_refused_as_a_whole_when_redis_is_out_of_memory(starved: Bench) -> None:
    waiting = starved.add()
    due = starved.add(delay=1, timestamp=1)
    starved.pause_writes()
    with pytest.raises(StoreRefused, match=r"(?i)memory"):
        starved.claim()
    assert (starved.list("wait"), starved.list("active")) == ([waiting], [])
    assert list(starved.zset("delayed")) == [due]


@pytest.mark.parametrize("suffix", ["active", "events", "marker", "meta", "delayed", "prioritized", "limiter", "pc"])
def test_a_key_of_a_foreign_type_stops_a_claim_before_its_first_write(bench: Bench, dump, suffix: str) -> None:
    bench.add()
    bench.add(delay=1, timestamp=1)
    bench.client.delete(bench.keys.key(suffix))
    bench.client.geoadd(bench.keys.key(suffix), (1, 1, "x"))
    if suffix in ("marker", "delayed", "prioritized"):
        bench.client.delete(bench.keys.key(suffix))
        bench.client.set(bench.keys.key(suffix), "foreign")
    before = dump()
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        bench.claim()
    assert dump() == before


def test_a_claim_wakes_the_next_worker_even_at_the_concurrency_limit(bench: Bench) -> None:
    bench.add()
    bench.client.hset(bench.keys.key("meta"), "concurrency", 1)
    bench.client.delete(bench.keys.key("marker"))
    taken = bench.take()
    assert bench.zset("marker") == {"0": 0}
    assert bench.settle(taken, DONE).word == "ok"


def test_an_id_listed_twice_is_not_started_twice(bench: Bench) -> None:
    job_id = bench.add()
    bench.client.lpush(bench.keys.key("wait"), job_id)
    assert ids(bench.claim(3)) == [job_id]
    assert (bench.list("active"), bench.list("wait")) == ([job_id], [])


def test_a_due_job_wakes_others_when_its_claimer_may_not_take_it(bench: Bench) -> None:
    bench.add(delay=1, timestamp=1)
    bench.client.delete(bench.keys.key("marker"))
    bench.client.set(bench.keys.key("limiter"), MANUAL_LIMIT, px=60_000)
    assert bench.claim().why == "limited"
    assert bench.zset("marker") == {"0": 0}
