"""Every Redis key name that Python writes; the same names stand in lua/lib/queue.lua (BullMQ's key table)."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from sandq.errors import QueueError
from sandq.store.arguments import has_utf8, text

# Suffixes that are structural keys of a queue: as a job id they would shadow one (wire-format 2.3).
RESERVED_IDS = frozenset(
    [
        "wait",
        "active",
        "prioritized",
        "delayed",
        "waiting-children",
        "completed",
        "failed",
        "paused",
        "id",
        "pc",
        "meta",
        "marker",
        "events",
        "limiter",
        "stalled",
        "stalled-check",
        "repeat",
        "metrics:completed",
        "metrics:failed",
        "metrics:completed:data",
        "metrics:failed:data",
        "delay",
        "priority",
        "sq",
    ]
)
RESERVED_PREFIXES = ("de:", "dn:", "repeat:", "sq:", "0:")
JOB_KEY_SUFFIXES = (":lock", ":logs", ":dependencies", ":processed", ":failed", ":unsuccessful")


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys of one queue: everything starts with `<prefix>:<queue>:`."""

    queue: str
    prefix: str = "bull"

    def __post_init__(self) -> None:
        text("queue name", self.queue)
        if ":" in self.queue:
            raise QueueError(f"queue name {self.queue!r} holds ':', which separates the parts of a key; choose another")
        if not isinstance(self.prefix, str) or not has_utf8(self.prefix):
            raise QueueError(f"key prefix {self.prefix!r} of queue {self.queue!r} must be a text, such as bull")

    @property
    def base(self) -> str:
        """The common start of all keys, with its colon."""
        return f"{self.prefix}:{self.queue}:"

    def key(self, suffix: str) -> str:
        """A structural key (`wait`, `events`, ...) or, given a job id, its hash."""
        return self.base + suffix

    def lock(self, job_id: str) -> str:
        """The string that holds the token of whoever runs the job."""
        return f"{self.base}{job_id}:lock"

    def slot(self, name: str) -> str:
        """Where a connection slot keeps its last reply, for a repeated call."""
        return f"{self.base}sq:op:{name}"

    def client_name(self, worker: str | None = None) -> str:
        """The CLIENT SETNAME by which BullMQ lists a worker of this queue (wire-format 5.2)."""
        encoded = base64.b64encode(self.queue.encode()).decode()
        # Redis takes no name with a blank in it, and a connection without a name is nobody's worker.
        shown = "".join(char if "!" <= char <= "~" else "_" for char in worker or "")
        return f"{self.prefix}:{encoded}" + (f":w:{shown}" if shown else "")

    @property
    def listener_name(self) -> str | None:
        """The CLIENT SETNAME by which BullMQ lists who follows this queue's events; None where Redis takes no such."""
        name = f"{self.client_name()}:qe"
        return name if all("!" <= char <= "~" for char in name) else None


def split_job_key(key: str, prefix: str) -> tuple[QueueKeys, str]:
    """The queue and the id in a job's key, which another queue may have written.

    Under our own prefix the queue is the next part, so that ids with colons survive; elsewhere the id is the last part.
    """
    queue, colon, job_id = key.removeprefix(f"{prefix}:").partition(":")
    if key.startswith(f"{prefix}:") and queue and colon:
        return QueueKeys(queue, prefix), job_id
    base, _, job_id = key.rpartition(":")
    prefix, _, queue = base.rpartition(":")
    return QueueKeys(queue, prefix), job_id
