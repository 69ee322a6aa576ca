"""Claiming jobs and ending their attempts."""

from __future__ import annotations

from typing import Any

from hands import Hands

from recipes.table import LATER_MS, LONG_AGO, recipe, take


@recipe
def a_claim(hands: Hands) -> None:
    hands.add("plain", {"n": 1})
    take(hands, "1")


@recipe
def the_order_of_claims(hands: Hands) -> None:
    hands.add("prio", priority=2)
    hands.add("prio", priority=1)
    hands.add("due", timestamp=LONG_AGO, delay=60_000)
    hands.add("due and prio", timestamp=LONG_AGO, delay=50_000, priority=1)
    hands.add("plain")
    for expected in ("5", "3", "2", "4", "1"):
        take(hands, expected)


@recipe
def a_claim_wakes_the_next_worker(hands: Hands) -> None:
    hands.add("plain")
    hands.wake()
    take(hands, "1")


@recipe
def whatever_makes_a_job_ready_wakes_a_worker(hands: Hands) -> None:
    hands.add("often", attempts=9)
    hands.wake()
    hands.fail(take(hands, "1"))
    hands.wake()
    hands.add("later", delay=LATER_MS)
    hands.wake()
    hands.operate("promote", "2")


@recipe
def a_retry_by_hand_wakes_a_worker(hands: Hands) -> None:
    hands.add("fails")
    hands.fail(take(hands, "1"))
    hands.wake()
    hands.operate("retry", "1")


@recipe
def a_backoff_tells_when_it_is_due(hands: Hands) -> None:
    hands.add("often", attempts=2, backoff={"type": "fixed", "delay": LATER_MS})
    take(hands, "1")
    hands.wake()
    hands.fail("1")


@recipe
def a_completion_that_claims_the_next(hands: Hands) -> None:
    hands.add("first")
    hands.add("second")
    assert hands.complete(take(hands, "1"), {"ok": True, "n": 1, "s": "é/"}, claims=True) == "2"


@recipe
def values_of_every_kind(hands: Hands) -> None:
    values: tuple[Any, ...] = (None, "s", 0, [], {}, 1.5, True, "\u2028")
    for n, value in enumerate(values):
        hands.add("plain")
        hands.complete(take(hands, str(n + 1)), value)


@recipe
def the_last_job_drains_the_queue(hands: Hands) -> None:
    hands.add("last")
    hands.complete(take(hands, "1"), claims=True)


@recipe
def a_delayed_job_keeps_the_queue_from_being_drained(hands: Hands) -> None:
    hands.add("last")
    hands.add("later", delay=LATER_MS)
    hands.complete(take(hands, "1"), claims=True)


@recipe
def a_pause_keeps_the_queue_from_being_drained(hands: Hands) -> None:
    hands.add("last")
    take(hands, "1")
    hands.operate("pause")
    hands.complete("1", claims=True)


@recipe
def a_terminal_failure(hands: Hands) -> None:
    hands.add("once")
    hands.fail(take(hands, "1"), "boom é\nsecond line")


@recipe
def an_unrecoverable_failure_with_attempts_left(hands: Hands) -> None:
    hands.add("often", attempts=3)
    hands.fail(take(hands, "1"), permanent=True)


@recipe
def an_immediate_retry(hands: Hands) -> None:
    hands.add("often", attempts=3)
    hands.add("behind")
    hands.fail(take(hands, "1"))
    hands.complete(take(hands, "2"))
    hands.fail(take(hands, "1"), "again")
    hands.complete(take(hands, "1"))


@recipe
def an_immediate_retry_of_a_lifo_and_of_a_prioritized_job(hands: Hands) -> None:
    hands.add("plain")
    hands.add("lifo", lifo=True, attempts=2)
    hands.fail(take(hands, "2"))
    take(hands, "2")
    hands.fail(take(hands, "1"))
    hands.add("prio", priority=3, attempts=2)
    hands.add("prio", priority=3)
    hands.fail(take(hands, "3"))
    take(hands, "4")


@recipe
def an_immediate_retry_moves_what_is_due_first(hands: Hands) -> None:
    hands.add("often", attempts=2)
    take(hands, "1")
    hands.add("due", timestamp=LONG_AGO, delay=60_000)
    hands.fail("1")
    take(hands, "2")


@recipe
def a_backoff_of_a_prioritized_job(hands: Hands) -> None:
    hands.add("often", attempts=3, backoff={"type": "exponential", "delay": LATER_MS}, priority=2)
    hands.fail(take(hands, "1"))
    hands.operate("promote", "1")
    hands.fail(take(hands, "1"))


@recipe
def only_the_newest_stack_traces_are_kept(hands: Hands) -> None:
    hands.add("often", attempts=9, stackTraceLimit=2)
    for n in range(3):
        hands.fail(take(hands, "1"), f"boom {n}")


@recipe
def a_handler_that_asks_for_later(hands: Hands) -> None:
    hands.add("later")
    hands.postpone(take(hands, "1"), "delay", LATER_MS)
    hands.add("later", priority=2)
    hands.postpone(take(hands, "2"), "delay", LATER_MS)
    hands.operate("promote", "2")
    take(hands, "2")


@recipe
def progress_logs_and_new_data(hands: Hands) -> None:
    hands.add("busy", {"n": 1}, keepLogs=2)
    take(hands, "1")
    hands.note("1", progress={"pct": 5, "s": "é"})
    hands.note("1", progress=50)
    for n in range(3):
        hands.note("1", line=f"line {n}")
    hands.note("1", data={"n": 2, "list": []})
    hands.complete("1")
