"""What a client asks about a job and its children."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandq.errands.jobs import id_of, not_found
from sandq.errands.step import Errand
from sandq.errors import QueueError
from sandq.job import Job, JobState
from sandq.store import family, flow, reads
from sandq.store.family import Kind
from sandq.store.keys import QueueKeys, split_job_key

DEPTH = 10
MAX_CHILDREN = 20
PAGE = 1000


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
    processed: Mapping[str, Any] = field(default_factory=dict)  # completed: what each returned
    ignored: Mapping[str, str] = field(default_factory=dict)  # failed, and the parent does without: why
    failed: tuple[str, ...] = ()  # failed, and the parent with them
    more: Mapping[Kind, int] = field(default_factory=dict)  # where to go on; empty when these were the last


def child_values(keys: QueueKeys, job: Job | str) -> Errand[dict[str, Any]]:
    """What the completed children of the job returned, by job key."""
    return dict(json.loads((yield family.child_values(keys, id_of(job)))))


def child_failures(keys: QueueKeys, job: Job | str) -> Errand[dict[str, str]]:
    """Why those children failed that the job may do without (`on_failure` "ignore" or "continue"), by job key."""
    found: dict[str, str] = yield family.child_failures(keys, id_of(job))
    return found


def child_counts(keys: QueueKeys, job: Job | str) -> Errand[dict[Kind, int]]:
    """How many children of the job are pending, processed, ignored and failed, as in `children`."""
    found: dict[Kind, int] = yield family.count_children(keys, id_of(job))
    return found


def children(keys: QueueKeys, job: Job | str, *, limit: int = PAGE, after: Children | None = None) -> Errand[Children]:
    """The job's children, about `limit` of each kind; those that come `after` the ones of an earlier answer."""
    found: family.ChildPage = yield family.children(
        keys, id_of(job), limit, family.BEGIN if after is None else after.more
    )
    return Children(
        pending=found.pending,
        processed={key: json.loads(value) for key, value in found.processed.items()},
        ignored=found.ignored,
        failed=found.failed,
        more=found.after,
    )


def remove_child_dependency(keys: QueueKeys, job: Job | str) -> Errand[bool]:
    """Let the parent of this job no longer wait for it; False when it did not. The job itself goes on, on its own."""
    word: flow.LeaveWord = yield flow.leave(keys, id_of(job))
    match word:
        case "missing":
            raise not_found(keys, id_of(job))
        case "no-parent" | "missing-parent":
            gone = "its parent is gone" if word == "missing-parent" else "it has no parent"
            raise QueueError(f"job {id_of(job)} of queue {keys.queue}: {gone}; there is nobody to stop waiting for it")
        case _:
            return word == "left"


def tree(keys: QueueKeys, job: Job | str, *, depth: int = DEPTH, max_children: int = MAX_CHILDREN) -> Errand[FlowTree]:
    """The job with its children and theirs, `depth` levels of them, at most `max_children` of each parent.

    Read job by job, so a flow that is under way may have moved on in between. JobNotFound when the job is gone.
    """
    found = yield from _tree(keys, id_of(job), depth, max_children)
    if found is None:
        raise not_found(keys, id_of(job))
    return found


def _tree(keys: QueueKeys, job_id: str, depth: int, max_children: int) -> Errand[FlowTree | None]:
    job: Job | None = yield reads.job(keys, job_id)
    if job is None:
        return None
    state: JobState = yield reads.state(keys, job_id)
    kin: family.Kin = yield family.kin(keys, job_id, max_children if depth > 0 else 0)
    shown: list[FlowTree] = []
    for key in kin.children:
        child = yield from _tree(*split_job_key(key, keys.prefix), depth - 1, max_children)
        if child is not None:
            shown.append(child)
    return FlowTree(job, tuple(shown), state, kin.count - len(shown))
