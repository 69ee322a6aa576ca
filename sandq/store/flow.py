"""Parents and children before any I/O: a flow on its way into Redis, and what a parent knows of its children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sandq import __version__
from sandq.errors import QueueError
from sandq.store.call import Arg, Call, call
from sandq.store.keys import QueueKeys
from sandq.store.newjob import NewJob, existing_id
from sandq.store.produce import Added, new_args, parse_added
from sandq.units import show_size

# A flow cannot be cut into pieces, and its script holds up everybody else in Redis: about 30 µs a node.
MAX_NODES = 5000
MAX_BYTES = 32 << 20

LeaveWord = Literal["left", "not-pending", "no-parent", "missing-parent", "missing"]
Refusal = Literal["missing-parent", "other-parent"]


@dataclass(frozen=True, slots=True)
class Node:
    """One job of a flow. It has an id from the start: the others name it before Redis knows it."""

    keys: QueueKeys
    id: str
    new: NewJob
    waits: bool  # it has children

    @property
    def key(self) -> str:
        """The job's key."""
        return self.keys.key(self.id)


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was written, because of this node."""

    word: Refusal
    node: Node


def insert(nodes: Sequence[Node]) -> Call[tuple[Added, ...] | Refused]:
    """Add all nodes, parents standing before their children, or nothing when one is refused."""
    check_size(nodes)

    def parse(reply: Sequence[Any]) -> tuple[Added, ...] | Refused:
        if len(reply) == 2:
            return Refused(reply[0].decode(), nodes[int(reply[1]) - 1])
        return parse_added([node.new for node in nodes], reply)

    repeated = [arg for node in nodes for arg in _args(node)]
    return call("flow", nodes[0].keys.base, parse, {"version": f"sandq:{__version__}"}, repeated)


def check_size(nodes: Sequence[Node]) -> None:
    """QueueError when the nodes are more than one call may carry, or when two of them are one job."""
    seen: set[str] = set()
    for node in nodes:
        if node.key in seen:
            raise QueueError(f"job {node.id!r} of queue {node.keys.queue} stands twice in one flow")
        seen.add(node.key)
    if len(nodes) > MAX_NODES:
        raise QueueError(
            f"{len(nodes)} jobs in one flow, over the limit of {MAX_NODES}: all of it is added at once; "
            "let the parent's handler add its children with job.add(..., child=True)"
        )
    held = sum(len(node.new.data_json) for node in nodes)
    if held > MAX_BYTES:
        raise QueueError(
            f"the data of this flow is {show_size(held)}, over the limit of {show_size(MAX_BYTES)}: all of it is added "
            "at once; store the data elsewhere and pass where it is"
        )


def leave(keys: QueueKeys, job_id: str) -> Call[LeaveWord]:
    """The parent no longer waits for this child; if it was the last one, the parent goes on."""
    return call("leave", keys.base, lambda word: word.decode(), {"id": existing_id(job_id)})


def _args(node: Node) -> tuple[Arg, ...]:
    """One node's share of the arguments, in the order flow.lua names."""
    return (node.keys.base, *new_args(node.new, node.id), "1" if node.waits else "")
