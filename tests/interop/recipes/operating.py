"""What an operator does by hand."""

from __future__ import annotations

from hands import Hands

from recipes.table import LATER_MS, recipe, take


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
