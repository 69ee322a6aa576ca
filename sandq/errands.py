"""What a client wants done: which operations it sends and what it makes of the answers, without doing any I/O.

Every errand is a generator that yields operations and is sent their parsed replies. `Queue` and `AsyncQueue` run the
same errands, so they cannot drift apart.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sandq.errors import ConfigError, JobFailed, JobNotFound, QueueError, ResultTimeout
from sandq.job import Job, JobState
from sandq.store import produce, reads
from sandq.store.call import Call, Read
from sandq.store.executors import TRY_SHARE
from sandq.store.keys import QueueKeys
from sandq.store.newjob import NewJob, existing_id, new_job
from sandq.units import Duration, seconds

R = TypeVar("R")
Event = tuple[str, dict[str, str]]
CancelAnswer = Literal["was_waiting", "was_running", "already_done"]

PAGE = 1000  # events read at once


@dataclass(frozen=True, slots=True)
class Listen:
    """Wait for events after `since`; the answer is a list of them, empty when none came for a while."""

    since: str


Step = Call[Any] | Read[Any]
Errand = Generator[Step, Any, R]
Waiting = Generator[Step | Listen, Any, R]  # an errand that may also listen


def id_of(job: Job | str) -> str:
    """The id, from a job or as it is; JobNotFound for what cannot be one."""
    return existing_id(job.id if isinstance(job, Job) else job)


def add(keys: QueueKeys, items: Iterable[Any]) -> Errand[list[Job]]:
    """Add what `items` describe: new jobs, (name, data) pairs or mappings of `Queue.add`'s arguments."""
    jobs = [_new(item) for item in items]
    stored: list[Job] = []
    for chunk in produce.chunks(jobs):
        answers = yield produce.add(keys, chunk)
        stored += [produce.added_job(keys, new, answer) for new, answer in zip(chunk, answers, strict=True)]
    return stored


def _new(item: Any) -> NewJob:
    if isinstance(item, NewJob):
        return item
    if isinstance(item, Mapping):
        return new_job(**item)
    try:
        name, data = item
    except (TypeError, ValueError):
        raise QueueError(f"{item!r} is not a job; give (name, data) or a mapping of add()'s arguments") from None
    return new_job(name, data)


def job(keys: QueueKeys, wanted: Job | str) -> Errand[Job]:
    """The job as it stands, or JobNotFound."""
    found: Job | None = yield reads.job(keys, id_of(wanted))
    if found is None:
        raise _not_found(keys, id_of(wanted))
    return found


def state(keys: QueueKeys, wanted: Job | str) -> Errand[JobState]:
    """The one state the job is in, or JobNotFound."""
    found: JobState = yield reads.state(keys, id_of(wanted))
    if found is JobState.UNKNOWN:
        raise _not_found(keys, id_of(wanted))
    return found


def page(keys: QueueKeys, of_state: JobState | str, start: int, limit: int) -> Errand[list[Job]]:
    """Jobs of one state: the newest first, of what still has to run the next first."""
    try:
        wanted = JobState(of_state)
    except ValueError:
        raise QueueError(f"there is no state {of_state!r}; use one of {', '.join(reads.COUNTED)}") from None
    finished = wanted in (JobState.COMPLETED, JobState.FAILED)
    found = yield reads.page(keys, wanted, start, limit, newest_first=finished)
    return list(found)


def cancel(keys: QueueKeys, wanted: Job | str, reason: str) -> Errand[CancelAnswer]:
    """End the job, whatever it is doing."""
    word: produce.CancelWord = yield produce.cancel(keys, id_of(wanted), reason)
    match word:
        case "missing":
            raise _not_found(keys, id_of(wanted))
        case "scheduler":
            raise _scheduled(keys, id_of(wanted))
        case _:
            return word


def retry(keys: QueueKeys, wanted: Job | str) -> Errand[None]:
    """Run a finished job again."""
    word: produce.RetryWord = yield produce.retry(keys, id_of(wanted))
    if word == "missing":
        raise _not_found(keys, id_of(wanted))
    if word == "not-finished":
        raise QueueError(f"job {id_of(wanted)} of queue {keys.queue} has not ended; only such a job can be retried")


def retry_all(keys: QueueKeys, of_state: JobState, cancelled: bool) -> Errand[int]:
    """Run every job of a finished state again, the cancelled ones only when asked."""
    if of_state not in (JobState.COMPLETED, JobState.FAILED):
        raise QueueError(f"jobs that are {of_state} cannot be retried; use completed or failed")
    count = again = passed = 0
    while True:
        done: produce.Retried = yield produce.retry_all(keys, of_state, again, passed, cancelled=cancelled)
        count += done.count
        if done.again is None:
            return count
        again, passed = done.again, done.passed


def promote(keys: QueueKeys, wanted: Job | str) -> Errand[None]:
    """Let a delayed job run now."""
    word: produce.PromoteWord = yield produce.promote(keys, id_of(wanted))
    if word == "missing":
        raise _not_found(keys, id_of(wanted))
    if word == "not-delayed":
        raise QueueError(f"job {id_of(wanted)} of queue {keys.queue} is not delayed; there is nothing to promote")


def remove(keys: QueueKeys, wanted: Job | str) -> Errand[None]:
    """Make the job and its children disappear."""
    word: produce.RemoveWord = yield produce.remove(keys, id_of(wanted))
    match word:
        case "missing":
            raise _not_found(keys, id_of(wanted))
        case "scheduler":
            raise _scheduled(keys, id_of(wanted))
        case "locked":
            raise QueueError(
                f"job {id_of(wanted)} of queue {keys.queue}, or a child of it, is running; cancel it first"
            )
        case "removed":
            return


def resume(keys: QueueKeys) -> Errand[None]:
    """Let jobs be claimed again."""
    while (yield produce.resume(keys)) == "more":
        pass


def result(keys: QueueKeys, wanted: Job | str) -> Waiting[Any]:
    """What the job's handler returned, as soon as it did; JobFailed when the job failed.

    The stream is marked before the job is looked at, so an end in between is seen in one of the two.
    """
    job_id = id_of(wanted)
    since: str = yield reads.last_event(keys)
    ending: reads.Ending = yield reads.ending(keys, job_id)
    if ending.word == "missing":
        ending = yield from _look_back(keys, job_id, wanted)
    while ending.word == "pending":
        entries: list[Event] = yield Listen(since)
        if not entries:
            ending = yield reads.ending(keys, job_id)  # events can be trimmed, and lost with Redis' memory
        for since, fields in entries:  # noqa: B007  # the last id is where to go on
            if ending.word == "pending":
                ending = _ending_in(fields, job_id) or ending
    match ending.word:
        case "completed":
            return json.loads(ending.value_json)
        case "failed":
            raise JobFailed(ending.reason)
        case _:
            raise JobNotFound(f"job {job_id} of queue {keys.queue} is gone and left no result; was it removed?")


def _look_back(keys: QueueKeys, job_id: str, wanted: Job | str) -> Errand[reads.Ending]:
    """A job that is removed when it ends leaves its result in the event stream only."""
    ending = reads.Ending("missing")
    # Its end is not older than the job itself, unless the producer chose the timestamp.
    known = isinstance(wanted, Job) and "timestamp" not in wanted.opts
    since = f"{wanted.timestamp - 1}" if known and isinstance(wanted, Job) else "0"
    while True:
        entries: list[Event] = yield reads.events(keys, since, PAGE)
        for since, fields in entries:  # noqa: B007
            found = _ending_in(fields, job_id) or ending
            ending = ending if found.word == "missing" else found
        if len(entries) < PAGE:
            return ending


def _ending_in(fields: Mapping[str, str], job_id: str) -> reads.Ending | None:
    if fields.get("jobId") != job_id:
        return None
    match fields.get("event"):
        case "completed":
            return reads.Ending("completed", value_json=fields.get("returnvalue", "null").encode())
        case "failed":
            return reads.Ending("failed", reason=fields.get("failedReason", ""))
        case "removed":
            return reads.Ending("missing")
        case _:
            return None


def listen(keys: QueueKeys, since: str, block_ms: int) -> Read[list[Event]]:
    """Up to a page of events after `since`, waiting for the first of them."""

    def parse(replies: list[Any]) -> list[Event]:
        return [_event(*entry) for entry in replies[0][0][1]] if replies[0] else []

    command = ("XREAD", "COUNT", PAGE, "BLOCK", max(1, block_ms), "STREAMS", keys.key("events"), since)
    return Read((command,), parse)


def _event(entry_id: bytes, flat: list[bytes]) -> Event:
    texts = [text.decode("utf-8", "replace") for text in flat]
    return entry_id.decode(), dict(zip(texts[::2], texts[1::2], strict=True))


class Limit:
    """How long somebody wants to wait, and how long one blocking read of that may take."""

    def __init__(self, timeout: Duration | None, redis_timeout: float) -> None:
        """`timeout` None: for ever."""
        self._timeout_s = math.inf if timeout is None else _seconds(timeout)
        # Half of what one try may take: the answer to a read that ran out must still be in time.
        self._slice_s = redis_timeout / TRY_SHARE / 2
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self._deadline = time.monotonic() + self._timeout_s

    def passed(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._deadline

    def block_ms(self) -> int:
        """For how long the next read may block."""
        return max(1, round(min(self._deadline - time.monotonic(), self._slice_s) * 1000))

    def check(self, queue: str, job_id: str) -> None:
        """Raise ResultTimeout when the time is over."""
        if self.passed():
            raise ResultTimeout(f"job {job_id} of queue {queue} has not ended within {self._timeout_s:g}s; it goes on")


def _seconds(value: Duration) -> float:
    try:
        return seconds(value)
    except ConfigError as error:
        raise QueueError(str(error)) from None


def _not_found(keys: QueueKeys, job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no job {job_id} in queue {keys.queue}; it may have been removed after it ended")


def _scheduled(keys: QueueKeys, job_id: str) -> QueueError:
    return QueueError(f"job {job_id} of queue {keys.queue} is the next run of a schedule; remove the schedule instead")
