"""Flows that BullMQ inserts run to their end on sandq alone, whatever becomes of the children."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from peer import Peer, PeerQueue
from redis import Redis

from sandq import JobState, Queue

Supervise = Callable[..., None]
POLICIES = (
    "failParentOnFailure",
    "ignoreDependencyOnFailure",
    "removeDependencyOnFailure",
    "continueParentOnFailure",
)


@pytest.fixture
def leaves(node_process: Peer, node: PeerQueue) -> PeerQueue:
    """The queue of the children; its parents are in `node`."""
    return PeerQueue(node_process, node.prefix, "leaves")


def leaf(job_id: str, data: dict[str, Any], **opts: Any) -> dict[str, Any]:
    return {"name": "leaf", "queueName": "leaves", "data": data, "opts": {"jobId": job_id, **opts}}


def parent(job_id: str, *children: dict[str, Any], queue: str = "render", **opts: Any) -> dict[str, Any]:
    node = {"name": "parent", "queueName": queue, "data": {}, "opts": {"jobId": job_id, **opts}}
    return {**node, "children": list(children)}


def test_a_parent_reads_the_values_of_its_children_in_another_queue(
    node: PeerQueue, leaves: PeerQueue, supervise: Supervise
) -> None:
    tree = parent("p", leaf("a", {"return": {"n": 1}}), leaf("b", {"return": "été"}), leaf("c", {"return": None}))
    node.ask("flow", flow=tree)
    assert node.job("p", "getState") == "waiting-children"
    supervise("render", "leaves")
    values = {"a": {"n": 1}, "b": "été", "c": None}
    assert node.result("p") == {f"{leaves.prefix}:leaves:{job_id}": value for job_id, value in values.items()}


def test_a_nested_flow_ends_from_the_leaves_up(node: PeerQueue, leaves: PeerQueue, supervise: Supervise) -> None:
    inner = parent("inner", leaf("deep", {"return": 7}), queue="leaves")
    node.ask("flow", flow=parent("root", inner, parent("side", leaf("deeper", {"return": 8}))))
    supervise("render", "leaves")
    p = node.prefix
    assert node.result("root") == {
        f"{p}:leaves:inner": {f"{p}:leaves:deep": 7},
        f"{p}:render:side": {f"{p}:leaves:deeper": 8},
    }


def test_a_flow_ends_when_parents_and_children_are_removed_on_completion(
    node: PeerQueue, leaves: PeerQueue, supervise: Supervise, redis_client: Redis
) -> None:
    gone: dict[str, Any] = {"removeOnComplete": True}
    node.ask("flow", flow=parent("p", leaf("a", {"return": 1}, **gone), leaf("b", {"return": 2}, **gone), **gone))
    supervise("render", "leaves")
    assert len(node.result("p")) == 2
    left = [key for key in redis_client.scan_iter(f"{node.prefix}:*") if key.rsplit(b":", 1)[1] in (b"p", b"a", b"b")]
    assert left == []


def test_a_failed_child_fails_its_parents_all_the_way_up(
    node: PeerQueue, leaves: PeerQueue, queue: Queue, supervise: Supervise
) -> None:
    fails: dict[str, Any] = {"failParentOnFailure": True}
    middle = parent("middle", leaf("bad", {"raise": "torn"}, **fails), queue="leaves", **fails)
    node.ask("flow", flow=parent("root", middle, leaf("late", {"return": 1}, delay=60000)))
    supervise("render", "leaves")
    p = node.prefix
    assert leaves.reason("middle") == f"child {p}:leaves:bad failed"
    assert node.reason("root") == f"child {p}:leaves:middle failed"
    assert queue.state("root") is JobState.FAILED
    assert leaves.job("late", "getState") == "delayed"


@pytest.mark.parametrize(
    ("policy", "ignored"), [("ignoreDependencyOnFailure", True), ("removeDependencyOnFailure", False)]
)
def test_a_parent_that_may_lose_a_child_completes_without_its_value(
    node: PeerQueue, leaves: PeerQueue, supervise: Supervise, policy: str, ignored: bool
) -> None:
    good = leaf("good", {"return": 1})
    node.ask("flow", flow=parent("p", good, leaf("bad", {"raise": "torn"}, **{policy: True})))
    supervise("render", "leaves")
    p = node.prefix
    assert node.result("p") == {f"{p}:leaves:good": 1}
    failures = {f"{p}:leaves:bad": "ValueError: torn"} if ignored else {}
    assert node.job("p", "getIgnoredChildrenFailures") == failures


def test_a_parent_that_continues_on_failure_does_not_wait_for_its_other_children(
    node: PeerQueue, leaves: PeerQueue, supervise: Supervise
) -> None:
    waits = {"name": "echo", "queueName": "render", "data": {"return": "early"}, "opts": {"jobId": "p"}}
    bad = leaf("bad", {"raise": "torn"}, continueParentOnFailure=True)
    node.ask("flow", flow={**waits, "children": [leaf("slow", {}, delay=60000), bad]})
    supervise("render", "leaves")
    # A parent with pending children may run, to look at the failure; completing is refused, by BullMQ as by sandq.
    assert "some of its children have not ended" in node.reason("p")
    assert node.until("waiting", "p")[0]["prev"] == "waiting-children"
    assert node.job("p", "getIgnoredChildrenFailures") == {f"{node.prefix}:leaves:bad": "ValueError: torn"}
    assert leaves.job("slow", "getState") == "delayed"


def test_a_parent_without_a_policy_keeps_waiting_for_a_failed_child_until_that_is_retried(
    node: PeerQueue, leaves: PeerQueue, supervise: Supervise
) -> None:
    node.ask("flow", flow=parent("p", leaf("bad", {"raise": "torn"})))
    supervise("render", "leaves")
    leaves.reason("bad")
    assert node.job("p", "getState") == "waiting-children"
    leaves.job("bad", "updateData", {"return": "mended"})
    leaves.job("bad", "retry")
    assert node.result("p") == {f"{node.prefix}:leaves:bad": "mended"}


def test_a_released_parent_keeps_its_priority(node: PeerQueue, leaves: PeerQueue, supervise: Supervise) -> None:
    node.ask("flow", flow=parent("p", leaf("a", {"return": 1}), priority=5))
    supervise("leaves")
    leaves.result("a")
    assert node.call("getPrioritized")[0]["id"] == "p"
