"""Figures about a queue for whoever watches over it."""

from __future__ import annotations

from collections.abc import Iterable

from sandq.errands.step import Errand
from sandq.errors import QueueError
from sandq.job import JobState
from sandq.store import gauges
from sandq.store.arguments import MAX_DELAY_MS, each, milliseconds, whole
from sandq.store.keys import QueueKeys
from sandq.store.newjob import MAX_PRIORITY
from sandq.units import Duration

FROM_THE_END = -(2**31)  # places below zero are counted from the oldest on: -1


def counts_per_priority(keys: QueueKeys, priorities: Iterable[int]) -> Errand[dict[int, int]]:
    """How many jobs wait under each of these priorities; 0 is what waits without one."""
    wanted = [whole("priority", priority, most=MAX_PRIORITY) for priority in each("priorities", priorities)]
    found: dict[int, int] = yield gauges.counts_per_priority(keys, wanted)
    return found


def delayed_count(keys: QueueKeys, within: Duration) -> Errand[int]:
    """How many delayed jobs are due at most this long from now."""
    within_ms = whole("within (ms)", round(milliseconds("within", within)), most=MAX_DELAY_MS)
    count: int = yield gauges.due_within(keys, within_ms)
    return count


def metrics(keys: QueueKeys, state: JobState | str, start: int = 0, end: int = -1) -> Errand[gauges.Metrics]:
    """How many jobs completed or failed, in all and per minute from place `start` to `end`, newest first.

    Counted by workers that have metrics on: `metrics_points` of a sandq queue, `metrics` of a BullMQ worker.
    """
    if state not in (JobState.COMPLETED, JobState.FAILED):
        raise QueueError(f"there are no metrics of jobs that are {state}; use completed or failed")
    first, last = whole("start", start, least=FROM_THE_END), whole("end", end, least=FROM_THE_END)
    found: gauges.Metrics = yield gauges.metrics(keys, JobState(state), first, last)
    return found


def workers(keys: QueueKeys) -> Errand[list[gauges.Worker]]:
    """The workers of this queue that are connected now, BullMQ's and sandq's alike."""
    found: tuple[gauges.Worker, ...] = yield gauges.workers(keys)
    return list(found)
