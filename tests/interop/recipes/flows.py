"""Parents and children; the children are in a queue of their own."""

from __future__ import annotations

from typing import Any

from hands import Hands

from recipes.table import LATER_MS, recipe, take


def child(job_id: str, **opts: Any) -> dict[str, Any]:
    return {"name": "child", "queueName": "leaves", "data": {"c": job_id}, "opts": {"jobId": job_id, **opts}}


def flow(*children: dict[str, Any], **opts: Any) -> dict[str, Any]:
    """A parent "P" in the queue of the hands."""
    opts = {"jobId": "P", **opts}
    return {"name": "parent", "queueName": "render", "data": {}, "opts": opts, "children": list(children)}


@recipe
def a_flow_with_every_failure_policy(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(
        flow(
            child("C1"),
            child("C2", failParentOnFailure=True),
            child("C3", ignoreDependencyOnFailure=True),
            child("C4", removeDependencyOnFailure=True),
            child("C5", continueParentOnFailure=True),
            child("C6", delay=LATER_MS),
        )
    )
    for expected in ("C1", "C2", "C3", "C4", "C5"):
        take(leaves, expected)
    leaves.complete("C1", {"v": 1})
    leaves.fail("C3", "e3")
    leaves.fail("C4", "e4")
    leaves.fail("C5", "e5")
    take(hands, "P")
    hands.postpone("P", "children")
    leaves.fail("C2", "e2")
    hands.end_deferred(take(hands, "P"))


@recipe
def the_last_child_releases_its_parent(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.add("waits")
    hands.flow(flow(child("A"), child("B")))
    leaves.complete(take(leaves, "A"), {"v": 1})
    leaves.complete(take(leaves, "B"))
    hands.complete(take(hands, "P"), {"done": True})


@recipe
def a_prioritized_parent_is_released(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A"), priority=5))
    leaves.complete(take(leaves, "A"))


@recipe
def a_delayed_parent_is_released(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A"), delay=LATER_MS))
    leaves.complete(take(leaves, "A"))


@recipe
def a_failed_child_fails_a_parent_that_is_to_be_delayed(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A"), child("B", failParentOnFailure=True), delay=LATER_MS))
    leaves.fail(take(leaves, "A"))
    leaves.fail(take(leaves, "B"))
    hands.operate("promote", "P")
    hands.end_deferred(take(hands, "P"))


@recipe
def a_failed_child_fails_a_parent_that_is_delayed(hands: Hands) -> None:
    leaves = hands.on("leaves")
    children = (child("A", continueParentOnFailure=True), child("B", failParentOnFailure=True))
    hands.flow(flow(*children, delay=LATER_MS, priority=7))
    leaves.fail(take(leaves, "A"))
    leaves.fail(take(leaves, "B"))
    hands.end_deferred(take(hands, "P"))


@recipe
def a_failure_climbs_from_child_to_grandparent(hands: Hands) -> None:
    leaves = hands.on("leaves")
    middle = {**child("M", failParentOnFailure=True), "children": [child("A", failParentOnFailure=True)]}
    hands.flow(flow(middle))
    leaves.fail(take(leaves, "A"))
    leaves.end_deferred(take(leaves, "M"))
    hands.end_deferred(take(hands, "P"))


@recipe
def children_removed_as_they_end(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A", removeOnComplete=True), child("B", removeOnFail=True, ignoreDependencyOnFailure=True)))
    leaves.complete(take(leaves, "A"), 1)
    leaves.fail(take(leaves, "B"))


@recipe
def a_child_added_to_a_parent_that_is_there(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A")))
    parent = {"id": "P", "queue": f"{hands.prefix}:render"}
    leaves.add("late", {"v": 1}, jobId="L", parent=parent)
    leaves.complete(take(leaves, "A"))
    leaves.complete(take(leaves, "L"))
    take(hands, "P")


@recipe
def a_child_that_had_ended_before_its_parent_asked(hands: Hands) -> None:
    leaves = hands.on("leaves")
    leaves.add("early", jobId="E")
    leaves.complete(take(leaves, "E"), {"r": 7})
    hands.flow(flow(child("A")))
    leaves.add("early", jobId="E", parent={"id": "P", "queue": f"{hands.prefix}:render"})
    leaves.complete(take(leaves, "A"))


@recipe
def a_failed_child_is_retried(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A", ignoreDependencyOnFailure=True), child("B")))
    leaves.fail(take(leaves, "A"))
    leaves.operate("retry", "A")
    leaves.complete(take(leaves, "B"))
    leaves.complete(take(leaves, "A"))


@recipe
def a_child_with_attempts_left_says_nothing_to_its_parent(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A", attempts=2, failParentOnFailure=True)))
    leaves.fail(take(leaves, "A"))
    leaves.complete(take(leaves, "A"), "second time")


@recipe
def a_parent_without_children_left_is_run_once_more_after_waiting(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.add("parent", jobId="P")
    take(hands, "P")
    leaves.add("late", jobId="L", parent={"id": "P", "queue": f"{hands.prefix}:render"})
    hands.postpone("P", "children")
    leaves.complete(take(leaves, "L"), {"v": 1})
    hands.complete(take(hands, "P"))


@recipe
def the_last_pending_child_is_removed(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A"), child("B")))
    leaves.complete(take(leaves, "A"))
    leaves.operate("remove", "B")


@recipe
def a_flow_whose_only_child_had_ended(hands: Hands) -> None:
    leaves = hands.on("leaves")
    leaves.add("early", jobId="E")
    leaves.complete(take(leaves, "E"), {"r": 7})
    hands.flow(flow(child("E")))


@recipe
def a_flow_of_which_one_child_had_ended(hands: Hands) -> None:
    leaves = hands.on("leaves")
    leaves.add("early", jobId="E")
    leaves.complete(take(leaves, "E"))
    hands.flow(flow(child("E"), child("A")))


@recipe
def a_deep_flow_with_options_of_every_kind(hands: Hands) -> None:
    deep = {**child("M", priority=2, attempts=3), "children": [child("A", lifo=True), child("B", removeOnComplete=5)]}
    deep["children"].append({**child("N", delay=LATER_MS), "children": [child("C", priority=7, keepLogs=3)]})
    hands.flow(flow(deep, child("D", backoff={"type": "fixed", "delay": 7}), removeOnFail=True))


@recipe
def a_flow_while_its_queues_are_paused(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.operate("pause")
    leaves.operate("pause")
    hands.flow(flow(child("A"), child("B", delay=LATER_MS)))
    leaves.operate("resume")
    leaves.complete(take(leaves, "A"))


@recipe
def a_flow_added_twice(hands: Hands) -> None:
    for _ in range(2):
        hands.flow(flow(child("A"), child("B")))


@recipe
def a_root_without_children(hands: Hands) -> None:
    hands.flow(flow(deduplication={"id": "d"}))


@recipe
def a_child_that_leaves_its_parent(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A"), child("B")))
    leaves.operate("remove_child_dependency", "A")
    leaves.complete(take(leaves, "A"))
    leaves.operate("remove_child_dependency", "B")


@recipe
def a_family_that_has_ended_is_removed(hands: Hands) -> None:
    # Of one that has not, BullMQ tells that the parent waits for a worker, as it removes the last child before it.
    leaves = hands.on("leaves")
    hands.flow(flow(child("A"), child("B", ignoreDependencyOnFailure=True)))
    leaves.complete(take(leaves, "A"))
    leaves.fail(take(leaves, "B"))
    hands.operate("remove", "P")


@recipe
def children_that_wait_to_run_are_removed_and_others_stay(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A"), child("F"), child("R"), child("B", priority=3)))
    leaves.complete(take(leaves, "A"))
    leaves.fail(take(leaves, "F"))
    take(leaves, "R")
    hands.operate("remove_unprocessed_children", "P")


@recipe
def the_only_child_that_a_parent_still_waits_for_is_removed_as_unprocessed(hands: Hands) -> None:
    leaves = hands.on("leaves")
    hands.flow(flow(child("A"), child("B", delay=LATER_MS)))
    leaves.complete(take(leaves, "A"), {"v": 1})
    hands.operate("remove_unprocessed_children", "P")
