"""What an operator does to many jobs at once, piece by piece so that Redis serves others in between."""

from __future__ import annotations

from sandq.errands.step import Errand
from sandq.errors import QueueError, WrongState
from sandq.job import JobState
from sandq.store import gauges, maintain
from sandq.store.arguments import milliseconds, text, whole
from sandq.store.keys import QueueKeys
from sandq.units import Duration


def drain(keys: QueueKeys, *, delayed: bool = False) -> Errand[int]:
    """Delete all jobs that wait to run, with `delayed` also those that are delayed; how many that were.

    Running and finished jobs stay, and so does the next run of every scheduler.
    """
    states = [JobState.WAITING, JobState.PRIORITIZED, *([JobState.DELAYED] if delayed else [])]
    count = 0
    for place in (place for state in states for place in maintain.PLACES[state]):
        after: str | None = ""
        while after is not None:
            done: maintain.Drained = yield maintain.drain(keys, place, after)
            count, after = count + done.count, done.after
    return count


def clean(keys: QueueKeys, state: JobState | str, grace: Duration, limit: int | None = None) -> Errand[list[str]]:
    """Delete jobs of one state that are older than `grace`, oldest first and `limit` at most; the ids deleted.

    Old is what ended, else started, else was added that long ago. Active jobs are only deleted when their lock is
    gone, the next run of a scheduler never.
    """
    places = maintain.PLACES.get(_state(state))
    if places is None:
        raise QueueError(f"jobs that are {state} cannot be cleaned; use one of {', '.join(maintain.PLACES)}")
    grace_ms = whole("grace (ms)", round(milliseconds("grace", grace)), most=2**53)
    most = None if limit is None else whole("limit", limit, least=1)
    cleaned: list[str] = []
    for place in places:
        after: str | None = None
        while most is None or len(cleaned) < most:
            left = None if most is None else most - len(cleaned)
            done: maintain.Cleaned = yield maintain.clean(keys, place, grace_ms, left, after=after)
            cleaned += done.ids
            after = done.after
            if after is None:
                break
    return cleaned


def obliterate(keys: QueueKeys, *, force: bool = False) -> Errand[None]:
    """Delete the queue, all its jobs, schedulers, events and settings; refused while jobs run, unless forced.

    Nothing of it is claimed meanwhile. With `force` the running jobs are deleted too; sandq stops their handlers as
    soon as it notices.
    """
    for last in (False, True):
        while (word := (yield maintain.obliterate(keys, force=force, last=last))) == "more":
            pass
        if word == "active":
            raise WrongState(f"jobs of queue {keys.queue} are running; pause it and wait for them, or force it")
        if not last:
            yield from _forget_all(keys)


def _forget_all(keys: QueueKeys) -> Errand[None]:
    """Deduplication windows that outlived their jobs would keep out jobs of the queue that comes after this one."""
    cursor = ""
    while cursor != "0":
        windows: maintain.Windows = yield maintain.find_windows(keys, cursor or "0")
        cursor = windows.cursor
        if windows.found:
            yield maintain.forget_windows(keys, windows.found)


def promote_all(keys: QueueKeys) -> Errand[int]:
    """Let all delayed jobs run now, each where its priority puts it; how many that were."""
    count, left = 0, None
    while left != 0:
        done: maintain.Moved = yield maintain.promote_all(keys, left)
        count, left = count + done.count, done.left
    return count


def trim_events(keys: QueueKeys, most: int) -> Errand[int]:
    """Delete all events but the newest `most`; how many that were."""
    whole("most", most)
    count = 0
    while True:
        done: maintain.Trimmed = yield maintain.trim_events(keys, most)
        count += done.count
        if done.done:
            return count


def event_count(keys: QueueKeys) -> Errand[int]:
    """How many events the queue keeps."""
    count: int = yield gauges.event_count(keys)
    return count


def remove_deduplication_key(keys: QueueKeys, deduplication_id: str) -> Errand[bool]:
    """Let the next job with this deduplication id be added; whether there was one that stood in its way."""
    there: bool = yield maintain.forget_deduplication(keys, text("deduplication id", deduplication_id))
    return there


def deduplication_job_id(keys: QueueKeys, deduplication_id: str) -> Errand[str | None]:
    """The id of the job that stands for this deduplication id now; None when the next one is added."""
    owner: str | None = yield gauges.deduplication_owner(keys, text("deduplication id", deduplication_id))
    return owner


def _state(state: JobState | str) -> JobState:
    try:
        return JobState(state)
    except ValueError:
        return JobState.UNKNOWN
