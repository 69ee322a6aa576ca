"""Waiting for the end of a job."""

from __future__ import annotations

import json
from typing import Any

from sandq.errands import stream
from sandq.errands.jobs import id_of
from sandq.errands.patience import Patience
from sandq.errands.step import Errand, Listen, Waiting
from sandq.errors import JobFailed, JobNotFound, QueueError, ResultTimeout
from sandq.event import Event
from sandq.job import Job
from sandq.store import reads
from sandq.store.keys import QueueKeys
from sandq.store.stream import PAGE

# Some endings nobody is told of: BullMQ's drain and obliterate remove jobs without an event, and events get lost.
LOOK_EVERY_S = 2.0


def result(keys: QueueKeys, job: Job | str, listening_since: str) -> Waiting[Any]:
    """What the job's handler returned, as soon as it did; JobFailed when the job failed.

    Whoever answers `Listen` has to listen from before this begins, from the event id `listening_since` on: an end in
    between is then seen in one of the two.
    """
    job_id = id_of(keys, job)
    ending: reads.Ending = yield reads.ending(keys, job_id)
    if ending.word == "missing":
        ending = yield from _look_back(keys, job_id, _added_after(job))
    while ending.word == "pending":
        heard: reads.Ending | None = yield Listen(job_id)
        ending = heard or (yield reads.ending(keys, job_id))
        if ending.word == "missing":  # whoever listens may not have come to the event yet
            ending = yield from _look_back(keys, job_id, listening_since)
    match ending.word:
        case "completed":
            return _value(keys, job_id, ending.value_json)
        case "failed":
            raise JobFailed(ending.reason)
        case _:
            raise JobNotFound(f"job {job_id} of queue {keys.queue} is gone and left no result; was it removed?")


def hear(keys: QueueKeys, job_id: str, after: str, limit: Patience) -> Errand[tuple[str, reads.Ending | None]]:
    """The job's end, should an event tell it before `limit`; None when it is time to look. And where to go on from."""
    while not limit.passed():
        for event in (yield from stream.hear(keys, after, limit.block_ms())):
            after = event.id
            if event.job_id == job_id and (ending := ending_in(event)) is not None:
                return after, ending
    return after, None


def ending_in(event: Event) -> reads.Ending | None:
    """The end that an event tells of."""
    match event.name:
        case "completed":
            return reads.Ending("completed", value_json=event.fields.get("returnvalue", "null").encode())
        case "failed":
            return reads.Ending("failed", reason=event.failed_reason or "")
        case "removed":
            return reads.Ending("missing")
        case _:
            return None


def not_ended(keys: QueueKeys, job: Job | str, limit: Patience) -> ResultTimeout:
    """What to raise when the time is over."""
    return ResultTimeout(
        f"job {id_of(keys, job)} of queue {keys.queue} has not ended within {limit.timeout_s:g}s; it goes on"
    )


def _added_after(job: Job | str) -> str:
    """An event id that is older than the job's end: older than the job itself, unless its timestamp was chosen."""
    return f"{job.timestamp - 1}" if isinstance(job, Job) and "timestamp" not in job.opts else "0"


def _look_back(keys: QueueKeys, job_id: str, after: str) -> Errand[reads.Ending]:
    """A job that is removed when it ends leaves its result in the event stream only."""
    ending = reads.Ending("missing")
    while True:
        entries: list[tuple[str, dict[str, str]]] = yield reads.events(keys, after, PAGE)
        for after, fields in entries:  # noqa: PLR1704  # where the next page begins
            event = Event(after, fields)
            found = ending_in(event) if event.job_id == job_id else None
            ending = ending if found is None or found.word == "missing" else found
        if len(entries) < PAGE:
            return ending


def _value(keys: QueueKeys, job_id: str, value_json: bytes) -> Any:
    try:
        return json.loads(value_json)
    except (ValueError, RecursionError) as error:
        raise QueueError(
            f"job {job_id} of queue {keys.queue} completed, but the result its worker wrote is not JSON: {error}"
        ) from None
