"""What a producer or an operator does to a queue, before any I/O: one script per operation, words as answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sandq import __version__
from sandq.errors import QueueError
from sandq.job import Job, JobState
from sandq.store.call import Arg, Call, call
from sandq.store.keys import QueueKeys
from sandq.store.newjob import NewJob, encode_opts, existing_id

MAX_JOBS = 500  # a script call holds up everybody else in Redis: 500 adds take it a few milliseconds
MAX_BYTES = 8 << 20
MAX_MOVED = 1000
MAX_REMOVED = 500

AddWord = Literal["added", "duplicated", "deduplicated", "missing-parent", "other-parent"]
RemoveWord = Literal["removed", "more", "locked", "scheduler", "missing", "ended"]
Family = Literal["", "pending", "all"]  # which of a job's children are meant beside itself
CancelWord = Literal["was_waiting", "was_running", "was_abandoned", "already_done", "scheduler", "missing"]
RetryWord = Literal["ok", "not-finished", "missing"]
PromoteWord = Literal["ok", "not-delayed", "missing"]


@dataclass(frozen=True, slots=True)
class Added:
    """What became of one new job. `id` is the job that now stands for it, empty when it was refused."""

    word: AddWord
    id: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class Below:
    """A family is deeper than one round reaches: the job with this key goes first."""

    key: str


@dataclass(frozen=True, slots=True)
class Retried:
    """One round of retrying all: `again` and `passed` go to the next round; `again` is None when nothing is left."""

    count: int
    again: int | None
    passed: int = 0  # cancelled jobs that stay as they are, of all rounds so far


def add(keys: QueueKeys, jobs: Sequence[NewJob]) -> Call[tuple[Added, ...]]:
    """Add the jobs in their order; each is answered for itself, and one refused does not hold up the next."""
    if len(jobs) > MAX_JOBS:
        raise QueueError(f"{len(jobs)} jobs in one call, over the limit of {MAX_JOBS}; split them with chunks()")

    repeated = [arg for new in jobs for arg in new_args(new, new.job_id or "")]
    named = {"version": f"sandq:{__version__}"}
    return call("add", keys.base, lambda reply: parse_added(jobs, reply), named, repeated)


def parse_added(jobs: Sequence[NewJob], reply: Sequence[Any]) -> tuple[Added, ...]:
    """What became of each of the jobs: the server's clock, then a word and an id for each."""
    now, answers = int(reply[0]), reply[1:]
    return tuple(
        Added(_word(word), _text(job_id), now if new.timestamp is None else new.timestamp)
        for new, word, job_id in zip(jobs, answers[::2], answers[1::2], strict=True)
    )


def chunks(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """The jobs in pieces that one call may carry, by number and by size."""
    start = held = 0
    for n, new in enumerate(jobs):
        if n > start and (n - start == MAX_JOBS or held + len(new.data_json) > MAX_BYTES):
            yield jobs[start:n]
            start, held = n, 0
        held += len(new.data_json)
    if start < len(jobs):
        yield jobs[start:]


def added_job(keys: QueueKeys, new: NewJob, added: Added) -> Job:
    """The job as just stored, without reading it again; QueueError when it was refused.

    Of a duplicate only the id is certain: what it holds was stored by whoever came first.
    """
    if added.word in ("missing-parent", "other-parent"):
        raise refusal(new, added.word)
    return Job(
        queue=keys.queue,
        id=added.id,
        name=new.name,
        data_json=new.data_json,
        opts=new.opts,
        timestamp=added.timestamp,
        delay=new.delay_ms,
        priority=new.priority,
        parent_key=new.parent.key if new.parent else None,
        deduplication_id=new.deduplication["id"] if new.deduplication else None,
    )


def refusal(new: NewJob, word: AddWord) -> QueueError:
    """Why a job was not added, for whoever wanted it."""
    if word == "missing-parent":
        return QueueError(f"job {new.name!r}: its parent {_parent(new)} is not there; add the parent first")
    return QueueError(f"job {new.name!r}: {new.job_id!r} has another living parent already; use a new id")


def pause(keys: QueueKeys) -> Call[str]:
    """No job of the queue is claimed any more, by anybody; running jobs go on."""
    return call("pause", keys.base, _word, {})


def resume(keys: QueueKeys) -> Call[Literal["ok", "more"]]:
    """Jobs are claimed again. "more": jobs that BullMQ 5 set aside are left, call again."""
    return call("resume", keys.base, _word, {})


def promote(keys: QueueKeys, job_id: str) -> Call[PromoteWord]:
    """A delayed job may run now."""
    return call("promote", keys.base, _word, {"id": existing_id(job_id)})


def retry(keys: QueueKeys, job_id: str) -> Call[RetryWord]:
    """A finished job runs again: its crash counters start afresh, the attempts it made stay counted."""
    return call("retry", keys.base, _word, {"id": existing_id(job_id)})


def retry_all(
    keys: QueueKeys,
    state: Literal[JobState.FAILED, JobState.COMPLETED] = JobState.FAILED,
    again: int = 0,
    passed: int = 0,
    limit: int = MAX_MOVED,
    *,
    cancelled: bool = False,
) -> Call[Retried]:
    """The jobs of a finished state run again, oldest first; those that were cancelled only if `cancelled` says so.

    One call looks at `limit` jobs at most.
    """

    def parse(reply: Sequence[Any]) -> Retried:
        return Retried(int(reply[0]), int(reply[1]) or None, int(reply[2]))

    named: dict[str, Arg] = {"state": state.value, "cutoff": again, "passed": passed, "limit": limit}
    return call("retry_all", keys.base, parse, {**named, "cancelled": "1" if cancelled else "0"})


def remove(
    keys: QueueKeys, job_id: str, children: Family = "all", limit: int = MAX_REMOVED
) -> Call[RemoveWord | Below]:
    """The job and the children that are meant are gone, or with "more" some of these; none is when one of them runs.

    "pending" means children that wait to run; the others stay, and "ended" says that the job itself is of them.
    """

    def parse(reply: Any) -> RemoveWord | Below:
        return Below(_text(reply[1])) if isinstance(reply, list) else _word(reply)

    return call("remove", keys.base, parse, {"id": existing_id(job_id), "children": children, "limit": limit})


def cancel(keys: QueueKeys, job_id: str, reason: str = "") -> Call[CancelWord]:
    """A job that waits fails at once; one that runs is asked to stop by whoever runs it."""
    return call("cancel", keys.base, _word, {"id": existing_id(job_id), "reason": reason.encode("utf-8", "replace")})


def new_args(new: NewJob, job_id: str) -> tuple[Arg, ...]:
    """One job's share of the arguments, in the order lua/lib/newjob.lua names; without an id the queue counts."""
    return (
        job_id,
        new.name,
        new.data_json,
        encode_opts(new.opts),
        "" if new.timestamp is None else new.timestamp,
        new.delay_ms,
        new.priority,
        "1" if new.lifo else "0",
        new.parent.key if new.parent else "",
        new.parent.to_field() if new.parent else "",
        encode_opts(new.deduplication) if new.deduplication else "",
    )


def _parent(new: NewJob) -> str:
    return repr(new.parent.key) if new.parent else ""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _word(raw: bytes) -> Any:
    """One of the words that the script's header lists: a closed set that no type checker can see into Lua."""
    return raw.decode()
