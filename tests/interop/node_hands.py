"""BullMQ's side of the steps in hands.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hands import WORKER, LostError, Shared, stack_of
from peer import PeerError

_STATES = {"waiting": "wait"}
# sandq's name for an operation -> BullMQ's, and its arguments from ours.
_OF_QUEUE: dict[str, Any] = {
    "pause": ("pause", lambda: ()),
    "resume": ("resume", lambda: ()),
    "drain": ("drain", lambda delayed=False: (delayed,)),
    "clean": ("clean", lambda state, grace_ms, limit=0: (grace_ms, limit, _STATES.get(state, state))),
    "obliterate": ("obliterate", lambda force=False: ({"force": force},)),
    "retry_all": ("retryJobs", lambda state: ({"state": state},)),
    "set_global_concurrency": ("setGlobalConcurrency", lambda most: (most,)),
    "unset_global_concurrency": ("removeGlobalConcurrency", lambda: ()),
    "set_global_rate_limit": ("setGlobalRateLimit", lambda most, ms: (most, ms)),
    "unset_global_rate_limit": ("removeGlobalRateLimit", lambda: ()),
    "rate_limit": ("rateLimit", lambda ms: (ms,)),
    "remove_rate_limit": ("removeRateLimitKey", lambda: ()),
    "remove_deduplication_key": ("removeDeduplicationKey", lambda window: (window,)),
    "remove_scheduler": ("removeJobScheduler", lambda scheduler: (scheduler,)),
    "trim_events": ("trimEvents", lambda most: (most,)),
}
_OF_JOB: dict[str, Any] = {
    "promote": ("promote", lambda: ()),
    "retry": ("retry", lambda state="failed": (state,)),
    "remove": ("remove", lambda: ()),
    "change_priority": ("changePriority", lambda priority, lifo=False: ({"priority": priority, "lifo": lifo},)),
    "change_delay": ("changeDelay", lambda ms: (ms,)),
    "update_data": ("updateData", lambda data: (data,)),
    "update_progress": ("updateProgress", lambda progress: (progress,)),
    "log": ("log", lambda line: (line,)),
    "clear_logs": ("clearLogs", lambda keep: (keep,)),
    "remove_child_dependency": ("removeChildDependency", lambda: ()),
    "remove_unprocessed_children": ("removeUnprocessedChildren", lambda: ()),
}


class NodeHands(Shared):
    """BullMQ's Queue and FlowProducer, and a Worker that claims on request."""

    def on(self, queue: str) -> NodeHands:
        return NodeHands(self.node.peer, self.client, self.prefix, queue)

    def flow(self, tree: Mapping[str, Any]) -> None:
        self.node.ask("flow", flow=tree)

    def schedule(self, scheduler: str, repeat: Mapping[str, Any], template: Mapping[str, Any]) -> None:
        self.node.ask("schedule", scheduler=scheduler, repeat=repeat, template=template)

    def add(self, name: str, data: Any = None, **options: Any) -> str:
        return self.node.add(name, data, **options)

    def add_many(self, *jobs: Mapping[str, Any]) -> None:
        self.node.call("addBulk", jobs)

    def operate(self, what: str, *args: Any) -> None:
        if what in _OF_JOB:
            name, arguments = _OF_JOB[what]
            self.node.job(args[0], name, *arguments(*args[1:]))
        else:
            name, arguments = _OF_QUEUE[what]
            self.node.call(name, *arguments(*args))

    def claim(self) -> str | None:
        options: dict[str, Any] = {"name": WORKER}
        if self.metrics_points:
            options["metrics"] = {"maxDataPoints": self.metrics_points}
        if self.limiter:
            options["limiter"] = dict(zip(("max", "duration"), self.limiter, strict=True))
        found: str | None = self.node.ask("claim", token="t", options=options)
        return found

    def complete(self, job_id: str, value: Any = None, *, claims: bool = False) -> str | None:
        try:
            found: str | None = self.node.ask("complete", job=job_id, value=value, next=claims)
        except PeerError as error:
            if "lock" not in str(error).lower():
                raise
            raise LostError(job_id) from error
        return found

    def fail(self, job_id: str, message: str = "boom", *, permanent: bool = False) -> None:
        self.node.ask("fail", job=job_id, message=message, stack=stack_of(message), permanent=permanent)

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
