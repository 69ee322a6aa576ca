"""The steps that both sides can do to a queue. Options carry BullMQ's names, operations the names of sandq's Queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from peer import Peer, PeerQueue
from redis import Redis

from sandq.store.keys import QueueKeys

METRICS_POINTS = 5
WORKER = "worker"


class LostError(Exception):
    """The worker no longer owns the job."""


class Hands(Protocol):
    """One queue, one producer and one worker of it, one step at a time."""

    def on(self, queue: str) -> Hands:
        """The same hands on another queue."""

    def flow(self, tree: Mapping[str, Any]) -> None:
        """Insert a flow."""

    def schedule(self, scheduler: str, repeat: Mapping[str, Any], template: Mapping[str, Any]) -> None:
        """Make a job scheduler, or change it."""

    def add(self, name: str, data: Any = None, **options: Any) -> str:
        """Add a job; its id."""

    def add_many(self, *jobs: Mapping[str, Any]) -> None:
        """Add jobs, each a `name`, `data` and `opts`, with one call."""

    def operate(self, what: str, *args: Any) -> None:
        """What an operator does to the queue (`pause`, `drain`, ...) or to a job (`promote`, `retry`, ...)."""

    def claim(self) -> str | None:
        """Take the next job; its id."""

    def complete(self, job_id: str, value: Any = None, *, claims: bool = False) -> str | None:
        """The handler returned; with `claims`, the id of the next job. LostError when somebody else owns the job."""

    def fail(self, job_id: str, message: str = "boom", *, permanent: bool = False) -> None:
        """The handler threw."""

    def end_deferred(self, job_id: str) -> None:
        """A job that is to fail without having run."""

    def postpone(self, job_id: str, until: str, delay_ms: int = 0) -> None:
        """The handler asked to run again: after a `delay` or a rate `limit`, or with its `children` done."""

    def note(self, job_id: str, *, progress: Any = None, line: str = "", data: Any = None) -> None:
        """The handler reported progress, logged, or replaced its data."""

    def measure(self) -> None:
        """From here on the worker keeps metrics."""

    def limit(self, most: int, ms: int) -> None:
        """From here on the worker has a limiter."""

    def renew(self, job_id: str) -> None:
        """The worker is alive and says so."""

    def check_stalled(self) -> None:
        """A stalled check that no throttle holds back."""

    def wake(self) -> None:
        """An idle worker wakes, which takes the markers away."""

    def lose_lock(self, job_id: str, holder: str = "") -> None:
        """What Redis does when a lock runs out, and what another worker does that takes the job then."""


class Shared:
    """What Redis does by itself, and a look at the queue with BullMQ's eyes."""

    def __init__(self, node: Peer, client: Redis, prefix: str, queue: str) -> None:
        self.client, self.prefix = client, prefix
        self.node = PeerQueue(node, prefix, queue)
        self.keys = QueueKeys(queue, prefix)
        self.metrics_points = 0
        self.limiter: tuple[int, int] | None = None

    def measure(self) -> None:
        self.metrics_points = METRICS_POINTS

    def limit(self, most: int, ms: int) -> None:
        self.limiter = (most, ms)

    def wake(self) -> None:
        assert self.client.delete(self.keys.key("marker")) == 1

    def lose_lock(self, job_id: str, holder: str = "") -> None:
        assert self.client.delete(self.keys.lock(job_id)) == 1
        if holder:
            self.client.set(self.keys.lock(job_id), holder)

    def unthrottle(self) -> None:
        self.client.delete(self.keys.key("stalled-check"))


def stack_of(message: str) -> str:
    """The stack that both sides store for a failure."""
    return f"Error: {message}\n    at work"
