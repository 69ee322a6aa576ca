"""What a settlement writes, for whom it refuses, and that it writes all of it or nothing."""

from __future__ import annotations

import json

import pytest
from worker_bench import DONE, FAILED, PUT_BACK, RETRY, Bench

from sandq.config import Lease, QueueSettings
from sandq.errors import StoreRefused
from sandq.outcome import Cause, Counter, Death, Place, Settlement
from sandq.store import produce, work

ENDS = [DONE, FAILED, RETRY, PUT_BACK, Settlement(to=Place.DELAYED, delay_s=1), Settlement(to=Place.CHILDREN)]


def test_a_completed_job_and_the_next_claim_are_one_call(bench: Bench) -> None:
    first, second = bench.add(), bench.add()
    taken = bench.take()
    settled = bench.settle(taken, Settlement(to=Place.COMPLETED, result=b'{"ok":true,"n":1}'), claims=1)

    assert settled.word == "ok"
    assert settled.claimed is not None
    (following,) = settled.claimed.jobs
    assert (following.job.id, bench.list("active")) == (second, [second])
    assert bench.client.get(bench.keys.lock(first)) is None
    assert bench.client.get(bench.keys.lock(second)) == following.token.encode() != taken.token.encode()
    fields = bench.hash(first)
    assert (fields["atm"], fields["returnvalue"]) == ("1", '{"ok":true,"n":1}')
    assert bench.zset("completed") == {first: int(fields["finishedOn"])}
    assert bench.events()[-2:] == [
        f'completed jobId={first} returnvalue={{"ok":true,"n":1}} prev=active',
        f"active jobId={second} prev=waiting",
    ]


def test_a_terminal_failure_is_recorded_and_says_when_its_attempts_are_used_up(bench: Bench) -> None:
    job_id = bench.add()
    trace = ("ValueError: boom\n  at page",)
    events = bench.events_during(lambda: bench.run_one(Settlement(to=Place.FAILED, reason="boom é", stacktrace=trace)))
    fields = bench.hash(job_id)
    assert (fields["failedReason"], fields["atm"]) == ("boom é", "1")
    assert json.loads(fields["stacktrace"]) == list(trace)
    assert bench.zset("failed") == {job_id: int(fields["finishedOn"])}
    assert events[1:] == [
        f"failed jobId={job_id} failedReason=boom é prev=active",
        f"retries-exhausted jobId={job_id} attemptsMade=1",
        "drained",
    ]


def test_a_failure_with_attempts_left_says_only_failed(bench: Bench) -> None:
    job_id = bench.add(attempts=3)
    events = bench.events_during(lambda: bench.run_one(FAILED))
    assert events[1:] == [f"failed jobId={job_id} failedReason=boom prev=active", "drained"]


def test_a_retry_waits_at_the_end_and_spends_an_attempt(bench: Bench) -> None:
    job_id = bench.add(attempts=3)
    other = bench.add()
    bench.run_one(RETRY)
    assert bench.list("wait") == [job_id, other]
    fields = bench.hash(job_id)
    assert (fields["atm"], fields["ats"], fields["failedReason"]) == ("1", "1", "boom")
    assert json.loads(fields["stacktrace"]) == ["Error: boom"]
    assert "processedOn" in fields
    assert "finishedOn" not in fields
    assert bench.events()[-1] == f"waiting jobId={job_id} prev=active"


def test_where_a_job_is_put_back_is_the_settlements_to_say_and_not_its_options(bench: Bench) -> None:
    bench.add()
    job_id = bench.add(lifo=True)
    bench.run_one(RETRY)
    assert bench.list("wait")[0] == job_id


def test_a_retry_of_a_prioritized_job_queues_behind_its_equals(bench: Bench) -> None:
    job_id, other = bench.add(priority=2), bench.add(priority=2)
    bench.run_one(RETRY)
    assert bench.zset("prioritized") == {other: 2 * 2**32 + 2, job_id: 2 * 2**32 + 3}


def test_a_retry_promotes_due_jobs_before_it_queues(bench: Bench) -> None:
    job_id = bench.add()
    taken = bench.take()
    due = bench.add(delay=1, timestamp=1)
    bench.settle(taken, RETRY)
    assert bench.list("wait") == [job_id, due]


def test_putting_back_spends_no_attempt_and_stands_before_all_others(bench: Bench) -> None:
    job_id, prioritized = bench.add(), bench.add(priority=2)
    taken = bench.take()
    bench.add()
    bench.settle(taken, PUT_BACK)
    assert bench.list("wait")[-1] == job_id
    assert "atm" not in bench.hash(job_id)
    assert bench.take().job.attempts_started == 2
    bench.take()
    bench.run_one(PUT_BACK)
    assert bench.zset("prioritized") == {prioritized: 2 * 2**32}


def test_a_delayed_settlement_runs_after_its_delay(bench: Bench) -> None:
    job_id = bench.add(priority=4)
    before = bench.now_ms()
    bench.run_one(Settlement(to=Place.DELAYED, delay_s=0.05, reason="later"))
    due = bench.zset("delayed")[job_id] // 4096
    assert before + 50 <= due <= bench.now_ms() + 50
    fields = bench.hash(job_id)
    assert (fields["delay"], fields["atm"], fields["failedReason"]) == ("50", "1", "later")
    assert bench.events()[-1] == f"delayed jobId={job_id} delay={due}"
    assert bench.zset("marker")["1"] == due
    while not (claimed := bench.claim()).jobs:
        assert claimed.wait_ms is not None
        assert claimed.wait_ms <= 50
    assert bench.hash(job_id)["delay"] == "0"
    assert bench.hash(job_id)["ats"] == "2"


def test_jobs_due_in_the_same_millisecond_keep_their_order(bench: Bench) -> None:
    names = [bench.add(delay=60, timestamp=1_700_000_000_000) for _ in range(3)]
    assert bench.zset("delayed") == {name: 1_700_000_060_000 * 4096 + n for n, name in enumerate(names)}


def test_a_postponed_job_spends_no_attempt(bench: Bench) -> None:
    job_id = bench.add()
    bench.run_one(Settlement(to=Place.DELAYED, delay_s=5, spends_attempt=False))
    assert "atm" not in bench.hash(job_id)


def test_a_rate_limit_holds_the_queue_from_the_same_call_on(bench: Bench) -> None:
    job_id = bench.add()
    settled = bench.settle(
        bench.take(), Settlement(to=Place.WAIT, front=True, spends_attempt=False, limit_s=30), claims=1
    )
    assert settled.claimed is not None
    assert settled.claimed.why == "limited"
    assert settled.claimed.wait_ms is not None
    assert settled.claimed.wait_ms > 25_000
    assert bench.list("wait") == [job_id]


def test_sandq_counts_crashes_until_the_job_ends(bench: Bench) -> None:
    job_id = bench.add()
    crash = Settlement(to=Place.WAIT, front=True, spends_attempt=False, counts=Counter.CRASHES)
    bench.run_one(crash)
    taken = bench.take()
    assert taken.job.crashes == 1
    death = Death(cause=Cause.SIGNAL, signal="SIGSEGV", crashes=2)
    bench.settle(taken, Settlement(to=Place.FAILED, reason="crashed", counts=Counter.CRASHES, death=death))
    fields = bench.hash(job_id)
    assert "sq_crashes" not in fields
    assert json.loads(fields["sq_death"])["signal"] == "SIGSEGV"

    bench.run(produce.retry(bench.keys, job_id))
    bench.client.hset(bench.keys.key(job_id), "sq_death", "{}")
    bench.run_one(DONE)
    assert "sq_death" not in bench.hash(job_id)


@pytest.mark.parametrize("settlement", ENDS, ids=lambda s: s.to.value + ("-front" if s.front else ""))
@pytest.mark.parametrize("holder", ["nobody", "somebody-else"])
def test_a_stale_token_changes_nothing_and_is_told_so(bench: Bench, dump, settlement: Settlement, holder: str) -> None:
    bench.add(attempts=3, deduplication={"id": "d"})
    bench.add()
    taken = bench.take()
    lock = bench.keys.lock(taken.job.id)
    bench.client.delete(lock)
    if holder == "somebody-else":
        bench.client.set(lock, "another:1", px=60_000)
    before = dump()
    assert bench.settle(taken, settlement, claims=1) == work.Settled("lost")
    assert dump() == before


def test_a_job_that_left_active_is_not_settled_a_second_time(bench: Bench, dump) -> None:
    bench.add()
    taken = bench.take()
    bench.client.lrem(bench.keys.key("active"), 0, taken.job.id)
    before = dump()
    assert bench.settle(taken, DONE).word == "not-active"
    assert dump() == before


def test_a_job_whose_hash_was_removed_leaves_no_ghost(bench: Bench) -> None:
    bench.add()
    taken = bench.take()
    bench.client.delete(bench.keys.key(taken.job.id))
    assert bench.settle(taken, DONE).word == "missing"
    assert bench.list("active") == []
    assert bench.client.exists(bench.keys.key(taken.job.id), bench.keys.lock(taken.job.id)) == 0


@pytest.mark.parametrize("settlement", ENDS[:5], ids=lambda s: s.to.value + ("-front" if s.front else ""))
def test_a_repeated_settlement_answers_the_same_and_changes_nothing(
    bench: Bench, repeat, dump, settlement: Settlement
) -> None:
    bench.add(attempts=3)
    bench.add(priority=1)
    taken = bench.take()
    wanted = work.NextClaim(tokens=["n1"], lease=Lease(30))
    operation = work.settle(bench.keys, taken.job.id, taken.token, settlement, QueueSettings(), next_claim=wanted)
    first = repeat(operation, "op1")
    before = dump()
    assert first.word == "ok"
    assert repeat(operation, "op1") == first
    assert dump() == before
    assert repeat(operation, "op2").word == "lost"


@pytest.mark.parametrize("settlement", [DONE, FAILED, RETRY], ids=["completed", "failed", "retry"])
def test_settling_and_renewing_pass_when_redis_is_out_of_memory(starved: Bench, settlement: Settlement) -> None:
    job_id = starved.add(attempts=3)
    taken = starved.take()
    starved.check_stalled()
    starved.pause_writes()
    assert starved.run(work.renew(starved.keys, [(job_id, taken.token)], 30_000)) == frozenset()
    assert starved.settle(taken, settlement).word == "ok"
    assert starved.list("active") == []
    assert starved.hash(job_id)["atm"] == "1"


def test_a_stale_settlement_is_told_so_even_without_memory(starved: Bench) -> None:
    starved.add()
    taken = starved.take()
    starved.lose_lock(taken.job.id)
    starved.pause_writes()
    assert starved.settle(taken, DONE).word == "lost"


EVERY_WRITE = ["events", "marker", "meta", "completed", "stalled", "wait", "1:logs", "1:dependencies"]


@pytest.mark.parametrize(
    ("suffix", "settlement"),
    [(suffix, settlement) for suffix in EVERY_WRITE for settlement in (DONE, RETRY)]
    + [("metrics:completed", DONE), ("metrics:completed:data", DONE), ("de:d", DONE), ("dn:d", DONE)],
    ids=lambda value: value.to.value if isinstance(value, Settlement) else value,
)
def test_a_key_of_a_foreign_type_stops_a_settlement_before_its_first_write(
    bench: Bench, dump, suffix: str, settlement: Settlement
) -> None:
    bench.add(deduplication={"id": "d"})
    taken = bench.take()
    bench.client.delete(bench.keys.key(suffix))
    bench.client.geoadd(bench.keys.key(suffix), (1, 1, "x"))
    if suffix in ("marker", "completed"):  # a geo set is a zset
        bench.client.delete(bench.keys.key(suffix))
        bench.client.set(bench.keys.key(suffix), "foreign")
    before = dump()
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        bench.settle(taken, settlement)
    assert dump() == before


def test_drained_is_said_when_nothing_is_left_and_nothing_is_to_come(bench: Bench) -> None:
    bench.add()
    bench.settle(bench.take(), DONE, claims=1)
    assert bench.events()[-1] == "drained"
    bench.add()
    bench.add(delay=60)
    bench.settle(bench.take(), DONE, claims=1)
    assert bench.events()[-1].startswith("completed")


def test_a_malformed_opts_text_does_not_hold_the_job_in_active(bench: Bench) -> None:
    bench.write_job("odd", opts="not json", priority="nan")
    bench.client.lpush(bench.keys.key("wait"), "odd")
    assert bench.run_one(DONE) == "odd"


def test_a_running_job_ends_also_while_its_queue_is_paused(bench: Bench) -> None:
    job_id = bench.add()
    taken = bench.take()
    bench.run(produce.pause(bench.keys))
    assert bench.settle(taken, DONE).word == "ok"
    assert list(bench.zset("completed")) == [job_id]


def test_a_settled_job_is_no_suspect_in_its_next_run(bench: Bench) -> None:
    bench.add()
    taken = bench.take()
    bench.check_stalled()
    bench.settle(taken, RETRY)
    assert bench.client.exists(bench.keys.key("stalled")) == 0


def test_the_event_stream_is_trimmed_to_about_what_the_queue_asks_for(bench: Bench) -> None:
    bench.client.hset(bench.keys.key("meta"), "opts.maxLenEvents", 1)
    bench.add()
    taken = bench.take()
    for _ in range(300):
        bench.run(work.progress(bench.keys, taken.job.id, b"1", taken.token))
    assert len(bench.events()) < 250  # Redis trims whole blocks of entries
    for _ in range(300):
        bench.client.xadd(bench.keys.key("events"), {"event": "own"})
    bench.settle(taken, DONE)
    assert len(bench.events()) < 250
