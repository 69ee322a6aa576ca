"""What a client asks of a whole queue."""

from __future__ import annotations

from typing import Any

from sandq.errands.step import Errand
from sandq.errors import QueueError
from sandq.job import Job, JobState
from sandq.store import produce, reads
from sandq.store.keys import QueueKeys


def jobs(keys: QueueKeys, state: JobState | str, start: int = 0, limit: int = 20) -> Errand[list[Job]]:
    """Jobs of one state: finished ones newest first, others in the order they will run."""
    try:
        wanted = JobState(state)
    except ValueError:
        raise QueueError(f"there is no state {state!r}; use one of {', '.join(reads.COUNTED)}") from None
    finished = wanted in (JobState.COMPLETED, JobState.FAILED)
    found = yield reads.page(keys, wanted, start, limit, newest_first=finished)
    return list(found)


def counts(keys: QueueKeys) -> Errand[dict[str, int]]:
    """How many jobs each state holds, all at one moment."""
    found: dict[str, int] = yield reads.counts(keys)
    return found


def retry_all(keys: QueueKeys, state: JobState = JobState.FAILED, *, cancelled: bool = False) -> Errand[int]:
    """Run all failed (or completed) jobs again; how many that were. Cancelled ones only with `cancelled`."""
    if state not in (JobState.COMPLETED, JobState.FAILED):
        raise QueueError(f"jobs that are {state} cannot be retried; use completed or failed")
    count = again = passed = 0
    while True:
        done: produce.Retried = yield produce.retry_all(keys, state, again, passed, cancelled=cancelled)
        count += done.count
        if done.again is None:
            return count
        again, passed = done.again, done.passed


def pause(keys: QueueKeys) -> Errand[None]:
    """Let no job be claimed any more, by any worker; running jobs go on."""
    yield produce.pause(keys)


def resume(keys: QueueKeys) -> Errand[None]:
    """Undo `pause`."""
    while (yield produce.resume(keys)) == "more":
        pass


def paused(keys: QueueKeys) -> Errand[bool]:
    """Whether the queue is paused."""
    meta: reads.Meta = yield reads.meta(keys)
    return meta.paused


def supervisors(keys: QueueKeys) -> Errand[list[dict[str, Any]]]:
    """What each living supervisor of this queue last said about itself."""
    found: list[dict[str, Any]] = yield reads.supervisors(keys)
    return found
