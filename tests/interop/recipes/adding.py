"""Adding jobs."""

from __future__ import annotations

from hands import Hands

from recipes.table import LATER_MS, LONG_AGO, recipe, take


@recipe
def a_standard_add(hands: Hands) -> None:
    hands.add("std", {"a": 1, "s": "é"})
    hands.add("empty")


@recipe
def standard_and_lifo_adds(hands: Hands) -> None:
    hands.add("plain")
    hands.add("lifo", lifo=True)
    hands.add("plain")
    for expected in ("2", "1", "3"):
        hands.complete(take(hands, expected))


@recipe
def delayed_jobs_due_in_the_same_millisecond(hands: Hands) -> None:
    for _ in range(3):
        hands.add("later", timestamp=LONG_AGO, delay=60_000)
    hands.add("later", delay=LATER_MS)


@recipe
def a_claim_moves_all_that_is_due(hands: Hands) -> None:
    for _ in range(3):
        hands.add("later", timestamp=LONG_AGO, delay=60_000)
    hands.add("later", delay=LATER_MS)
    take(hands, "1")


@recipe
def priorities(hands: Hands) -> None:
    for priority in (5, 5, 1, 2_097_151):
        hands.add("prio", priority=priority)
    hands.add("prio", priority=3, lifo=True)
    hands.add("prio", priority=4, delay=LATER_MS)
    hands.operate("promote", "6")
    take(hands, "3")


@recipe
def the_counter_of_priorities_starts_again_once_none_is_left(hands: Hands) -> None:
    hands.add("prio", priority=5)
    hands.complete(take(hands, "1"))
    assert hands.claim() is None
    hands.add("prio", priority=5)


@recipe
def a_custom_id_twice(hands: Hands) -> None:
    hands.add("once", {"n": 1}, jobId="custom-1")
    hands.add("once", {"n": 2}, jobId="custom-1")
    hands.add("once", jobId="a:b:c")


@recipe
def options_of_every_kind(hands: Hands) -> None:
    hands.add("all", {"n": [1.5, None, {}]}, attempts=3, backoff={"type": "exponential", "delay": 1000, "jitter": 0.5})
    hands.add("all", backoff={"type": "fixed", "delay": 7}, removeOnComplete=True, removeOnFail={"age": 60, "count": 5})
    hands.add("all", removeOnComplete=5, removeOnFail=False, stackTraceLimit=3, keepLogs=10)


@recipe
def adds_while_paused(hands: Hands) -> None:
    hands.operate("pause")
    hands.add("plain")
    hands.add("later", timestamp=LONG_AGO, delay=60_000)
    assert hands.claim() is None  # and yet it moves what is due
    hands.operate("pause")
    hands.operate("resume")
    take(hands, "1")


@recipe
def a_resume_with_only_delayed_jobs(hands: Hands) -> None:
    hands.add("later", delay=LATER_MS)
    hands.operate("pause")
    hands.operate("resume")


@recipe
def delayed_jobs_beyond_the_last_place_of_a_millisecond(hands: Hands) -> None:
    due = LONG_AGO + 60_000
    hands.add("later", timestamp=LONG_AGO, delay=60_000)
    hands.client.zadd(hands.keys.key("delayed"), {"1": (due + 1) * 4096 - 1})
    for _ in range(2):
        hands.add("later", timestamp=LONG_AGO, delay=60_000)


@recipe
def many_adds_at_once(hands: Hands) -> None:
    hands.add_many(
        {"name": "plain", "data": {"n": 1}, "opts": {}},
        {"name": "prio", "data": {}, "opts": {"priority": 3, "jobId": "custom"}},
        {"name": "later", "data": {}, "opts": {"delay": LATER_MS}},
        {"name": "prio", "data": {}, "opts": {"jobId": "custom"}},
        {"name": "lifo", "data": {}, "opts": {"lifo": True, "attempts": 3}},
    )


@recipe
def a_resume_with_what_bullmq_5_set_aside(hands: Hands) -> None:
    for _ in range(3):
        hands.add("plain")
    hands.operate("pause")
    hands.client.rename(hands.keys.key("wait"), hands.keys.key("paused"))
    for _ in range(2):
        hands.add("plain")
    hands.operate("resume")
    take(hands, "1")
