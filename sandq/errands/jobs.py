"""What a client asks of single jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict, Unpack

from sandq.backoff import Backoff
from sandq.errands.step import Errand
from sandq.errors import JobNotFound, QueueError
from sandq.job import Job, JobState
from sandq.store import produce, reads
from sandq.store.keys import QueueKeys
from sandq.store.newjob import NewJob, Parent, Retention, existing_id, new_job, whole
from sandq.units import Duration

CancelAnswer = Literal["was_waiting", "was_running", "already_done"]


class JobOptions(TypedDict, total=False):
    """What `add` may be told about a job beside its name and data."""

    attempts: int  # how often the handler may raise; 0 means once
    backoff: Backoff | Duration | Mapping[str, Any] | None  # "exponential:1s", "fixed:5s", or a fixed duration
    delay: Duration | None  # the job may run this long from now
    priority: int  # 0 runs first, then 1, 2, ...
    job_id: str | None  # a second job of the same id is not added
    lifo: bool  # before everything that waits
    timeout: Duration | None  # one attempt may take this long
    memory: int | str | None  # one attempt may hold this much: "2GiB"
    remove_on_complete: Retention | None  # True, or how many completed jobs to keep
    remove_on_fail: Retention | None
    keep_logs: int | None
    stacktrace_limit: int | None
    timestamp: int | None  # creation time in ms; Redis' own when left out
    parent: Parent | Job | None  # a job is a parent under this client's prefix
    deduplication: str | Mapping[str, Any] | None


def id_of(job: Job | str) -> str:
    """The id, from a job or as it is; JobNotFound for what cannot be one."""
    return existing_id(job.id if isinstance(job, Job) else job)


def add(keys: QueueKeys, name: str, data: Any = None, **options: Unpack[JobOptions]) -> Errand[Job]:
    """Add one job; when this returns, Redis holds it."""
    [job] = yield from add_many(keys, [{"name": name, "data": data, **options}])
    return job


def add_many(keys: QueueKeys, items: Iterable[NewJob | tuple[str, Any] | Mapping[str, Any]]) -> Errand[list[Job]]:
    """Add jobs given as (name, data) or as mappings of `add`'s arguments, hundreds per call to Redis."""
    jobs = [_new(keys.prefix, item) for item in items]
    stored: list[Job] = []
    for chunk in produce.chunks(jobs):
        answers = yield produce.add(keys, chunk)
        stored += [produce.added_job(keys, new, answer) for new, answer in zip(chunk, answers, strict=True)]
    return stored


def parent_of(prefix: str, given: Parent | Job | None) -> Parent | None:
    """The parent that an option names."""
    return Parent(id=given.id, queue=f"{prefix}:{given.queue}") if isinstance(given, Job) else given


def _new(prefix: str, item: Any) -> NewJob:
    if isinstance(item, NewJob):
        return item
    if isinstance(item, Mapping):
        return new_job(**{**item, "parent": parent_of(prefix, item.get("parent"))})
    try:
        name, data = item
    except (TypeError, ValueError):
        raise QueueError(f"{item!r} is not a job; give (name, data) or a mapping of add()'s arguments") from None
    return new_job(name, data)


def job(keys: QueueKeys, job: Job | str) -> Errand[Job]:
    """The job as it stands now; JobNotFound when it is gone."""
    found: Job | None = yield reads.job(keys, id_of(job))
    if found is None:
        raise not_found(keys, id_of(job))
    return found


def state(keys: QueueKeys, job: Job | str) -> Errand[JobState]:
    """Where the job is now; JobNotFound when it is gone."""
    found: JobState = yield reads.state(keys, id_of(job))
    if found is JobState.UNKNOWN:
        raise not_found(keys, id_of(job))
    return found


def logs(
    keys: QueueKeys, job: Job | str, start: int = 0, limit: int | None = None, *, newest_first: bool = False
) -> Errand[list[str]]:
    """The job's log lines, oldest first unless `newest_first`: `limit` of them, or all, from place `start` on."""
    first, last = whole("start", start), -1 if limit is None else start + whole("limit", limit) - 1
    if limit == 0:
        return []
    if not newest_first:
        lines: list[str] = yield reads.logs(keys, id_of(job), first, last)
        return lines
    # Counted from the end, where the newest line has place -1.
    lines = yield reads.logs(keys, id_of(job), 0 if limit is None else -last - 1, -first - 1)
    return lines[::-1]


def cancel(keys: QueueKeys, job: Job | str, reason: str = "") -> Errand[CancelAnswer]:
    """End the job: at once when it waits, by asking its supervisor when it runs. Never retried."""
    word: produce.CancelWord = yield produce.cancel(keys, id_of(job), reason)
    match word:
        case "missing":
            raise not_found(keys, id_of(job))
        case "scheduler":
            raise _scheduled(keys, id_of(job))
        case _:
            return word


def retry(keys: QueueKeys, job: Job | str) -> Errand[None]:
    """Run a finished job again: its crash budgets start afresh, the attempts it made stay counted."""
    word: produce.RetryWord = yield produce.retry(keys, id_of(job))
    if word == "missing":
        raise not_found(keys, id_of(job))
    if word == "not-finished":
        raise QueueError(f"job {id_of(job)} of queue {keys.queue} has not ended; only such a job can be retried")


def promote(keys: QueueKeys, job: Job | str) -> Errand[None]:
    """Let a delayed job run now."""
    word: produce.PromoteWord = yield produce.promote(keys, id_of(job))
    if word == "missing":
        raise not_found(keys, id_of(job))
    if word == "not-delayed":
        raise QueueError(f"job {id_of(job)} of queue {keys.queue} is not delayed; there is nothing to promote")


def remove(keys: QueueKeys, job: Job | str, *, children: bool = True) -> Errand[None]:
    """Remove the job and, unless told otherwise, its children; refused while one of them runs."""
    word: produce.RemoveWord = yield produce.remove(keys, id_of(job), children=children)
    match word:
        case "missing":
            raise not_found(keys, id_of(job))
        case "scheduler":
            raise _scheduled(keys, id_of(job))
        case "locked":
            raise QueueError(f"job {id_of(job)} of queue {keys.queue}, or a child of it, is running; cancel it first")
        case "removed":
            return


def not_found(keys: QueueKeys, job_id: str) -> JobNotFound:
    """What to raise for a job that is not there."""
    return JobNotFound(f"there is no job {job_id} in queue {keys.queue}; it may have been removed after it ended")


def _scheduled(keys: QueueKeys, job_id: str) -> QueueError:
    return QueueError(f"job {job_id} of queue {keys.queue} is the next run of a schedule; remove the schedule instead")
