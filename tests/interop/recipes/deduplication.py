"""Deduplication windows, and what their owners leave behind."""

from __future__ import annotations

from hands import Hands

from recipes.table import LATER_MS, recipe, take


@recipe
def simple_deduplication(hands: Hands) -> None:
    for _ in range(2):
        hands.add("one", deduplication={"id": "S"})
    hands.complete(take(hands, "1"))
    hands.add("one", deduplication={"id": "S"})


@recipe
def throttling(hands: Hands) -> None:
    for _ in range(2):
        hands.add("one", deduplication={"id": "S", "ttl": 5000})
    hands.complete(take(hands, "1"))
    hands.add("one", deduplication={"id": "S", "ttl": 5000, "extend": True})


@recipe
def debouncing(hands: Hands) -> None:
    for n in range(3):
        rule = {"id": "D", "ttl": LATER_MS, "extend": True, "replace": True}
        hands.add("one", {"n": n}, delay=LATER_MS, deduplication=rule)


@recipe
def replacing_without_ttl_and_of_a_job_that_runs(hands: Hands) -> None:
    for n in range(2):
        hands.add("one", {"n": n}, delay=LATER_MS, deduplication={"id": "D", "replace": True})
    hands.operate("promote", "2")
    take(hands, "2")
    hands.add("one", {"n": 3}, deduplication={"id": "D", "replace": True})


@recipe
def a_window_whose_owner_is_gone(hands: Hands) -> None:
    hands.add("one", deduplication={"id": "S"})
    hands.client.delete(hands.keys.key("1"))
    hands.add("one", deduplication={"id": "S"})


@recipe
def a_window_outlives_retries_and_ends_with_the_last_failure(hands: Hands) -> None:
    rule = {"id": "S"}
    hands.add("often", attempts=2, removeOnFail=True, deduplication=rule)
    hands.fail(take(hands, "1"))
    hands.add("often", deduplication=rule)
    hands.fail(take(hands, "1"))
    hands.add("often", deduplication=rule)


@recipe
def rescheduling(hands: Hands) -> None:
    hands.add("one", delay=LATER_MS, deduplication={"id": "R", "reschedule": True})
    hands.add("one", delay=2 * LATER_MS, deduplication={"id": "R", "reschedule": True})


@recipe
def the_last_of_those_added_while_active(hands: Hands) -> None:
    rule = {"id": "K", "keepLastIfActive": True}
    hands.add("k1", {"v": 1}, deduplication=rule)
    take(hands, "1")
    hands.add("k2", {"v": 2}, deduplication=rule)
    hands.add("k3", {"v": 3}, deduplication=rule, jobId="cust", priority=4)
    hands.complete("1")
    hands.complete(take(hands, "cust"))


@recipe
def the_next_job_stored_while_active(hands: Hands) -> None:
    rule = {"id": "K", "keepLastIfActive": True}
    hands.add("k1", {"v": 1}, deduplication=rule)
    take(hands, "1")
    hands.add("k2", {"v": 2}, deduplication=rule, delay=LATER_MS)
