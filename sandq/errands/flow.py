"""Whole flows: how a tree of jobs is described, how it gets into Redis at once, and how it is read again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack
from uuid import uuid4

from sandq.errands import family
from sandq.errands.family import FlowTree
from sandq.errands.jobs import OPTIONS, JobOptions, parent_of
from sandq.errands.step import Errand
from sandq.errors import QueueError
from sandq.job import Job
from sandq.store import flow, produce
from sandq.store.arguments import each
from sandq.store.keys import QueueKeys
from sandq.store.newjob import OnFailure, Parent, failure_rule, new_job


@dataclass(frozen=True, slots=True, init=False)
class FlowJob:
    """One job of a flow that is to be added, with the children it waits for."""

    name: str
    data: Any
    queue: str | None
    children: tuple[FlowJob | Mapping[str, Any], ...]
    on_failure: OnFailure
    options: JobOptions

    def __init__(
        self,
        name: str,
        data: Any = None,
        *,
        queue: str | None = None,
        children: Iterable[FlowJob | Mapping[str, Any]] = (),
        on_failure: OnFailure = "wait",
        **options: Unpack[JobOptions],
    ) -> None:
        """`queue`: its parent's when left out. `on_failure`: what its failure does to its parent.

        Options are those of `Queue.add`; a `parent` may only be given to the root. A child may also be a mapping of
        these arguments.
        """
        if unknown := sorted(options.keys() - OPTIONS):
            raise TypeError(f"FlowJob() has no option {', '.join(unknown)}; it takes those of Queue.add")
        given = (name, data, queue, tuple(children), on_failure, options)
        for field, value in zip(self.__slots__, given, strict=True):
            object.__setattr__(self, field, value)


Tree = FlowJob | Mapping[str, Any]


def add(prefix: str, tree: Tree) -> Errand[FlowTree]:
    """Add a flow, all of it at once or, with QueueError, nothing; the jobs that now stand for its nodes."""
    [added] = yield from add_many(prefix, [tree])
    return added


def add_many(prefix: str, trees: Iterable[Tree]) -> Errand[list[FlowTree]]:
    """Add flows, all of them at once or, with QueueError, nothing."""
    branches = list(_branches(prefix, trees))
    if not branches:
        return []
    answer: tuple[produce.Added, ...] | flow.Refused = yield flow.insert([branch.node for branch in branches])
    if isinstance(answer, flow.Refused):
        raise QueueError(f"{produce.refusal(answer.node.new, answer.word)}; nothing of the flow was added")
    return _trees(branches, answer)


def tree(
    prefix: str, queue: str, job: Job | str, *, depth: int = family.DEPTH, max_children: int = family.MAX_CHILDREN
) -> Errand[FlowTree]:
    """The job with its children and theirs, `depth` levels of them, at most `max_children` of each parent.

    JobNotFound when the job is gone.
    """
    return (yield from family.tree(QueueKeys(queue, prefix), job, depth=depth, max_children=max_children))


class _Branch(NamedTuple):
    """A node and how many children it has."""

    node: flow.Node
    children: int


class _Twig(NamedTuple):
    """What is still to be made into a node."""

    tree: Tree
    above: flow.Node | None


def _branches(prefix: str, trees: Iterable[Tree]) -> Iterator[_Branch]:
    """Every node, level by level: the order in which BullMQ adds them, and so that in which equal jobs will run."""
    waiting = deque(_Twig(tree, None) for tree in each("flows", trees))
    while waiting:
        twig = waiting.popleft()
        job = _flow_job(twig.tree)
        node = _node(prefix, job, twig.above)
        yield _Branch(node, len(job.children))
        waiting += [_Twig(child, node) for child in job.children]


def _flow_job(tree: Any) -> FlowJob:
    if isinstance(tree, FlowJob):
        return tree
    if not isinstance(tree, Mapping):
        raise QueueError(f"{tree!r} is not a job of a flow; give a FlowJob or a mapping of its arguments")
    try:
        return FlowJob(**tree)
    except TypeError as error:
        raise QueueError(f"{dict(tree)!r} is not a job of a flow: {error}") from None


def _node(prefix: str, job: FlowJob, above: flow.Node | None) -> flow.Node:
    queue = above.keys.queue if job.queue is None and above else job.queue
    if queue is None:
        raise QueueError(f"job {job.name!r} is the root of a flow and names no queue; give it queue=...")
    if job.children and job.options.get("deduplication") is not None:
        raise QueueError(f"job {job.name!r} has children and deduplication; its children would be left without it")
    options: dict[str, Any] = {**job.options, "parent": _parent(prefix, job, above)}
    new = new_job(job.name, job.data, **options)
    return flow.Node(QueueKeys(queue, prefix), new.job_id or str(uuid4()), new, bool(job.children))


def _parent(prefix: str, job: FlowJob, above: flow.Node | None) -> Parent | None:
    given = job.options.get("parent")
    if above is None:  # without a parent a rule is of no use; the same tree may hang below one another time
        rule = failure_rule(job.on_failure)
        return parent_of(prefix, given, None if given is None or rule == "wait" else rule)
    if given is not None:
        raise QueueError(f"job {job.name!r} is a child of {above.new.name!r} already; only a root may have a parent")
    return Parent(id=above.id, queue=above.keys.base[:-1], on_failure=job.on_failure)


def _trees(branches: list[_Branch], answers: tuple[produce.Added, ...]) -> list[FlowTree]:
    """Grown from the leaves: from the last level up, each node takes the first trees that nobody has taken yet."""
    made = deque[FlowTree]()
    for branch, answer in zip(reversed(branches), reversed(answers), strict=True):
        children = [made.popleft() for _ in range(branch.children)]
        made.append(FlowTree(produce.added_job(branch.node.keys, branch.node.new, answer), tuple(reversed(children))))
    return list(reversed(made))
