"""What a client asks of single jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from sandq.backoff import Backoff
from sandq.errands.step import Errand
from sandq.errors import JobNotFound, QueueError, WrongState
from sandq.job import Job, JobState
from sandq.store import produce, reads
from sandq.store.arguments import each, whole
from sandq.store.call import Read
from sandq.store.keys import QueueKeys, split_job_key
from sandq.store.newjob import NewJob, OnFailure, Parent, Retention, existing_id, new_job
from sandq.units import Duration

R = TypeVar("R")

CancelAnswer = Literal["was_waiting", "was_running", "was_abandoned", "already_done"]


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


OPTIONS = JobOptions.__annotations__.keys()


def id_of(keys: QueueKeys, job: Job | str) -> str:
    """The id, from a job of this queue or as it is; JobNotFound for what cannot be one."""
    if isinstance(job, Job) and job.queue != keys.queue:
        raise QueueError(f"job {job.id} is of queue {job.queue}, not {keys.queue}; ask that queue")
    return existing_id(job.id if isinstance(job, Job) else job)


def add(
    keys: QueueKeys, name: str, data: Any = None, *, on_failure: OnFailure | None = None, **options: Unpack[JobOptions]
) -> Errand[Job]:
    """Add one job; when this returns, Redis holds it. `on_failure`: what its failure does to its `parent`."""
    if unknown := sorted(options.keys() - OPTIONS):
        raise TypeError(f"add() has no option {', '.join(unknown)}; it takes {', '.join(OPTIONS)}")
    [job] = yield from add_many(keys, [{"name": name, "data": data, "on_failure": on_failure, **options}])
    return job


def add_many(keys: QueueKeys, items: Iterable[NewJob | tuple[str, Any] | Mapping[str, Any]]) -> Errand[list[Job]]:
    """Add jobs given as (name, data) or as mappings of `add`'s arguments, hundreds per call to Redis."""
    jobs = [_new(keys.prefix, item) for item in each("jobs", items)]
    stored: list[Job] = []
    for chunk in produce.chunks(jobs):
        answers = yield produce.add(keys, chunk)
        stored += [produce.added_job(keys, new, answer) for new, answer in zip(chunk, answers, strict=True)]
    return stored


def parent_of(prefix: str, given: Parent | Job | None, on_failure: OnFailure | None = None) -> Parent | None:
    """The parent that the options name."""
    if given is None:
        if on_failure is not None:
            raise QueueError(f"on_failure {on_failure!r} says what a failure does to the parent; give parent, too")
        return None
    if isinstance(given, Job):
        given = Parent(id=given.id, queue=f"{prefix}:{given.queue}")
    if not isinstance(given, Parent):
        raise QueueError(f"parent {given!r} must be a Job, or Parent(id=..., queue='{prefix}:...')")
    return given if on_failure is None else replace(given, on_failure=on_failure)


def _new(prefix: str, item: Any) -> NewJob:
    if isinstance(item, NewJob):
        return item
    if isinstance(item, Mapping):
        return _from_mapping(prefix, item)
    try:
        name, data = item
    except (TypeError, ValueError):
        raise QueueError(f"{item!r} is not a job; give (name, data) or a mapping of add()'s arguments") from None
    return new_job(name, data)


def _from_mapping(prefix: str, item: Mapping[str, Any]) -> NewJob:
    if unknown := sorted(map(str, item.keys() - OPTIONS - {"name", "data", "on_failure"})):
        raise QueueError(f"{dict(item)!r} is not a job: add() has no option {', '.join(unknown)}")
    given = {"name": "", **item}  # without a name it is refused as any other wrong one
    parent = parent_of(prefix, given.get("parent"), given.pop("on_failure", None))
    return new_job(**{**given, "parent": parent})


def job(keys: QueueKeys, job: Job | str) -> Errand[Job]:
    """The job as it stands now; JobNotFound when it is gone."""
    found: Job | None = yield reads.job(keys, id_of(keys, job))
    if found is None:
        raise not_found(keys, job)
    return found


def about(keys: QueueKeys, job: Job | str, read: Read[R]) -> Errand[R]:
    """What is read about the job; JobNotFound when it is gone."""
    found: R | None = yield reads.if_there(keys, id_of(keys, job), read)
    if found is None:
        raise not_found(keys, job)
    return found


def state(keys: QueueKeys, job: Job | str) -> Errand[JobState]:
    """Where the job is now; UNKNOWN when the queue has lost track of it, JobNotFound when it is gone."""
    found: JobState | None = yield reads.state(keys, id_of(keys, job))
    if found is None:
        raise not_found(keys, job)
    return found


def logs(
    keys: QueueKeys, job: Job | str, start: int = 0, limit: int | None = None, *, newest_first: bool = False
) -> Errand[list[str]]:
    """The job's log lines, oldest first unless `newest_first`: `limit` of them, or all, from place `start` on."""
    first, last = whole("start", start), -1 if limit is None else start + whole("limit", limit) - 1
    if limit == 0:
        return []
    if not newest_first:
        return (yield from about(keys, job, reads.logs(keys, id_of(keys, job), first, last)))
    # Counted from the end, where the newest line has place -1.
    newest = reads.logs(keys, id_of(keys, job), 0 if limit is None else -last - 1, -first - 1)
    return (yield from about(keys, job, newest))[::-1]


def cancel(keys: QueueKeys, job: Job | str, reason: str = "") -> Errand[CancelAnswer]:
    """End the job: at once when it waits or its lock ran out, by asking its supervisor when it runs. Never retried."""
    if not isinstance(reason, str):
        raise QueueError(f"the reason {reason!r} to cancel job {id_of(keys, job)} must be a text")
    word: produce.CancelWord = yield produce.cancel(keys, id_of(keys, job), reason)
    match word:
        case "missing":
            raise not_found(keys, job)
        case "scheduler":
            raise _scheduled(keys, job)
        case _:
            return word


def retry(keys: QueueKeys, job: Job | str) -> Errand[None]:
    """Run a finished job again: its crash budgets start afresh, the attempts it made stay counted."""
    word: produce.RetryWord = yield produce.retry(keys, id_of(keys, job))
    if word == "missing":
        raise not_found(keys, job)
    if word == "not-finished":
        raise WrongState(f"job {id_of(keys, job)} of queue {keys.queue} has not ended; only such a job can be retried")


def promote(keys: QueueKeys, job: Job | str) -> Errand[None]:
    """Let a delayed job run now."""
    word: produce.PromoteWord = yield produce.promote(keys, id_of(keys, job))
    if word == "missing":
        raise not_found(keys, job)
    if word == "not-delayed":
        raise WrongState(f"job {id_of(keys, job)} of queue {keys.queue} is not delayed; there is nothing to promote")


def remove(keys: QueueKeys, job: Job | str, *, children: bool = True) -> Errand[None]:
    """Remove the job and, unless told otherwise, its children; refused while one of them runs.

    Up to 500 jobs go at once. A larger family goes in rounds, the job itself last; it does not run in between. A child
    that is found running only then stays, and so does the job: remove it again once that has ended.
    """
    word = yield from remove_family(keys, id_of(keys, job), "all" if children else "")
    match word:
        case "missing":
            raise not_found(keys, job)
        case "scheduler":
            raise _scheduled(keys, job)
        case "locked":
            raise WrongState(
                f"job {id_of(keys, job)} of queue {keys.queue}, or a child of it, is running; cancel it first"
            )
        case _:
            return


def remove_family(keys: QueueKeys, job_id: str, children: produce.Family) -> Errand[produce.RemoveWord]:
    """Remove a job round by round, with what stands below it; the word that the last round was answered."""
    path, begun = [(keys, job_id)], False
    while True:
        answer: produce.RemoveWord | produce.Below = yield produce.remove(*path[-1], children)
        if isinstance(answer, produce.Below):
            path.append(split_job_key(answer.key, keys.prefix))
        elif answer != "more":
            # What is missing now, somebody else has removed.
            answer = "removed" if answer == "missing" and begun else answer
            if answer != "removed" or len(path) == 1:
                return answer
            path.pop()
        begun = True


def not_found(keys: QueueKeys, job: Job | str) -> JobNotFound:
    """What to raise for a job that is not there."""
    job_id = id_of(keys, job)
    return JobNotFound(f"there is no job {job_id} in queue {keys.queue}; it may have been removed after it ended")


def _scheduled(keys: QueueKeys, job: Job | str) -> WrongState:
    who = f"job {id_of(keys, job)} of queue {keys.queue}"
    return WrongState(f"{who} is the next run of a scheduler; remove the scheduler instead")
