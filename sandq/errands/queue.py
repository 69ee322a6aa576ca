"""What a client asks of a whole queue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from sandq.errands.step import Errand
from sandq.errors import QueueError
from sandq.job import Job, JobState
from sandq.store import produce, reads
from sandq.store.arguments import each, whole
from sandq.store.keys import QueueKeys

FINISHED: tuple[Literal[JobState.COMPLETED, JobState.FAILED], ...] = (JobState.COMPLETED, JobState.FAILED)
BEFORE = (JobState.WAITING, JobState.PRIORITIZED, JobState.DELAYED, JobState.WAITING_CHILDREN)
PAGE = 500  # jobs read in one call


def jobs(
    keys: QueueKeys,
    state: JobState | str | Iterable[JobState | str],
    start: int = 0,
    limit: int = 20,
    *,
    newest_first: bool | None = None,
) -> Errand[list[Job]]:
    """Jobs of one state: finished ones newest first, others in the order they will run, unless `newest_first` says.

    Several states are listed one behind the other; `start` and `limit` count over all of them. Ids whose job is gone
    keep their place: a page may hold fewer jobs than there are places.
    """
    wanted = [(one, one in FINISHED if newest_first is None else newest_first) for one in _states(state)]
    whole("start", start)
    found: list[Job] = []
    end = start + whole("limit", limit)
    while start < end:
        asked = min(PAGE, end - start)
        page: reads.Page = yield reads.page(keys, wanted, start, asked)
        found += page.jobs
        if page.places < asked and not page.full:
            break
        start += page.places
    return found


def _states(given: JobState | str | Iterable[JobState | str]) -> list[JobState]:
    wanted = [given] if isinstance(given, str) else each("states", given)
    for one in wanted:
        if one not in reads.COUNTED:
            raise QueueError(f"there is no state {str(one)!r}; use one of {', '.join(reads.COUNTED)}")
    return list(dict.fromkeys(map(JobState, wanted)))


def count(keys: QueueKeys) -> Errand[int]:
    """How many jobs have yet to run: waiting, prioritized, delayed, or waiting for their children."""
    found: dict[str, int] = yield reads.counts(keys)
    return sum(found[state] for state in BEFORE)


def counts(keys: QueueKeys) -> Errand[dict[str, int]]:
    """How many jobs each state holds, all at one moment."""
    found: dict[str, int] = yield reads.counts(keys)
    return found


def retry_all(keys: QueueKeys, state: JobState | str = JobState.FAILED, *, cancelled: bool = False) -> Errand[int]:
    """Run all failed (or completed) jobs again; how many that were. Cancelled ones only with `cancelled`."""
    of = next((end for end in FINISHED if end == state), None)
    if of is None:
        raise QueueError(f"jobs that are {state} cannot be retried; use completed or failed")
    count = again = passed = 0
    while True:
        done: produce.Retried = yield produce.retry_all(keys, of, again, passed, cancelled=cancelled)
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
    """What each living supervisor of this queue last said about itself, `told_ago_s` ago; its `uptime_s` is of now."""
    found: list[dict[str, Any]] = yield reads.supervisors(keys)
    return found
