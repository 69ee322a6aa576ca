"""Iterations of schedules."""

from __future__ import annotations

from hands import Hands

from recipes.table import LATER_MS, recipe

FAR_AHEAD = 4_102_444_800_000  # 2100


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


@recipe
def an_interval_is_changed_before_its_run(hands: Hands) -> None:
    hands.schedule("ev1", {"every": LATER_MS}, {"name": "tick", "data": {"n": 1}, "opts": {"attempts": 2}})
    hands.schedule("ev1", {"every": LATER_MS}, {"name": "tock", "data": {"n": 2}, "opts": {"priority": 3}})
    hands.complete(iteration(hands))
    hands.schedule("ev1", {"every": LATER_MS, "limit": 9}, {"name": "tock"})


@recipe
def an_interval_gets_another_length(hands: Hands) -> None:
    hands.schedule("ev1", {"every": LATER_MS}, {"name": "tick"})
    hands.schedule("ev1", {"every": 3 * LATER_MS}, {"name": "tick"})
    hands.complete(iteration(hands))


@recipe
def a_schedule_with_a_start_and_an_end(hands: Hands) -> None:
    for name, repeat in (("ev1", {"every": LATER_MS}), ("cr1", {"pattern": "0 0 1 1 *", "tz": "Europe/Berlin"})):
        hands.schedule(name, {**repeat, "startDate": FAR_AHEAD, "endDate": FAR_AHEAD + 10**11}, {"data": {"n": 1}})


@recipe
def a_pattern_that_runs_at_once(hands: Hands) -> None:
    hands.schedule("cr1", {"pattern": "0 0 1 1 *", "tz": "UTC", "immediately": True}, {"name": "yearly"})
    hands.complete(iteration(hands))


@recipe
def an_interval_becomes_a_pattern(hands: Hands) -> None:
    hands.schedule("ev1", {"every": LATER_MS, "startDate": FAR_AHEAD}, {"name": "tick"})
    hands.schedule("ev1", {"pattern": "0 0 1 1 *", "tz": "UTC"}, {"name": "tick"})


@recipe
def schedules_are_removed(hands: Hands) -> None:
    for name in ("ev1", "ev2"):
        hands.schedule(name, {"every": LATER_MS}, {"name": name})
    hands.complete(iteration(hands))
    for name in ("ev1", "ev2", "never-was"):
        hands.operate("remove_scheduler", name)


@recipe
def a_schedule_on_a_paused_queue(hands: Hands) -> None:
    hands.operate("pause")
    hands.schedule("ev1", {"every": LATER_MS}, {"name": "tick"})
    hands.operate("resume")
    hands.complete(iteration(hands))
