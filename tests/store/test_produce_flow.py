"""Flows on their way into Redis: what stands there afterwards, and that one refused job leaves nothing there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from trees import add, leaf, parent, states
from worker_bench import DONE, FAILED, Bench

from sandq.client import drive
from sandq.errands import family as of_family
from sandq.errands import flow as of_flow
from sandq.errands.flow import FlowJob
from sandq.errors import QueueError, StoreRefused
from sandq.outcome import Place, Settlement
from sandq.store import flow
from sandq.store.executors import SyncExecutor
from sandq.store.newjob import Parent

# -- what is written ---------------------------------------------------------------------------------------------------


def test_a_flow_leaves_exactly_what_bullmq_would(bench: Bench, leaves: Bench, dump: Callable[..., Any]) -> None:
    rules = {"C1": "wait", "C2": "fail", "C3": "ignore", "C4": "remove", "C5": "continue"}
    children = [leaf(job_id, on_failure=rule) for job_id, rule in rules.items()]  # type: ignore[arg-type]
    [added] = add(bench, parent(*children, leaf("C6", delay=60)))
    created = added.job.timestamp
    p = bench.keys.prefix
    keys = {f"{p}:leaves:C{n}" for n in range(1, 7)}
    assert bench.zset("waiting-children") == {"P": created}
    assert {raw.decode() for raw in bench.client.smembers(bench.keys.key("P:dependencies"))} == keys
    assert bench.hash("P")["opts"] == '{"attempts":0,"jobId":"P"}'
    assert bench.events() == ["added jobId=P name=parent", "waiting-children jobId=P"]
    assert (bench.zset("marker"), bench.client.get(bench.keys.key("id"))) == ({}, b"1")

    flags = {"C1": {}, "C2": {"fpof": True}, "C3": {"idof": True}, "C4": {"rdof": True}, "C5": {"cpof": True}, "C6": {}}
    for job_id, flag in flags.items():
        child = leaves.hash(job_id)
        assert child["parentKey"] == f"{p}:render:P"
        assert json.loads(child["parent"]) == {"id": "P", "queueKey": f"{p}:render", **flag}
        opts = json.loads(child["opts"])
        assert opts.pop("parent") == {"id": "P", "queue": f"{p}:render"}
        assert opts.items() >= flag.items()
    assert leaves.list("wait") == ["C5", "C4", "C3", "C2", "C1"]
    assert leaves.zset("delayed") == {"C6": (created + 60_000) * 4096}
    assert leaves.events()[:2] == ["added jobId=C1 name=leaf", "waiting jobId=C1"]
    assert leaves.events()[-2:] == ["added jobId=C6 name=leaf", f"delayed jobId=C6 delay={created + 60_000}"]
    assert leaves.client.get(leaves.keys.key("id")) == b"6"
    own = {name for name in dump("render:") if not name.startswith("sq:op:")}
    assert own == {"P", "P:dependencies", "waiting-children", "id", "meta", "events"}


def test_jobs_are_added_level_by_level_and_get_ids_that_no_queue_counts(bench: Bench) -> None:
    tree = {"name": "a", "queue": "render", "children": [{"name": "b", "children": [{"name": "c"}]}, {"name": "d"}]}
    [added] = add(bench, tree)
    nodes = list(added.walk())
    assert [node.job.name for node in nodes] == ["a", "b", "c", "d"]
    assert [event.split("=")[-1] for event in bench.events() if event.startswith("added")] == ["a", "b", "d", "c"]
    assert all(UUID(node.job.id).version == 4 for node in nodes)
    assert "jobId" not in bench.hash(nodes[0].job.id)["opts"]  # as in BullMQ: nobody asked for this id
    assert [child.job.name for child in added.children] == ["b", "d"]
    assert [child.job.name for child in added.children[0].children] == ["c"]
    assert added.children[0].job.parent_key == bench.keys.key(added.job.id)


def test_a_child_without_a_queue_is_in_its_parents(bench: Bench, leaves: Bench) -> None:
    add(bench, parent(FlowJob("b", queue="leaves", job_id="B", children=[FlowJob("c", job_id="C")])))
    assert (list(leaves.zset("waiting-children")), leaves.list("wait")) == (["B"], ["C"])


def test_a_released_parent_goes_where_its_own_delay_and_priority_say(bench: Bench, leaves: Bench) -> None:
    add(bench, parent(leaf("A"), priority=5), parent(leaf("B"), job_id="Q", delay=60))
    assert sorted(bench.zset("waiting-children")) == ["P", "Q"]
    leaves.run_one(DONE)
    leaves.run_one(DONE)
    assert bench.zset("prioritized") == {"P": 5 * 2**32 + 1}
    assert list(bench.zset("delayed")) == ["Q"]


def test_the_root_of_a_flow_can_have_a_parent_of_its_own(bench: Bench, leaves: Bench) -> None:
    bench.add(job_id="old")
    above = Parent(id="old", queue=bench.keys.base[:-1])
    add(bench, parent(leaf("A"), parent=above, on_failure="ignore"))
    key = bench.keys.key("P")
    assert bench.client.smembers(bench.keys.key("old:dependencies")) == {key.encode()}
    assert json.loads(bench.hash("P")["parent"])["idof"] is True
    old = bench.take()
    assert bench.settle(old, Settlement(to=Place.CHILDREN, spends_attempt=False)).word == "ok"
    leaves.run_one(DONE)
    bench.run_one(FAILED)
    assert bench.take().job.id == "old"
    assert drive(of_family.child_failures(bench.keys, "old"), bench.run) == {key: "boom"}


def test_a_root_without_children_may_be_deduplicated(bench: Bench) -> None:
    first, second = (add(bench, FlowJob("page", queue="render", deduplication="d"))[0] for _ in range(2))
    assert first.job.id == second.job.id
    assert bench.list("wait") == [first.job.id]


# -- jobs that are there already ---------------------------------------------------------------------------------------


def test_children_that_had_completed_are_counted_and_a_parent_with_no_others_goes_on(
    bench: Bench, leaves: Bench
) -> None:
    leaves.add(job_id="PRE")
    leaves.run_one(Settlement(to=Place.COMPLETED, result=b'{"r":7}'))
    assert leaves.events_during(lambda: add(bench, parent(leaf("PRE")))) == ["duplicated jobId=PRE"]
    assert bench.client.hgetall(bench.keys.key("P:processed")) == {leaves.keys.key("PRE").encode(): b'{"r":7}'}
    assert bench.list("wait") == ["P"]
    assert bench.events()[-1] == "waiting jobId=P prev=waiting-children"
    assert bench.zset("marker") == {"0": 0}


def test_a_parent_waits_for_children_that_come_after_one_that_had_ended(bench: Bench, leaves: Bench) -> None:
    for job_id in ("PRE", "BAD"):
        leaves.add(job_id=job_id, remove_on_complete=False)
    leaves.run_one(DONE)
    leaves.run_one(FAILED)
    add(bench, parent(leaf("BAD", on_failure="ignore"), leaf("PRE"), leaf("NEW")))
    assert states(bench) == {"P": "waiting-children", "BAD": "failed", "PRE": "completed", "NEW": "waiting"}
    leaves.run_one(DONE)
    assert bench.list("wait") == ["P"]


def test_a_job_that_still_waits_becomes_a_child_and_keeps_its_data(bench: Bench, leaves: Bench) -> None:
    leaves.add("old", {"n": 1}, job_id="C")
    add(bench, parent(leaf("C", data={"n": 2})))
    child = leaves.hash("C")
    assert (child["data"], child["parentKey"]) == ('{"n":1}', bench.keys.key("P"))
    leaves.run_one(DONE)
    assert bench.list("wait") == ["P"]


@pytest.mark.parametrize(
    ("rule", "state", "kind"),
    [
        ("fail", "waiting", "failed"),
        ("continue", "waiting", "ignored"),
        ("ignore", "waiting", "ignored"),
        ("remove", "waiting", None),
        ("wait", "waiting-children", "pending"),
    ],
)
def test_a_child_that_had_failed_does_to_its_parent_what_its_rule_says(
    bench: Bench, leaves: Bench, rule: Any, state: str, kind: str | None
) -> None:
    """BullMQ lets the parent wait for ever, whatever the rule."""
    leaves.add(job_id="BAD")
    leaves.run_one(FAILED)
    add(bench, parent(leaf("BAD", on_failure=rule)))
    counts = drive(of_family.child_counts(bench.keys, "P"), bench.run)
    assert {name for name, n in counts.items() if n} == ({kind} if kind else set())
    assert states(bench)["P"] == state
    assert bench.hash("P").get("defa") == (f"child {leaves.keys.key('BAD')} failed" if rule == "fail" else None)


def test_adding_the_same_flow_again_changes_nothing_but_the_counter(
    bench: Bench, leaves: Bench, dump: Callable[..., Any]
) -> None:
    tree = parent(leaf("A"), leaf("B"), FlowJob("inner", job_id="I", children=[leaf("C")]))
    add(bench, tree)
    leaves.run_one(DONE)

    def image() -> dict[str, Any]:
        return {
            key: held for key, held in dump().items() if not key.endswith((":events", ":id")) and "sq:op" not in key
        }

    before = image()
    add(bench, tree)
    assert image() == before
    assert leaves.client.get(leaves.keys.key("id")) == b"6"


GONE = {"remove_on_complete": True, "remove_on_fail": True}


def test_a_flow_added_again_does_not_hang_a_child_that_is_gone_below_its_released_parent(
    bench: Bench, leaves: Bench
) -> None:
    """Else the parent, which runs by now, would fail for good: it has a pending child again."""
    tree = parent(leaf("A", **GONE), FlowJob("inner", job_id="I", children=[leaf("B")], **GONE))
    add(bench, tree)
    for _ in range(2):
        leaves.run_one(DONE)
    assert bench.run_one(DONE) == "I"
    assert bench.list("wait") == ["P"]
    add(bench, tree)
    assert bench.list("wait") == ["P"]
    assert (leaves.list("wait"), leaves.hash("A"), bench.hash("I")) == ([], {}, {})
    assert not bench.client.exists(bench.keys.key("P:dependencies"))
    assert bench.run_one(DONE) == "P"
    assert states(bench)["P"] == "completed"


@pytest.mark.parametrize("settlement", [DONE, FAILED])
def test_a_flow_added_again_makes_only_those_children_anew_that_its_parent_knows_nothing_of(
    bench: Bench, leaves: Bench, settlement: Settlement
) -> None:
    tree = parent(leaf("A", on_failure="ignore", **GONE), leaf("B"))
    add(bench, tree)
    leaves.run_one(settlement)
    bench.client.delete(leaves.keys.key("B"), leaves.keys.key("wait"))
    add(bench, tree)
    assert (leaves.list("wait"), leaves.hash("A")) == (["B"], {})
    leaves.run_one(DONE)
    assert bench.list("wait") == ["P"]


# -- all or nothing ----------------------------------------------------------------------------------------------------


def test_nothing_of_a_flow_is_added_when_one_child_has_another_living_parent(
    bench: Bench, leaves: Bench, dump: Callable[..., Any]
) -> None:
    """BullMQ adds the rest: a parent whose only child was refused would wait for ever."""
    add(bench, parent(leaf("A")))
    before = dump()
    with pytest.raises(QueueError, match=r"'A' has another living parent.*nothing of the flow was added"):
        add(bench, parent(leaf("B"), leaf("A"), job_id="Q"), parent(leaf("C"), job_id="R"))
    assert dump() == before


def test_nothing_is_added_below_a_parent_that_is_not_there(bench: Bench, dump: Callable[..., Any]) -> None:
    with pytest.raises(QueueError, match=r"its parent '.*:render:gone' is not there.*nothing of the flow was added"):
        add(bench, parent(leaf("A"), parent=Parent(id="gone", queue=bench.keys.base[:-1])))
    assert dump() == {}


def test_a_child_whose_parent_is_gone_finds_a_new_one_unless_the_flow_brings_the_old_one_back(
    bench: Bench, leaves: Bench, dump: Callable[..., Any]
) -> None:
    add(bench, parent(leaf("A")))
    bench.client.delete(bench.keys.key("P"), bench.keys.key("waiting-children"))
    before = dump()
    with pytest.raises(QueueError, match="another living parent"):
        add(bench, parent(parent(leaf("A"), job_id="Q")))
    assert dump() == before
    add(bench, parent(leaf("A"), job_id="Q"))
    assert leaves.hash("A")["parentKey"] == bench.keys.key("Q")


def test_a_foreign_type_in_any_queue_of_the_flow_stops_all_of_it(
    bench: Bench, leaves: Bench, dump: Callable[..., Any]
) -> None:
    leaves.client.set(leaves.keys.key("A:dependencies"), "foreign")
    before = dump()
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        add(bench, parent(leaf("B"), leaf("A")))
    assert dump() == before


def test_a_redis_without_memory_takes_nothing_of_a_flow(starved: Bench) -> None:
    starved.pause_writes()
    with pytest.raises(StoreRefused, match="maxmemory"):
        add(starved, parent(leaf("A")))
    assert starved.client.dbsize() == 0


def test_a_flow_whose_answer_was_lost_is_not_added_twice(
    bench: Bench, leaves: Bench, repeat: Callable[..., Any], dump: Callable[..., Any]
) -> None:
    nodes = [branch.node for branch in of_flow._branches(bench.keys.prefix, [parent(FlowJob("leaf", queue="leaves"))])]
    first = repeat(flow.insert(nodes), "op-1")
    before = dump()
    assert repeat(flow.insert(nodes), "op-1") == first
    assert dump() == before
    assert len(leaves.list("wait")) == 1


def test_a_flow_may_be_a_long_chain(bench: Bench) -> None:
    chain: dict[str, Any] = {"name": "first"}
    for n in range(1500):
        chain = {"name": f"n{n}", "queue": "render", "children": [chain]}
    [added] = add(bench, chain)
    assert sum(1 for _ in added.walk()) == 1501


# -- on a cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clustered(tmp_path: Any) -> Any:
    from nodes import Nodes

    nodes = Nodes(tmp_path)
    yield nodes.cluster(2)
    nodes.close()


@pytest.mark.slow
def test_on_a_cluster_a_flow_needs_all_its_queues_in_one_slot(clustered: list[int]) -> None:
    from nodes import client

    executor = SyncExecutor(f"redis+cluster://127.0.0.1:{clustered[0]}")
    try:
        added = drive(of_flow.add("{b}", parent(leaf("A"))), executor.run)
        assert added.children[0].job.id == "A"
        held = sum(client(port).dbsize() for port in clustered)
        # "render" and "leaves" are in slots of different servers
        with pytest.raises(StoreRefused, match="hash tag"):
            drive(of_flow.add("b", parent(leaf("A"))), executor.run)
        assert sum(client(port).dbsize() for port in clustered) == held
    finally:
        executor.close()
