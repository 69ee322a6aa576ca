"""Many settlements and claims in one call: each is treated as if it were alone, at the cost of a few."""

from __future__ import annotations

import pytest
from worker_bench import DONE, FAILED, RETRY, Bench

from sandq.config import Keep, Lease, QueueSettings
from sandq.errors import StoreRefused
from sandq.outcome import Place, Settlement
from sandq.store import work
from sandq.store.newjob import Parent

SOME = 5
WAITS = Settlement(to=Place.CHILDREN, spends_attempt=False)


def settle_all(
    bench: Bench, endings: list[tuple[work.Taken, Settlement]], claims: int = 0, **settings: object
) -> work.AllSettled:
    given = [work.Ending(taken.job.id, taken.token, settlement) for taken, settlement in endings]
    wanted = work.NextClaim(tokens=[bench.token() for _ in range(claims)], lease=Lease(30)) if claims else None
    return bench.run(work.settle_all(bench.keys, given, QueueSettings(**settings), wanted))  # type: ignore[arg-type]


def test_each_settlement_of_a_call_is_answered_for_itself(bench: Bench) -> None:
    for _ in range(SOME):
        bench.add(attempts=3)
    done, failed, again, stale, gone = bench.claim(SOME).jobs
    bench.lose_lock(stale.job.id)
    bench.client.delete(bench.keys.key(gone.job.id))
    settled = settle_all(bench, [(done, DONE), (failed, FAILED), (again, RETRY), (stale, DONE), (gone, DONE)])
    assert settled.words == ("ok", "ok", "ok", "lost", "missing")
    assert (list(bench.zset("completed")), list(bench.zset("failed"))) == ([done.job.id], [failed.job.id])
    assert (bench.list("wait"), bench.list("active")) == ([again.job.id], [stale.job.id])


def test_a_call_claims_in_the_order_in_which_single_claims_would(bench: Bench) -> None:
    urgent = [bench.add(priority=number) for number in (2, 1)]
    waiting = [bench.add() for _ in range(SOME)]
    first = bench.take()
    settled = settle_all(bench, [(first, DONE)], claims=SOME + 1)
    assert settled.claimed is not None
    claimed = [taken.job.id for taken in settled.claimed.jobs]
    assert [first.job.id, *claimed] == [*waiting, *reversed(urgent)]
    assert bench.list("active") == claimed[::-1]
    assert [line for line in bench.events() if line.startswith("active")] == [
        f"active jobId={job_id} prev=waiting" for job_id in (first.job.id, *claimed)
    ]


def test_the_newest_stay_of_all_that_ended_in_a_call(bench: Bench) -> None:
    for number in range(SOME):
        bench.add(remove_on_complete=number == 0 or None)
    taken = bench.claim(SOME).jobs
    settle_all(bench, [(one, DONE) for one in taken], keep_completed=Keep(count=2))
    kept = [one.job.id for one in taken[-2:]]
    assert list(bench.zset("completed")) == kept
    assert [one.job.id for one in taken if bench.hash(one.job.id)] == kept


def test_a_limit_by_age_is_per_settlement_also_in_one_call(bench: Bench) -> None:
    for number in range(2 * SOME):
        bench.client.zadd(bench.keys.key("completed"), {f"old-{number}": 1})
    for _ in range(2):
        bench.add()
    settle_all(bench, [(one, DONE) for one in bench.claim(2).jobs], keep_completed=Keep(age_s=60, limit=SOME - 1))
    assert len(bench.zset("completed")) == 2 * SOME + 2 - 2 * (SOME - 1)


def test_a_foreign_key_under_the_id_of_an_old_job_is_left_alone(bench: Bench) -> None:
    bench.client.zadd(bench.keys.key("completed"), {"odd": 1})
    bench.client.set(bench.keys.key("odd"), "not a job")
    bench.add()
    bench.run_one(DONE, keep_completed=Keep(count=1))
    assert list(bench.zset("completed")) == ["1"]
    assert bench.client.get(bench.keys.key("odd")) == b"not a job"


def test_jobs_are_found_in_a_long_active_list_too(bench: Bench) -> None:
    bench.add()
    bench.add()
    first, second = bench.claim(2).jobs
    others = [f"other-{number}" for number in range(200)]
    bench.client.lpush(bench.keys.key("active"), *others)
    bench.client.lrem(bench.keys.key("active"), 0, second.job.id)
    bench.client.rpush(bench.keys.key("wait"), others[0])  # listed twice: it has a holder
    bench.write_job(others[0])
    settled = settle_all(bench, [(first, DONE), (second, DONE)], claims=1)
    assert settled.words == ("ok", "not-active")
    assert settled.claimed is not None
    assert settled.claimed.jobs == ()
    assert bench.list("active") == others[::-1]


@pytest.mark.parametrize(
    "suffix", ["completed", "wait", "prioritized", "pc", "delayed", "limiter", "active", "stalled", "sq:cancels"]
)
def test_a_key_of_a_foreign_type_stops_a_simple_end_before_its_first_write(bench: Bench, dump, suffix: str) -> None:
    bench.add()
    taken = bench.take()
    bench.client.delete(bench.keys.key(suffix))
    if suffix in ("completed", "prioritized", "delayed"):
        bench.client.set(bench.keys.key(suffix), "foreign")
    else:
        bench.client.zadd(bench.keys.key(suffix), {"foreign": 1})
    before = dump()
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        settle_all(bench, [(taken, DONE)], claims=1)
    assert dump() == before


def test_a_job_settled_and_its_successor_claimed_cost_redis_few_commands(bench: Bench) -> None:
    for _ in range(40):
        bench.add()
    held = bench.claim(10).jobs
    assert commands_to_go_on(bench, held) <= 12 * 10


def test_a_job_settled_alone_costs_redis_no_question_for_each_key_that_is_not_there(bench: Bench) -> None:
    bench.add()
    bench.add()
    first = bench.take()
    assert commands_to_go_on(bench, (first,)) <= 25
    bench.add()
    (second,) = bench.claim(1).jobs
    bench.add(delay="1h")  # one of these keys is there, so each is asked for
    bench.add()
    assert 25 < commands_to_go_on(bench, (second,)) <= 33


def commands_to_go_on(bench: Bench, held: tuple[work.Taken, ...]) -> int:
    """How many commands Redis runs to settle these and claim as many."""
    bench.client.config_resetstat()
    settled = settle_all(bench, [(one, DONE) for one in held], claims=len(held))
    assert settled.claimed is not None
    assert len(settled.claimed.jobs) == len(held)
    inner = {name: told["calls"] for name, told in bench.client.info("commandstats").items()}
    return sum(calls for name, calls in inner.items() if "evalsha" not in name and "config" not in name)


def family(bench: Bench, **child: object) -> tuple[work.Taken, work.Taken]:
    """A running parent and its running child."""
    bench.add(job_id="parent")
    parent = bench.take()
    bench.add(job_id="child", parent=Parent(id="parent", queue=bench.keys.base[:-1], **child))  # type: ignore[arg-type]
    return parent, bench.take()


def test_a_parent_does_not_wait_for_a_child_that_ended_before_it_in_the_same_call(bench: Bench) -> None:
    parent, child = family(bench)
    assert settle_all(bench, [(child, DONE), (parent, WAITS)]).words == ("ok", "nothing-to-wait-for")
    assert bench.list("active") == ["parent"]
    assert bench.hash("parent:processed") != {}


def test_a_parent_that_waits_is_released_by_a_child_that_ends_after_it_in_the_same_call(bench: Bench) -> None:
    parent, child = family(bench)
    assert settle_all(bench, [(parent, WAITS), (child, DONE)]).words == ("ok", "ok")
    assert (bench.list("wait"), list(bench.zset("waiting-children"))) == (["parent"], [])


def test_a_parent_completes_after_its_child_in_the_same_call_and_not_before(bench: Bench) -> None:
    parent, child = family(bench)
    assert settle_all(bench, [(parent, DONE), (child, DONE)]).words == ("pending-children", "ok")
    assert settle_all(bench, [(parent, DONE)]).words == ("ok",)


def test_a_parent_that_failed_before_its_child_in_the_same_call_keeps_its_own_reason(bench: Bench) -> None:
    parent, child = family(bench, on_failure="fail")
    assert settle_all(bench, [(parent, FAILED), (child, FAILED)]).words == ("ok", "ok")
    assert "defa" not in bench.hash("parent")


def test_what_ended_in_a_call_is_kept_though_an_older_job_cannot_be_deleted_whole(bench: Bench) -> None:
    parent, old = family(bench)
    settle_all(bench, [(parent, WAITS), (old, FAILED)])  # the child stays among its parent's dependencies
    bench.client.delete(bench.keys.key("parent:dependencies"))
    bench.client.set(bench.keys.key("parent:dependencies"), "foreign")
    bench.add()
    bench.add()
    one, two = bench.claim(2).jobs
    bench.pass_a_millisecond()
    settled = settle_all(bench, [(one, FAILED), (two, DONE)], keep_failed=Keep(count=1), keep_completed=Keep(count=1))
    assert settled.words == ("ok", "ok")
    assert (list(bench.zset("failed")), list(bench.zset("completed"))) == ([one.job.id], [two.job.id])
