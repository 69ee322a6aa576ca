"""What a child's end means for its parent, in another queue and over several generations."""

from __future__ import annotations

import json
from typing import Any

import pytest
from worker_bench import DONE, FAILED, Bench

from sandq.errors import StoreRefused
from sandq.outcome import Place, Settlement
from sandq.store.newjob import Parent

WAIT_FOR_CHILDREN = Settlement(to=Place.CHILDREN, spends_attempt=False)


@pytest.fixture
def parents(bench: Bench) -> Bench:
    return bench.other("parents")


def make_parent(parents: Bench, job_id: str = "P", **fields: Any) -> str:
    """A parent that waits for its children; its key."""
    parents.client.zadd(parents.keys.key("waiting-children"), {job_id: parents.now_ms()})
    return parents.write_job(job_id, **fields)


def add_child(bench: Bench, parents: Bench, on_failure: str = "wait", parent_id: str = "P", **asked: Any) -> str:
    parent = Parent(id=parent_id, queue=parents.keys.base[:-1], on_failure=on_failure)  # type: ignore[arg-type]
    return bench.add("child", parent=parent, **asked)


def test_the_last_child_to_complete_puts_its_parent_next_in_line(bench: Bench, parents: Bench) -> None:
    key = make_parent(parents)
    waiting = parents.add()
    first, second = (bench.keys.key(add_child(bench, parents)) for _ in range(2))
    bench.run_one(DONE)
    assert list(parents.zset("waiting-children")) == ["P"]
    bench.run_one(Settlement(to=Place.COMPLETED, result=b"7"))

    assert parents.list("wait") == [waiting, "P"]
    assert parents.zset("waiting-children") == {}
    assert parents.client.hgetall(f"{key}:processed") == {first.encode(): b'{"ok":true}', second.encode(): b"7"}
    assert parents.events()[-1] == "waiting jobId=P prev=waiting-children"
    assert parents.zset("marker") == {"0": 0}


def test_a_released_parent_goes_where_its_priority_says(bench: Bench, parents: Bench) -> None:
    make_parent(parents, priority=5)
    add_child(bench, parents)
    bench.run_one(DONE)
    assert parents.zset("prioritized") == {"P": 5 * 2**32 + 1}


def test_a_released_parent_waits_out_its_own_delay(bench: Bench, parents: Bench) -> None:
    make_parent(parents, delay=5000)
    add_child(bench, parents)
    before = bench.now_ms()
    bench.run_one(DONE)
    due = parents.zset("delayed")["P"] // 4096
    assert before + 5000 <= due <= bench.now_ms() + 5000
    assert parents.events()[-1] == f"delayed jobId=P delay={due}"
    assert parents.zset("marker") == {"1": due}


def test_a_paused_parent_queue_gets_the_parent_without_a_marker(bench: Bench, parents: Bench) -> None:
    make_parent(parents)
    parents.client.hset(parents.keys.key("meta"), "paused", 1)
    add_child(bench, parents)
    bench.run_one(DONE)
    assert parents.list("wait") == ["P"]
    assert parents.zset("marker") == {}


@pytest.mark.parametrize(
    ("on_failure", "released", "noted"),
    [("wait", False, False), ("continue", True, True), ("ignore", False, True), ("remove", False, False)],
)
def test_a_failed_child_does_to_its_parent_what_its_flag_says(
    bench: Bench, parents: Bench, on_failure: str, released: bool, noted: bool
) -> None:
    key = make_parent(parents)
    child = bench.keys.key(add_child(bench, parents, on_failure))
    other = bench.keys.key(add_child(bench, parents))
    bench.run_one(FAILED)

    assert (parents.list("wait") == ["P"]) is released
    assert parents.client.hgetall(f"{key}:failed") == ({child.encode(): b"boom"} if noted else {})
    pending = {other.encode()} | ({child.encode()} if on_failure == "wait" else set())
    assert parents.client.smembers(f"{key}:dependencies") == pending
    bench.run_one(DONE)
    assert (parents.list("wait") == ["P"]) is (on_failure != "wait")


def test_a_child_that_fails_its_parent_condemns_it_and_so_up_the_line(bench: Bench, parents: Bench) -> None:
    grand = bench.other("grand")
    grand_key = make_parent(grand, "G")
    middle_key = make_parent(
        parents,
        parentKey=grand_key,
        parent=json.dumps({"id": "G", "queueKey": grand.keys.base[:-1], "fpof": True}),
    )
    bench.client.sadd(f"{grand_key}:dependencies", middle_key)
    child = bench.keys.key(add_child(bench, parents, "fail"))
    add_child(bench, parents)
    bench.run_one(FAILED)

    assert list(parents.zset("P:unsuccessful")) == [child]
    taken = parents.take()
    assert taken.job.deferred_failure == f"child {child} failed"
    parents.settle(taken, Settlement(to=Place.FAILED, reason=taken.job.deferred_failure))
    assert "defa" not in parents.hash("P")
    assert grand.take().job.deferred_failure == f"child {middle_key} failed"


def test_a_delayed_parent_is_condemned_at_once(bench: Bench, parents: Bench) -> None:
    parents.write_job("P", delay=60_000)
    parents.client.zadd(parents.keys.key("delayed"), {"P": (parents.now_ms() + 60_000) * 4096})
    add_child(bench, parents, "fail")
    bench.run_one(FAILED)
    assert (parents.zset("delayed"), parents.list("wait")) == ({}, ["P"])
    assert parents.hash("P")["delay"] == "0"


def test_a_running_parent_cannot_complete_with_failed_or_pending_children(bench: Bench, parents: Bench, dump) -> None:
    parent_id = parents.add()
    running = parents.take()
    child = add_child(bench, parents, "fail", parent_id)
    before = dump("parents:")
    assert parents.settle(running, DONE).word == "pending-children"
    assert dump("parents:") == before
    bench.run_one(FAILED)
    before = dump("parents:")
    assert parents.settle(running, DONE).word == "failed-children"
    assert parents.settle(running, WAIT_FOR_CHILDREN).word == "failed-children"
    assert dump("parents:") == before
    assert parents.hash(parent_id)["defa"] == f"child {bench.keys.key(child)} failed"
    assert parents.settle(running, FAILED).word == "ok"


def test_a_job_can_wait_for_its_children_and_runs_again_after_them(bench: Bench, parents: Bench, dump) -> None:
    parent_id = parents.add()
    running = parents.take()
    before = dump()
    assert parents.settle(running, WAIT_FOR_CHILDREN).word == "nothing-to-wait-for"
    assert dump() == before

    add_child(bench, parents, parent_id=parent_id)
    assert parents.settle(running, WAIT_FOR_CHILDREN).word == "ok"
    assert list(parents.zset("waiting-children")) == [parent_id]
    assert parents.list("active") == []
    assert parents.events()[-1] == f"waiting-children jobId={parent_id} prev=active"
    bench.run_one(DONE)
    again = parents.take()
    assert (again.job.id, again.job.attempts_started, again.job.attempts_made) == (parent_id, 2, 0)
    assert parents.settle(again, DONE).word == "ok"


def test_a_parent_in_the_same_queue_is_claimed_in_the_same_call(bench: Bench) -> None:
    make_parent(bench)
    add_child(bench, bench)
    settled = bench.settle(bench.take(), DONE, claims=1)
    assert settled.claimed is not None
    assert [taken.job.id for taken in settled.claimed.jobs] == ["P"]


def test_a_failed_child_that_is_not_kept_lets_its_parent_go_on(bench: Bench, parents: Bench) -> None:
    make_parent(parents)
    add_child(bench, parents, remove_on_fail=True)
    bench.run_one(FAILED)
    assert parents.list("wait") == ["P"]


def test_a_parent_that_is_gone_is_not_made_into_a_ghost(bench: Bench, parents: Bench, dump) -> None:
    make_parent(parents)
    add_child(bench, parents, "fail")
    parents.client.delete(parents.keys.key("P"), parents.keys.key("waiting-children"))
    bench.run_one(FAILED)
    assert not [key for key in dump("parents:") if key.startswith("P")]


def test_a_foreign_type_in_the_parents_queue_stops_the_childs_settlement(bench: Bench, parents: Bench, dump) -> None:
    make_parent(parents)
    add_child(bench, parents)
    taken = bench.take()
    parents.client.set(parents.keys.key("wait"), "foreign")
    before = dump()
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        bench.settle(taken, DONE)
    assert dump() == before
