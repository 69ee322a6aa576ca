"""The same steps by either side: BullMQ's own classes, and sandq's operations. Options carry BullMQ's names."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, Protocol

from node import Node, NodeQueue
from redis import Redis

from sandq.config import Lease, QueueSettings
from sandq.decide import decide
from sandq.outcome import Completed, Deferred, Outcome, Place, Postponed, Raised
from sandq.store import produce, work
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.newjob import Parent, new_job

LOCK_S = 30.0
STALLED_MS = 30000
METRICS_POINTS = 5
WORKER = "worker"

_OPTIONS = {
    "jobId": "job_id",
    "removeOnComplete": "remove_on_complete",
    "removeOnFail": "remove_on_fail",
    "stackTraceLimit": "stacktrace_limit",
    "keepLogs": "keep_logs",
    "keepLastIfActive": "keep_last_if_active",
}
_MILLISECONDS = ("delay", "ttl")


class Hands(Protocol):
    """One queue, one producer and one worker of it, one step at a time."""

    def on(self, queue: str) -> Hands:
        """The same hands on another queue."""

    def flow(self, tree: Mapping[str, Any]) -> None:
        """Insert a flow; BullMQ does, for both."""

    def schedule(self, scheduler: str, repeat: Mapping[str, Any], template: Mapping[str, Any]) -> None:
        """Make a job scheduler; BullMQ does, for both."""

    def add(self, name: str, data: Any = None, **options: Any) -> str:
        """Add a job; its id."""

    def operate(self, what: str, job_id: str = "") -> None:
        """`pause`, `resume`, or on a job: `promote`, `retry`, `remove`."""

    def claim(self) -> str | None:
        """Take the next job; its id."""

    def complete(self, job_id: str, value: Any = None, *, claims: bool = False) -> str | None:
        """The handler returned; with `claims`, the id of the next job."""

    def fail(self, job_id: str, message: str = "boom", *, permanent: bool = False) -> None:
        """The handler threw."""

    def end_deferred(self, job_id: str) -> None:
        """A job that is to fail without having run."""

    def postpone(self, job_id: str, until: str, delay_ms: int = 0) -> None:
        """The handler asked to run again: after a `delay` or a rate `limit`, or with its `children` done."""

    def note(self, job_id: str, *, progress: Any = None, line: str = "", data: Any = None) -> None:
        """The handler reported progress, logged, or replaced its data."""

    def renew(self, job_id: str) -> None:
        """The worker is alive and says so."""

    def check_stalled(self) -> None:
        """A stalled check that no throttle holds back."""

    def wake(self) -> None:
        """An idle worker wakes, which takes the markers away."""

    def lose_lock(self, job_id: str) -> None:
        """What Redis does when a lock runs out."""


class _Shared:
    """What both sides do alike: set-up that only BullMQ offers, and what Redis does by itself."""

    def __init__(self, node: Node, client: Redis, prefix: str, queue: str) -> None:
        self.client, self.prefix = client, prefix
        self.node = NodeQueue(node, prefix, queue)
        self.keys = QueueKeys(queue, prefix)

    def flow(self, tree: Mapping[str, Any]) -> None:
        self.node.ask("flow", flow=tree)

    def schedule(self, scheduler: str, repeat: Mapping[str, Any], template: Mapping[str, Any]) -> None:
        self.node.call("upsertJobScheduler", scheduler, repeat, template)

    def wake(self) -> None:
        assert self.client.delete(self.keys.key("marker")) == 1

    def lose_lock(self, job_id: str) -> None:
        assert self.client.delete(self.keys.lock(job_id)) == 1

    def unthrottle(self) -> None:
        self.client.delete(self.keys.key("stalled-check"))


class NodeHands(_Shared):
    """BullMQ's Queue and a Worker that claims on request."""

    def on(self, queue: str) -> NodeHands:
        return NodeHands(self.node.node, self.client, self.prefix, queue)

    def add(self, name: str, data: Any = None, **options: Any) -> str:
        return self.node.add(name, data, **options)

    def operate(self, what: str, job_id: str = "") -> None:
        if job_id:
            self.node.job(job_id, what)
        else:
            self.node.call(what)

    def claim(self) -> str | None:
        options = {"name": WORKER, "metrics": {"maxDataPoints": METRICS_POINTS}}
        found: str | None = self.node.ask("claim", token="t", options=options)
        return found

    def complete(self, job_id: str, value: Any = None, *, claims: bool = False) -> str | None:
        found: str | None = self.node.ask("complete", job=job_id, value=value, next=claims)
        return found

    def fail(self, job_id: str, message: str = "boom", *, permanent: bool = False) -> None:
        self.node.ask("fail", job=job_id, message=message, stack=_stack(message), permanent=permanent)

    def end_deferred(self, job_id: str) -> None:
        self.node.ask("endDeferred", job=job_id)

    def postpone(self, job_id: str, until: str, delay_ms: int = 0) -> None:
        if until == "limit":
            self.node.call("rateLimit", delay_ms)
        step = {"delay": "later", "limit": "putBack", "children": "awaitChildren"}[until]
        self.node.ask(step, job=job_id, delay=delay_ms)

    def note(self, job_id: str, *, progress: Any = None, line: str = "", data: Any = None) -> None:
        if progress is not None:
            self.node.ask("progress", job=job_id, value=progress)
        if line:
            self.node.ask("log", job=job_id, line=line)
        if data is not None:
            self.node.ask("updateData", job=job_id, value=data)

    def renew(self, job_id: str) -> None:
        self.node.ask("renew", job=job_id)

    def check_stalled(self) -> None:
        self.unthrottle()
        self.node.ask("checkStalled")


class SandqHands(_Shared):
    """sandq's operations, with what `decide` makes of an outcome in between."""

    def __init__(self, node: Node, client: Redis, prefix: str, queue: str, executor: SyncExecutor) -> None:
        super().__init__(node, client, prefix, queue)
        self.executor, self.run = executor, executor.run
        self._held: dict[str, work.Taken] = {}
        self._tokens = 0

    def on(self, queue: str) -> SandqHands:
        return SandqHands(self.node.node, self.client, self.prefix, queue, self.executor)

    def add(self, name: str, data: Any = None, **options: Any) -> str:
        return self.run(produce.add(self.keys, [new_job(name, data, **_translated(options))]))[0].id

    def operate(self, what: str, job_id: str = "") -> None:
        operation = getattr(produce, what)
        assert self.run(operation(self.keys, job_id) if job_id else operation(self.keys)) in ("ok", "removed")

    def claim(self) -> str | None:
        return self._hold(self.run(work.claim(self.keys, self._next())))

    def complete(self, job_id: str, value: Any = None, *, claims: bool = False) -> str | None:
        return self._settle(job_id, Completed(_json(value)), claims=claims)

    def fail(self, job_id: str, message: str = "boom", *, permanent: bool = False) -> None:
        self._settle(job_id, Raised(message, _stack(message), permanent))

    def end_deferred(self, job_id: str) -> None:
        reason = self._held[job_id].job.deferred_failure
        assert reason is not None
        self._settle(job_id, Deferred(reason))

    def postpone(self, job_id: str, until: Any, delay_ms: int = 0) -> None:
        self._settle(job_id, Postponed(until, delay_ms / 1000))

    def note(self, job_id: str, *, progress: Any = None, line: str = "", data: Any = None) -> None:
        token = self._held[job_id].token
        if progress is not None:
            self.run(work.progress(self.keys, job_id, _json(progress), token))
        if line:
            keep = self._held[job_id].job.opts.get("kl")
            self.run(work.log(self.keys, job_id, line, keep, token))
        if data is not None:
            self.run(work.update_data(self.keys, job_id, _json(data), token))

    def renew(self, job_id: str) -> None:
        token = self._held[job_id].token
        assert not self.run(work.renew(self.keys, [(job_id, token)], Lease(LOCK_S).lock_ms))

    def check_stalled(self) -> None:
        self.unthrottle()
        self.run(work.check_stalled(self.keys, STALLED_MS, 1))

    def _settle(self, job_id: str, outcome: Outcome, *, claims: bool = False) -> str | None:
        taken, settings = self._held[job_id], QueueSettings(metrics_points=METRICS_POINTS)
        settlement = decide(taken.job, outcome, settings, random.Random(0))
        assert settlement is not None
        wanted = self._next() if claims else None
        settled = self.run(work.settle(self.keys, job_id, taken.token, settlement, settings, next_claim=wanted))
        if settled.word == "ok":
            return self._hold(settled.claimed)
        # What a supervisor does when Redis knows more of the children than the handler.
        assert settlement.to is Place.COMPLETED
        return self._settle(job_id, Raised(settled.word, settled.word, permanent=True))

    def _hold(self, claimed: work.Claimed | None) -> str | None:
        if claimed is None or not claimed.jobs:
            return None
        (taken,) = claimed.jobs
        self._held[taken.job.id] = taken
        owed = work.iterate(self.keys, taken.job, taken.token)
        if owed is not None:
            self.run(owed)
        return taken.job.id

    def _next(self) -> work.NextClaim:
        self._tokens += 1
        return work.NextClaim(tokens=[f"t:{self._tokens}"], lease=Lease(LOCK_S), worker_name=WORKER)


def _stack(message: str) -> str:
    return f"Error: {message}\n    at work"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _translated(options: Mapping[str, Any]) -> dict[str, Any]:
    """BullMQ's options as sandq's producers take them."""
    asked = {_OPTIONS.get(name, name): value for name, value in options.items()}
    asked |= {name: asked[name] / 1000 for name in _MILLISECONDS if name in asked}
    if "deduplication" in asked:
        asked["deduplication"] = _translated(asked["deduplication"])
    if "parent" in asked:
        asked["parent"] = Parent(**asked["parent"])
    return asked
