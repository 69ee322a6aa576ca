"""How much of a queue may run at a time and how fast, over all its workers."""

from __future__ import annotations

from sandq.errands.step import Errand
from sandq.errors import QueueError
from sandq.store import gauges, maintain, reads
from sandq.store.arguments import milliseconds, whole
from sandq.store.keys import QueueKeys
from sandq.units import Duration


def meta(keys: QueueKeys) -> Errand[reads.Meta]:
    """The settings of the queue that every worker obeys."""
    found: reads.Meta = yield reads.meta(keys)
    return found


def set_global_concurrency(keys: QueueKeys, concurrency: int | None) -> Errand[None]:
    """Let at most this many jobs of the queue run at a time, over all workers; None lifts it."""
    yield maintain.set_concurrency(
        keys, None if concurrency is None else whole("global concurrency", concurrency, least=1)
    )


def global_concurrency(keys: QueueKeys) -> Errand[int | None]:
    """How many jobs of the queue may run at a time, over all workers; None: the queue has no limit."""
    found: reads.Meta = yield reads.meta(keys)
    return found.concurrency


def is_maxed(keys: QueueKeys) -> Errand[bool]:
    """Whether as many jobs run as the global concurrency allows."""
    maxed: bool = yield gauges.is_maxed(keys)
    return maxed


def set_global_rate_limit(keys: QueueKeys, max: int | None, duration: Duration | None = None) -> Errand[None]:  # noqa: A002
    """Let at most `max` jobs of the queue start per `duration`, over all workers; None lifts it."""
    if (max is None) is not (duration is None):
        raise QueueError("a global rate limit takes max and duration, or None for no limit")
    most = None if max is None else whole("global rate limit", max, least=1)
    yield maintain.set_rate_limit(keys, most, None if duration is None else _limit_ms(duration))


def global_rate_limit(keys: QueueKeys) -> Errand[tuple[int, float] | None]:
    """How many jobs of the queue may start per how many seconds, over all workers; None: the queue has no limit."""
    found: reads.Meta = yield reads.meta(keys)
    if found.limiter_max is None or found.limiter_duration_ms is None:
        return None
    return found.limiter_max, found.limiter_duration_ms / 1000


def rate_limit(keys: QueueKeys, duration: Duration) -> Errand[None]:
    """Let no job of the queue start for this long; running jobs go on.

    BullMQ's workers obey only where a limit is known to them: their own, or the queue's global one.
    """
    yield maintain.limit_for(keys, _limit_ms(duration))


def rate_limit_ttl(keys: QueueKeys, max: int | None = None) -> Errand[float]:  # noqa: A002
    """For how many seconds a rate limit keeps jobs from starting, 0 when it does not; `max`: a worker's own limit."""
    most = None if max is None else whole("max", max, least=1)
    left_ms: int = yield gauges.limited_ms(keys, most)
    return left_ms / 1000


def remove_rate_limit(keys: QueueKeys) -> Errand[bool]:
    """Let jobs start that a rate limit holds back now; whether there was one. A global limit counts anew."""
    there: bool = yield maintain.lift_limit(keys)
    return there


def _limit_ms(duration: Duration) -> int:
    return whole("duration of a rate limit (ms)", round(milliseconds("rate limit", duration)), least=1, most=2**53)
