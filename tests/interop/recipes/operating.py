"""What an operator does by hand."""

from __future__ import annotations

from hands import Hands

from recipes.table import LATER_MS, LONG_AGO, recipe, take


@recipe
def retries_by_hand(hands: Hands) -> None:
    hands.add("fails")
    hands.add("fails", priority=3)
    hands.add("fails", lifo=True)
    for expected in ("3", "1", "2"):
        hands.fail(take(hands, expected))
    for job_id in ("1", "2", "3"):
        hands.operate("retry", job_id)
    take(hands, "3")


@recipe
def promotions_by_hand(hands: Hands) -> None:
    hands.add("later", delay=LATER_MS)
    hands.add("later", delay=LATER_MS, priority=3)
    hands.add("waits")
    hands.operate("promote", "1")
    hands.operate("promote", "2")


@recipe
def removals_by_hand(hands: Hands) -> None:
    hands.add("waits")
    hands.add("later", delay=LATER_MS)
    hands.add("prio", priority=2)
    hands.add("ends")
    hands.operate("remove", "1")
    hands.operate("remove", "2")
    hands.complete(take(hands, "4"))
    hands.operate("remove", "4")
    hands.add("fails", deduplication={"id": "d"})
    hands.operate("remove", "5")


@recipe
def retries_of_completed_jobs(hands: Hands) -> None:
    hands.add("again", {"n": 1})
    hands.complete(take(hands, "1"), {"v": 1})
    hands.operate("retry", "1", "completed")
    hands.complete(take(hands, "1"), {"v": 2})


@recipe
def all_failed_jobs_are_retried(hands: Hands) -> None:
    for n in range(3):
        hands.add("fails", {"n": n})
        hands.fail(take(hands, str(n + 1)), f"boom {n}")
    hands.operate("retry_all", "failed")
    take(hands, "1")


@recipe
def priorities_are_changed(hands: Hands) -> None:
    for options in ({}, {"priority": 5}, {"priority": 5}, {}, {"priority": 2}):
        hands.add("prio", **options)
    hands.operate("change_priority", "1", 5)
    hands.operate("change_priority", "2", 0)
    hands.operate("change_priority", "3", 5, True)
    hands.operate("change_priority", "5", 0, True)
    hands.add("later", delay=LATER_MS)
    hands.operate("change_priority", "6", 7)


@recipe
def delays_are_changed(hands: Hands) -> None:
    for _ in range(2):
        hands.add("later", delay=LATER_MS)
    hands.operate("change_delay", "1", 3 * LATER_MS)
    hands.operate("change_delay", "2", 0)
    take(hands, "2")


@recipe
def jobs_are_written_to_by_hand(hands: Hands) -> None:
    hands.add("plain", {"n": 1}, keepLogs=2)
    hands.operate("update_data", "1", {"n": 2, "s": "é"})
    hands.operate("update_progress", "1", {"pct": 5})
    for n in range(3):
        hands.operate("log", "1", f"line {n}")
    hands.add("plain")
    for n in range(3):
        hands.operate("log", "2", f"line {n}")
    hands.operate("clear_logs", "2", 1)


@recipe
def limits_are_set_and_lifted(hands: Hands) -> None:
    hands.operate("set_global_concurrency", 1)
    hands.operate("set_global_rate_limit", 2, LATER_MS)
    hands.operate("rate_limit", LATER_MS)
    hands.add("plain")
    hands.operate("remove_rate_limit")
    take(hands, "1")
    hands.operate("unset_global_concurrency")
    hands.operate("unset_global_rate_limit")


@recipe
def a_deduplication_id_is_forgotten(hands: Hands) -> None:
    hands.add("one", deduplication={"id": "S"})
    hands.operate("remove_deduplication_key", "S")
    hands.add("one", deduplication={"id": "S"})
    hands.complete(take(hands, "1"))


@recipe
def a_queue_is_drained(hands: Hands) -> None:
    hands.add("waits", deduplication={"id": "d"})
    hands.add("prio", priority=2)
    hands.add("later", delay=LATER_MS)
    hands.add("ended")
    hands.add("waits too")
    hands.complete(take(hands, "1"))
    hands.operate("drain", False)
    hands.operate("drain", True)


@recipe
def old_jobs_are_cleaned(hands: Hands) -> None:
    for n in range(4):
        hands.add("ends", timestamp=LONG_AGO)
        if n % 2:
            hands.fail(take(hands, str(n + 1)))
        else:
            hands.complete(take(hands, str(n + 1)))
    for options in ({}, {"priority": 2}, {"delay": LATER_MS}):
        hands.add("old", timestamp=LONG_AGO, **options)
        hands.add("young", **options)
    hands.operate("clean", "completed", LATER_MS)
    hands.operate("clean", "completed", 0, 1)
    hands.operate("clean", "failed", 0)
    for state in ("waiting", "prioritized", "delayed"):
        hands.operate("clean", state, LATER_MS)


@recipe
def a_queue_is_obliterated(hands: Hands) -> None:
    hands.add("waits", deduplication={"id": "d"})
    hands.add("prio", priority=2)
    hands.add("later", delay=LATER_MS)
    hands.complete(take(hands, "1"))
    hands.add("fails")
    hands.fail(take(hands, "4"))
    hands.schedule("ev1", {"every": LATER_MS}, {})
    hands.operate("obliterate", False)


@recipe
def a_queue_is_obliterated_by_force(hands: Hands) -> None:
    for _ in range(2):
        hands.add("plain")
    take(hands, "1")
    hands.operate("obliterate", True)
