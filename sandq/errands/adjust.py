"""What an operator changes about single jobs, whatever state they are in."""

from __future__ import annotations

from typing import Any

from sandq.errands.jobs import about, id_of, not_found
from sandq.errands.step import Errand
from sandq.errors import QueueError, WrongState
from sandq.job import Job
from sandq.protocol import MAX_LOG_LINE
from sandq.store import gauges, maintain, work
from sandq.store.arguments import delay_ms, whole
from sandq.store.keys import QueueKeys
from sandq.store.newjob import MAX_PRIORITY, encode_data, encode_json
from sandq.units import Duration


def change_priority(keys: QueueKeys, job: Job | str, priority: int, *, lifo: bool = False) -> Errand[None]:
    """Give the job another priority (0 runs first), at once if it waits; `lifo`: before all that have the same."""
    whole("priority", priority, most=MAX_PRIORITY)
    word: maintain.ChangeWord = yield maintain.change_priority(keys, id_of(keys, job), priority, lifo=lifo)
    _must_exist(keys, job, word)


def change_delay(keys: QueueKeys, job: Job | str, delay: Duration) -> Errand[None]:
    """Let a delayed job run `delay` from now instead."""
    word: maintain.DelayWord = yield maintain.change_delay(keys, id_of(keys, job), delay_ms(delay))
    _must_exist(keys, job, word)
    if word == "not-delayed":
        raise WrongState(f"job {id_of(keys, job)} of queue {keys.queue} is not delayed; there is no delay to change")


def update_data(keys: QueueKeys, job: Job | str, data: Any) -> Errand[None]:
    """Replace the job's data; a handler that runs already keeps what it was given."""
    encoded = encode_data(id_of(keys, job), data)
    _must_exist(keys, job, (yield work.update_data(keys, id_of(keys, job), encoded)))


def update_progress(keys: QueueKeys, job: Job | str, progress: Any) -> Errand[None]:
    """Note how far the job is, and tell whoever listens to its events."""
    encoded = encode_json(f"progress of job {id_of(keys, job)!r}", progress)
    _must_exist(keys, job, (yield work.progress(keys, id_of(keys, job), encoded)))


def log(keys: QueueKeys, job: Job | str, line: str) -> Errand[None]:
    """Add a line to the job's log, cut at 8 KiB; the log keeps as many as the job's `keep_logs` says."""
    if not isinstance(line, str):
        raise QueueError(f"the line {line!r} for the log of job {id_of(keys, job)} must be a text")
    kept = line.encode("utf-8", "backslashreplace")[:MAX_LOG_LINE].decode("utf-8", "ignore")
    _must_exist(keys, job, (yield work.log(keys, id_of(keys, job), kept)))


def clear_logs(keys: QueueKeys, job: Job | str, keep: int = 0) -> Errand[None]:
    """Delete the job's log but for its newest `keep` lines."""
    whole("keep", keep)
    _must_exist(keys, job, (yield maintain.clear_logs(keys, id_of(keys, job), keep)))


def log_count(keys: QueueKeys, job: Job | str) -> Errand[int]:
    """How many lines the job's log has."""
    return (yield from about(keys, job, gauges.log_count(keys, id_of(keys, job))))


def _must_exist(keys: QueueKeys, job: Job | str, word: str) -> None:
    if word == "missing":
        raise not_found(keys, job)
