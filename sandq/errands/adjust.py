"""What an operator changes about single jobs, whatever state they are in."""

from __future__ import annotations

from typing import Any

from sandq.errands.jobs import id_of, not_found
from sandq.errands.step import Errand
from sandq.errors import QueueError
from sandq.job import Job
from sandq.store import gauges, maintain, reads, work
from sandq.store.keys import QueueKeys
from sandq.store.newjob import MAX_DATA, MAX_PRIORITY, delay_ms, encode_data, encode_json, whole
from sandq.units import Duration, show_size


def change_priority(keys: QueueKeys, job: Job | str, priority: int, *, lifo: bool = False) -> Errand[None]:
    """Give the job another priority (0 runs first), at once if it waits; `lifo`: before all that have the same."""
    whole("priority", priority, most=MAX_PRIORITY)
    word: maintain.ChangeWord = yield maintain.change_priority(keys, id_of(job), priority, lifo=lifo)
    _must_exist(keys, job, word)


def change_delay(keys: QueueKeys, job: Job | str, delay: Duration) -> Errand[None]:
    """Let a delayed job run `delay` from now instead."""
    word: maintain.DelayWord = yield maintain.change_delay(keys, id_of(job), delay_ms(delay))
    _must_exist(keys, job, word)
    if word == "not-delayed":
        raise QueueError(f"job {id_of(job)} of queue {keys.queue} is not delayed; there is no delay to change")


def update_data(keys: QueueKeys, job: Job | str, data: Any) -> Errand[None]:
    """Replace the job's data; a handler that runs already keeps what it was given."""
    encoded = encode_data(id_of(job), data)
    if len(encoded) > MAX_DATA:
        raise QueueError(
            f"data of job {id_of(job)} is {show_size(len(encoded))}, over the limit of {show_size(MAX_DATA)}; "
            "store it elsewhere and pass where it is"
        )
    _must_exist(keys, job, (yield work.update_data(keys, id_of(job), encoded)))


def update_progress(keys: QueueKeys, job: Job | str, progress: Any) -> Errand[None]:
    """Note how far the job is, and tell whoever listens to its events."""
    encoded = encode_json(f"progress of job {id_of(job)!r}", progress)
    _must_exist(keys, job, (yield work.progress(keys, id_of(job), encoded)))


def log(keys: QueueKeys, job: Job | str, line: str) -> Errand[None]:
    """Add a line to the job's log, which keeps as many as its `keep_logs` says."""
    stored: Job | None = yield reads.job(keys, id_of(job))
    keep = stored.opts.get("kl") if stored is not None else None
    kept = keep if isinstance(keep, int) and keep > 0 else None
    text = line.encode("utf-8", "backslashreplace").decode()
    _must_exist(keys, job, (yield work.log(keys, id_of(job), text, kept)))


def clear_logs(keys: QueueKeys, job: Job | str, keep: int = 0) -> Errand[None]:
    """Delete the job's log but for its newest `keep` lines."""
    whole("keep", keep)
    _must_exist(keys, job, (yield maintain.clear_logs(keys, id_of(job), keep)))


def log_count(keys: QueueKeys, job: Job | str) -> Errand[int]:
    """How many lines the job's log has."""
    count: int = yield gauges.log_count(keys, id_of(job))
    return count


def _must_exist(keys: QueueKeys, job: Job | str, word: str) -> None:
    if word == "missing":
        raise not_found(keys, id_of(job))
