"""What keeps a queue healthy: stalled checks, limits, metrics, retention."""

from __future__ import annotations

import time

import pytest
from hands import Hands, LostError

from recipes.table import LATER_MS, LONG_AGO, recipe, take


@recipe
def a_stalled_job_runs_again_and_fails_at_its_second_stall(hands: Hands) -> None:
    hands.add("hangs", attempts=5)
    take(hands, "1")
    hands.check_stalled()  # a suspect from here on
    for _ in range(2):
        hands.lose_lock("1")
        hands.check_stalled()
        take(hands, "1")
        hands.check_stalled()
    hands.end_deferred("1")


@recipe
def a_renewal(hands: Hands) -> None:
    hands.add("works")
    take(hands, "1")
    hands.check_stalled()
    hands.renew("1")


@recipe
def a_renewed_job_is_not_stalled(hands: Hands) -> None:
    hands.add("works")
    hands.add("hangs")
    take(hands, "1")
    take(hands, "2")
    hands.check_stalled()
    hands.renew("1")
    hands.lose_lock("2")
    hands.check_stalled()


@recipe
def a_stalled_prioritized_job(hands: Hands) -> None:
    hands.add("hangs", priority=4)
    hands.add("waits")
    hands.complete(take(hands, "2"))
    take(hands, "1")
    hands.add("waits")
    hands.check_stalled()
    hands.lose_lock("1")
    hands.wake()
    hands.check_stalled()


@recipe
def a_handler_that_limits_the_rate(hands: Hands) -> None:
    hands.add("limited")
    hands.add("behind")
    hands.postpone(take(hands, "1"), "limit", LATER_MS)
    # A limit by hand holds sandq back always, BullMQ's workers only where some maximum is set.
    hands.operate("remove_rate_limit")
    hands.add("prio", priority=2)
    for expected in ("1", "2"):
        hands.complete(take(hands, expected))
    hands.postpone(take(hands, "3"), "limit", LATER_MS)


@recipe
def a_rate_limit_of_the_whole_queue(hands: Hands) -> None:
    hands.operate("set_global_rate_limit", 2, LATER_MS)
    for _ in range(3):
        hands.add("plain")
    take(hands, "1")
    take(hands, "2")
    assert hands.claim() is None


@recipe
def a_concurrency_of_the_whole_queue(hands: Hands) -> None:
    hands.operate("set_global_concurrency", 1)
    hands.add("plain")
    take(hands, "1")
    hands.add("plain")
    hands.add("later", timestamp=LONG_AGO, delay=60_000)
    assert hands.claim() is None
    assert hands.complete("1", claims=True) == "2"


@recipe
def metrics_of_several_minutes(hands: Hands) -> None:
    if (left_s := 60 - time.time() % 60) < 5:
        time.sleep(left_s)  # both sides have to see the same minutes go by
    hands.measure()
    key = hands.keys.key("metrics:completed")
    for n in range(4):
        hands.add("plain")
        hands.complete(take(hands, str(n + 1)))
        hands.client.hincrby(key, "prevTS", -180_000 * n)
    hands.add("plain")
    hands.fail(take(hands, "5"))


@recipe
def a_stream_of_events_that_is_kept_short(hands: Hands) -> None:
    hands.add("plain")
    hands.client.hset(hands.keys.key("meta"), "opts.maxLenEvents", 10)
    for _ in range(120):
        hands.add("plain")
    hands.complete(take(hands, "1"))


@recipe
def retention_by_count_and_age(hands: Hands) -> None:
    for n in range(4):
        hands.add("kept", removeOnComplete=2, removeOnFail={"count": 1})
        hands.complete(take(hands, str(n + 1)))
    hands.add("gone", removeOnComplete=True)
    hands.complete(take(hands, "5"), {"v": 1})
    for n in range(2):
        hands.add("fails", removeOnFail={"count": 1})
        hands.fail(take(hands, str(n + 6)))
    hands.add("aged", removeOnComplete={"age": 3600, "limit": 1})
    hands.complete(take(hands, "8"))


@recipe
def a_limiter_of_the_worker(hands: Hands) -> None:
    hands.limit(2, LATER_MS)
    for _ in range(3):
        hands.add("plain")
    hands.complete(take(hands, "1"))
    assert hands.complete(take(hands, "2"), claims=True) is None
    assert hands.claim() is None


@recipe
def whoever_lost_the_lock_changes_nothing(hands: Hands) -> None:
    hands.add("plain")
    hands.add("plain")
    for job_id, holder in (("1", ""), ("2", "another")):
        take(hands, job_id)
        hands.lose_lock(job_id, holder)
        with pytest.raises(LostError):
            hands.complete(job_id, {"v": 1})
