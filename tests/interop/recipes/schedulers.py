"""Iterations of schedules."""

from __future__ import annotations

from hands import Hands

from recipes.table import LATER_MS, recipe


def iteration(hands: Hands) -> str:
    taken = hands.claim()
    assert taken is not None
    return taken


@recipe
def an_interval(hands: Hands) -> None:
    hands.schedule("ev1", {"every": LATER_MS}, {"name": "tick", "data": {"n": 1}, "opts": {"attempts": 2}})
    hands.fail(iteration(hands))
    hands.complete(iteration(hands))


@recipe
def an_interval_at_its_limit(hands: Hands) -> None:
    hands.schedule("ev1", {"every": LATER_MS, "limit": 2}, {})
    first = iteration(hands)
    following = hands.node.call("getDelayed")[0]["id"]
    hands.complete(first)
    hands.operate("promote", following)
    hands.complete(iteration(hands))


@recipe
def an_interval_with_an_offset(hands: Hands) -> None:
    hands.schedule("ev1", {"every": 8 * 3600 * 1000, "offset": 50}, {"opts": {"priority": 3}})
    for _ in range(2):
        hands.operate("promote", hands.node.call("getDelayed")[0]["id"])
        hands.complete(iteration(hands))


@recipe
def a_cron_pattern(hands: Hands) -> None:
    pattern = {"pattern": "0 0 1 1 *", "tz": "UTC", "limit": 3}
    hands.schedule("cron", pattern, {"name": "yearly", "data": {"c": []}, "opts": {"priority": 3}})
    hands.operate("promote", hands.node.call("getDelayed")[0]["id"])
    hands.complete(iteration(hands))
