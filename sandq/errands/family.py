"""What a client asks about a job and its children."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandq.errands.jobs import about, id_of, not_found, remove_family, state
from sandq.errands.step import Errand
from sandq.errors import QueueError, WrongState
from sandq.event import NotJson
from sandq.job import Job, JobState
from sandq.store import family, flow, reads
from sandq.store.arguments import whole
from sandq.store.family import Kind
from sandq.store.keys import QueueKeys, split_job_key
from sandq.store.newjob import existing_id

DEPTH = 10
MAX_DEPTH = 100  # each level is one call deeper on Python's stack, and on that of whoever writes the tree as JSON
MAX_CHILDREN = 20
PAGE = 1000
MAX_LOOKED_AT = 10_000  # children that are asked whether they failed, for a person who waits for the answer
_WORST_FIRST: tuple[Kind, ...] = ("failed", "pending", "ignored")


@dataclass(frozen=True, slots=True)
class FlowTree:
    """A job with its children and theirs."""

    job: Job
    children: tuple[FlowTree, ...] = ()
    state: JobState | None = None  # None: not looked up, as in what adding a flow returns
    hidden: int = 0  # children that are not shown: beyond the limits, or removed

    def walk(self) -> Iterator[FlowTree]:
        """Every node from here down, parents before their children."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """Some of a job's children, by job key."""

    pending: tuple[str, ...] = ()  # not ended, or failed and waited for
    processed: Mapping[str, Any] = field(default_factory=dict)  # completed: what each returned, NotJson if it is none
    ignored: Mapping[str, str] = field(default_factory=dict)  # failed, and the parent does without: why
    failed: tuple[str, ...] = ()  # failed, and the parent with them
    more: Mapping[Kind, int] = field(default_factory=dict)  # where to go on; empty when these were the last


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedChild:
    """A child that failed, and what it is to its parent."""

    queue: str
    id: str
    kind: Kind  # "failed": its parent fails with it; "pending": waits for it; "ignored": does without it
    reason: str | None = None  # None: it is not failed any more, or gone


def child_values(keys: QueueKeys, job: Job | str) -> Errand[dict[str, Any]]:
    """What the completed children of the job returned, by job key; NotJson where another client stored no JSON."""
    found = yield from about(keys, job, family.processed(keys, id_of(keys, job)))
    return _values(found)


def child_failures(keys: QueueKeys, job: Job | str) -> Errand[dict[str, str]]:
    """Why those children failed that the job may do without (`on_failure` "ignore" or "continue"), by job key.

    Not those for which it goes on waiting ("wait"), or with which it failed ("fail"): `children` has them.
    """
    return (yield from about(keys, job, family.child_failures(keys, id_of(keys, job))))


def child_counts(keys: QueueKeys, job: Job | str) -> Errand[dict[Kind, int]]:
    """How many children of the job are pending, processed, ignored and failed, as in `children`."""
    return (yield from about(keys, job, family.count_children(keys, id_of(keys, job))))


def children(keys: QueueKeys, job: Job | str, *, limit: int = PAGE, after: Children | None = None) -> Errand[Children]:
    """The job's children, about `limit` of each kind; those that come `after` the ones of an earlier answer."""
    if after is not None and not isinstance(after, Children):
        raise QueueError(f"{after!r} is nothing to go on after; give what children() returned, or nothing")
    begin = family.BEGIN if after is None else after.more
    page = family.children(keys, id_of(keys, job), whole("limit", limit, least=1), begin)
    found = yield from about(keys, job, page)
    return Children(
        pending=found.pending,
        processed=_values(found.processed),
        ignored=found.ignored,
        failed=found.failed,
        more=found.after,
    )


def failed_children(keys: QueueKeys, job: Job | str, limit: int) -> Errand[list[FailedChild]]:
    """At most `limit` of the job's children that failed: those with which it failed, then those that hold it up.

    Of many thousand children only the first are looked at.
    """
    found: list[FailedChild] = []
    # Not the completed ones: that would bring what they returned.
    after, looked_at = dict.fromkeys(_WORST_FIRST, 0), 0
    while after and len(found) < limit and looked_at < MAX_LOOKED_AT:
        page: family.ChildPage = yield family.children(keys, id_of(keys, job), PAGE, after)
        found += yield from _failures(page.failed, "failed", keys.prefix)
        pending = yield from _failures(page.pending, "pending", keys.prefix)
        found += [child for child in pending if child.reason is not None]
        for key, why in page.ignored.items():
            if place := _place(key, keys.prefix):
                found.append(FailedChild(queue=place[0].queue, id=place[1], kind="ignored", reason=why))
        after, looked_at = dict(page.after), looked_at + PAGE
    once = dict.fromkeys(found)  # a scan may meet a child twice
    return sorted(once, key=lambda child: _WORST_FIRST.index(child.kind))[:limit]


def _failures(job_keys: Sequence[str], kind: Kind, prefix: str) -> Errand[list[FailedChild]]:
    """Each of these children with why it failed; without a reason if it is not failed now."""
    by_queue: dict[QueueKeys, list[str]] = {}
    for place in (_place(key, prefix) for key in job_keys):
        if place is not None:
            by_queue.setdefault(place[0], []).append(place[1])
    found: list[FailedChild] = []
    for keys, ids in by_queue.items():  # a queue at a time: on a cluster two may be on two servers
        reasons: list[str | None] = yield reads.failures(keys, ids)
        found += [
            FailedChild(queue=keys.queue, id=one, kind=kind, reason=why) for one, why in zip(ids, reasons, strict=True)
        ]
    return found


def remove_child_dependency(keys: QueueKeys, job: Job | str) -> Errand[bool]:
    """Let the parent of this job no longer wait for it; False when it did not. The job itself goes on, on its own."""
    word: flow.LeaveWord = yield flow.leave(keys, id_of(keys, job))
    match word:
        case "missing":
            raise not_found(keys, job)
        case "no-parent" | "missing-parent":
            gone = "its parent is gone" if word == "missing-parent" else "it has no parent"
            raise WrongState(
                f"job {id_of(keys, job)} of queue {keys.queue}: {gone}; there is nobody to stop waiting for it"
            )
        case _:
            return word == "left"


def remove_unprocessed_children(keys: QueueKeys, job: Job | str) -> Errand[int]:
    """Remove the children that wait to run, with theirs; how many children that were. The job goes on if none is left.

    Children that run or have ended stay. A child goes at once, as `remove` says; all of them do not.
    """
    yield from state(keys, job)
    count = 0
    after: Mapping[Kind, int] = {"pending": 0}
    while after:
        page: family.ChildPage = yield family.children(keys, id_of(keys, job), PAGE, after)
        for key in page.pending:
            word = yield from remove_family(*split_job_key(key, keys.prefix), "pending")
            count += word == "removed"
        after = page.after
    return count


def tree(keys: QueueKeys, job: Job | str, *, depth: int = DEPTH, max_children: int = MAX_CHILDREN) -> Errand[FlowTree]:
    """The job with its children and theirs, `depth` levels of them, at most `max_children` of each parent.

    Read job by job, so a flow that is under way may have moved on in between. JobNotFound when the job is gone.
    """
    whole("depth", depth, most=MAX_DEPTH)
    whole("max_children", max_children)
    found = yield from _tree(keys, id_of(keys, job), depth, max_children)
    if found is None:
        raise not_found(keys, job)
    return found


def _tree(keys: QueueKeys, job_id: str, depth: int, max_children: int) -> Errand[FlowTree | None]:
    job: Job | None = yield reads.job(keys, job_id)
    if job is None:
        return None
    state: JobState | None = yield reads.state(keys, job_id)
    kin: family.Kin = yield family.kin(keys, job_id, max_children if depth > 0 else 0)
    shown: list[FlowTree] = []
    for key in kin.children:
        place = _place(key, keys.prefix)
        child = (yield from _tree(*place, depth - 1, max_children)) if place else None
        if child is not None:
            shown.append(child)
    return FlowTree(job, tuple(shown), state or JobState.UNKNOWN, kin.count - len(shown))


def _place(key: str, prefix: str) -> tuple[QueueKeys, str] | None:
    """Where a child is; None for what cannot be a job's key, which another client may have written."""
    try:
        keys, job_id = split_job_key(key, prefix)
        return keys, existing_id(job_id)
    except QueueError:
        return None


def _values(found: Mapping[str, bytes]) -> dict[str, Any]:
    return {key: _value(raw) for key, raw in found.items()}


def _value(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return NotJson(raw.decode("utf-8", "replace"))
