"""Locks: who keeps one, who lost one, and what becomes of jobs whose holder vanished."""

from __future__ import annotations

import pytest
from worker_bench import DONE, Bench

from sandq.errors import StoreRefused
from sandq.store import work


def test_a_renewal_lengthens_our_locks_and_names_those_we_lost(bench: Bench) -> None:
    for _ in range(3):
        bench.add()
    held = [(taken.job.id, taken.token) for taken in bench.claim(3, lock_s=1).jobs]
    bench.lose_lock(held[0][0])
    bench.client.set(bench.keys.lock(held[1][0]), "another", px=500)
    bench.check_stalled()

    lost = bench.run(work.renew(bench.keys, held, 60_000))
    assert lost == {held[0][1], held[1][1]}
    assert bench.client.pttl(bench.keys.lock(held[2][0])) > 50_000
    assert bench.client.pttl(bench.keys.lock(held[1][0])) <= 500
    assert bench.client.smembers(bench.keys.key("stalled")) == {held[0][0].encode(), held[1][0].encode()}


def test_one_foreign_key_does_not_cost_the_others_their_renewal(bench: Bench) -> None:
    bench.add()
    taken = bench.take(lock_s=1)
    bench.client.rpush(bench.keys.lock("odd"), "not a lock")
    lost = bench.run(work.renew(bench.keys, [("odd", "t"), (taken.job.id, taken.token)], 60_000))
    assert lost == {"t"}
    assert bench.client.pttl(bench.keys.lock(taken.job.id)) > 50_000


def test_a_job_without_a_lock_at_two_checks_is_next_in_line(bench: Bench) -> None:
    stalled = bench.add(priority=3)
    bench.take()
    waiting = bench.add()
    assert bench.check_stalled() == ()
    bench.lose_lock(stalled)
    events = bench.events_during(bench.check_stalled)
    assert events == [f"waiting jobId={stalled} prev=active", f"stalled jobId={stalled}"]
    assert bench.list("wait") == [waiting, stalled]
    assert bench.list("active") == []
    assert bench.hash(stalled)["stc"] == "1"
    assert "defa" not in bench.hash(stalled)


def test_a_job_that_renews_between_checks_is_no_suspect(bench: Bench) -> None:
    job_id = bench.add()
    taken = bench.take()
    bench.check_stalled()
    bench.run(work.renew(bench.keys, [(job_id, taken.token)], 30_000))
    bench.lose_lock(job_id)
    assert bench.check_stalled() == ()
    assert bench.check_stalled() == (job_id,)


def test_a_job_that_stalls_too_often_is_condemned(bench: Bench) -> None:
    job_id = bench.add(attempts=5)
    for _ in range(2):
        bench.take()
        bench.check_stalled()
        bench.lose_lock(job_id)
        assert bench.check_stalled(most=1) == (job_id,)
    taken = bench.take()
    assert taken.job.deferred_failure == "job stalled more than allowable limit"
    assert (taken.job.stalled_count, taken.job.attempts_started) == (2, 3)


def test_a_scheduler_is_not_stopped_by_a_stalled_iteration(bench: Bench) -> None:
    bench.client.zadd(bench.keys.key("repeat"), {"nightly": 5})
    bench.write_job("repeat:nightly:4", rjk="nightly")
    bench.client.lpush(bench.keys.key("active"), "repeat:nightly:4")
    bench.check_stalled(most=0)
    assert bench.check_stalled(most=0) == ("repeat:nightly:4",)
    assert "defa" not in bench.hash("repeat:nightly:4")


def test_a_ghost_in_active_is_dropped(bench: Bench, dump) -> None:
    bench.client.lpush(bench.keys.key("active"), "ghost")
    bench.check_stalled()
    assert bench.check_stalled() == ()
    assert not {"active", "wait", "ghost"} & set(dump(f"{bench.keys.queue}:"))


def test_checks_are_held_apart_whoever_makes_them(bench: Bench) -> None:
    assert bench.run(work.check_stalled(bench.keys, 60_000, 1)).again_in_ms == 60_000
    bench.add()
    bench.take()
    held_back = bench.run(work.check_stalled(bench.keys, 60_000, 1))
    assert 50_000 < held_back.again_in_ms <= 60_000
    assert bench.client.exists(bench.keys.key("stalled")) == 0


def test_a_repeated_stalled_check_names_the_same_jobs(bench: Bench, repeat, dump) -> None:
    job_id = bench.add()
    bench.take()
    bench.check_stalled()
    bench.lose_lock(job_id)
    bench.client.delete(bench.keys.key("stalled-check"))
    operation = work.check_stalled(bench.keys, 60_000, 1)
    first = repeat(operation, "op1")
    before = dump()
    assert first.recovered == (job_id,)
    assert repeat(operation, "op1") == first
    assert dump() == before


def test_our_own_job_with_a_lock_that_ran_out_is_put_back_uncharged(bench: Bench, repeat) -> None:
    job_id = bench.add()
    taken = bench.take()
    other = bench.add()
    bench.check_stalled()
    bench.lose_lock(job_id)
    operation = work.restore(bench.keys, job_id, taken.job.attempts_started)
    assert repeat(operation, "op1") == "ok"
    assert bench.list("wait") == [other, job_id]
    assert bench.client.smembers(bench.keys.key("stalled")) == set()
    assert not {"atm", "stc"} & set(bench.hash(job_id))
    bench.claim(2)
    assert repeat(operation, "op1") == "ok"
    assert repeat(operation, "op2") == "not-ours"


@pytest.mark.parametrize(
    ("why", "word"), [("locked", "locked"), ("claimed-again", "not-ours"), ("left-active", "not-ours")]
)
def test_a_job_somebody_touched_since_is_not_ours_to_put_back(bench: Bench, dump, why: str, word: str) -> None:
    job_id = bench.add()
    bench.take()
    if why != "locked":
        bench.lose_lock(job_id)
    if why == "left-active":
        bench.client.lrem(bench.keys.key("active"), 0, job_id)
    before = dump()
    assert bench.run(work.restore(bench.keys, job_id, 2 if why == "claimed-again" else 1)) == word
    assert dump() == before


@pytest.mark.parametrize("suffix", ["stalled", "stalled-check", "wait", "meta"])
def test_a_foreign_type_stops_a_stalled_check_before_its_first_write(bench: Bench, dump, suffix: str) -> None:
    bench.add()
    bench.take()
    bench.client.delete(bench.keys.key(suffix))
    bench.client.geoadd(bench.keys.key(suffix), (1, 1, "x"))
    before = dump()
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        bench.run(work.check_stalled(bench.keys, 1000, 1))
    assert dump() == before


def test_a_job_put_back_by_the_check_ends_as_usual(bench: Bench) -> None:
    job_id = bench.add()
    stale = bench.take()
    bench.check_stalled()
    bench.lose_lock(job_id)
    bench.check_stalled()
    fresh = bench.take()
    assert bench.settle(stale, DONE).word == "lost"
    assert bench.settle(fresh, DONE).word == "ok"
    assert bench.hash(job_id)["ats"] == "2"


def test_a_job_whose_holder_is_slow_to_renew_stays_with_it_while_the_lock_lives(bench: Bench) -> None:
    job_id = bench.add()
    bench.take()
    bench.check_stalled()
    assert bench.check_stalled() == ()
    assert bench.list("active") == [job_id]
