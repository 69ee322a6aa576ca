"""Waiting for what happens: the end of a job, or any event of its queue."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from sandq.errands.jobs import id_of
from sandq.errands.step import Errand, Listen, Waiting
from sandq.errors import ConfigError, JobFailed, JobNotFound, QueueError, ResultTimeout
from sandq.job import Job
from sandq.store import reads
from sandq.store.call import Read
from sandq.store.executors import TRY_SHARE
from sandq.store.keys import QueueKeys
from sandq.units import Duration, seconds

Event = tuple[str, dict[str, str]]

PAGE = 1000  # events read at once


def result(keys: QueueKeys, job: Job | str) -> Waiting[Any]:
    """What the job's handler returned, as soon as it did; JobFailed when the job failed.

    The stream is marked before the job is looked at, so an end in between is seen in one of the two.
    """
    job_id = id_of(job)
    since: str = yield reads.last_event(keys)
    ending: reads.Ending = yield reads.ending(keys, job_id)
    if ending.word == "missing":
        ending = yield from _look_back(keys, job_id, job)
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

    def check(self, queue: str, job: Job | str) -> None:
        """Raise ResultTimeout when the time is over."""
        if self.passed():
            raise ResultTimeout(
                f"job {id_of(job)} of queue {queue} has not ended within {self._timeout_s:g}s; it goes on"
            )


def _seconds(value: Duration) -> float:
    try:
        return seconds(value)
    except ConfigError as error:
        raise QueueError(str(error)) from None
