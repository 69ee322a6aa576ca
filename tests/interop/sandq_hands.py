"""sandq's side of the steps in hands.py: its Queue and Flow, and the operations of its supervisor."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from hands import WORKER, LostError, Shared, stack_of
from peer import Peer
from redis import Redis

from sandq import Flow, JobState, Queue
from sandq.config import Lease, QueueSettings
from sandq.decide import decide
from sandq.outcome import Completed, Deferred, Outcome, Place, Postponed, Raised
from sandq.store import work
from sandq.store.executors import SyncExecutor
from sandq.store.newjob import Parent

LOCK_S = 30.0
STALLED_MS = 30000

_OPTIONS = {
    "jobId": "job_id",
    "removeOnComplete": "remove_on_complete",
    "removeOnFail": "remove_on_fail",
    "stackTraceLimit": "stacktrace_limit",
    "keepLogs": "keep_logs",
    "keepLastIfActive": "keep_last_if_active",
    "pattern": "cron",
    "startDate": "start",
    "endDate": "end",
}
_MILLISECONDS = ("delay", "ttl", "every", "offset")
_POLICIES = {
    "failParentOnFailure": "fail",
    "continueParentOnFailure": "continue",
    "ignoreDependencyOnFailure": "ignore",
    "removeDependencyOnFailure": "remove",
}


class SandqHands(Shared):
    """sandq's operations, with what `decide` makes of an outcome in between."""

    def __init__(self, node: Peer, client: Redis, prefix: str, queue: str, url: str, opened: ExitStack) -> None:
        """What is opened here is closed with `opened`."""
        super().__init__(node, client, prefix, queue)
        self._url, self._opened = url, opened
        self._queue = opened.enter_context(Queue(queue, redis=url, prefix=prefix))
        self._executor = SyncExecutor(url)
        opened.callback(self._executor.close)
        self._run = self._executor.run
        self._held: dict[str, work.Taken] = {}
        self._tokens = 0

    def on(self, queue: str) -> SandqHands:
        return SandqHands(self.node.peer, self.client, self.prefix, queue, self._url, self._opened)

    def flow(self, tree: Mapping[str, Any]) -> None:
        with Flow(redis=self._url, prefix=self.prefix) as flow:
            flow.add(_node(tree))

    def schedule(self, scheduler: str, repeat: Mapping[str, Any], template: Mapping[str, Any]) -> None:
        job = {name: value for name, value in template.items() if name != "opts"}
        self._queue.upsert_scheduler(scheduler, **_translated(repeat), **job, **_translated(template.get("opts", {})))

    def add(self, name: str, data: Any = None, **options: Any) -> str:
        return self._queue.add(name, data, **_translated(options)).id

    def add_many(self, *jobs: Mapping[str, Any]) -> None:
        self._queue.add_many({"name": job["name"], "data": job["data"], **_translated(job["opts"])} for job in jobs)

    def operate(self, what: str, *args: Any) -> None:
        match what, *args:
            case "drain", delayed:
                self._queue.drain(delayed=delayed)
            case "clean", state, grace_ms, *limit:
                self._queue.clean(state, grace_ms / 1000, *limit)
            case "obliterate", force:
                self._queue.obliterate(force=force)
            case "change_priority", job_id, priority, *lifo:
                self._queue.change_priority(job_id, priority, lifo=bool(lifo))
            case "change_delay", job_id, ms:
                self._queue.change_delay(job_id, ms / 1000)
            case "set_global_rate_limit", most, ms:
                self._queue.set_global_rate_limit(most, ms / 1000)
            case "rate_limit", ms:
                self._queue.rate_limit(ms / 1000)
            case "unset_global_concurrency" | "unset_global_rate_limit", *_:
                unset = {"unset_global_concurrency": self._queue.set_global_concurrency}
                unset.get(what, self._queue.set_global_rate_limit)(None)
            case "retry_all", state:
                self._queue.retry_all(JobState(state))
            case "retry", job_id, *_:
                self._queue.retry(job_id)  # from whichever state it ended in
            case _:
                getattr(self._queue, what)(*args)

    def claim(self) -> str | None:
        return self._hold(self._run(work.claim(self.keys, self._next())))

    def complete(self, job_id: str, value: Any = None, *, claims: bool = False) -> str | None:
        return self._settle(job_id, Completed(_json(value)), claims=claims)

    def fail(self, job_id: str, message: str = "boom", *, permanent: bool = False) -> None:
        self._settle(job_id, Raised(message, stack_of(message), permanent))

    def end_deferred(self, job_id: str) -> None:
        reason = self._held[job_id].job.deferred_failure
        assert reason is not None
        self._settle(job_id, Deferred(reason))

    def postpone(self, job_id: str, until: Any, delay_ms: int = 0) -> None:
        self._settle(job_id, Postponed(until, delay_ms / 1000))

    def note(self, job_id: str, *, progress: Any = None, line: str = "", data: Any = None) -> None:
        token = self._held[job_id].token
        if progress is not None:
            self._run(work.progress(self.keys, job_id, _json(progress), token))
        if line:
            self._run(work.log(self.keys, job_id, line, token))
        if data is not None:
            self._run(work.update_data(self.keys, job_id, _json(data), token))

    def renew(self, job_id: str) -> None:
        token = self._held[job_id].token
        assert not self._run(work.renew(self.keys, [(job_id, token)], Lease(LOCK_S).lock_ms))

    def check_stalled(self) -> None:
        self.unthrottle()
        self._run(work.check_stalled(self.keys, STALLED_MS, 1))

    def _settle(self, job_id: str, outcome: Outcome, *, claims: bool = False) -> str | None:
        taken, settings = self._held[job_id], QueueSettings(metrics_points=self.metrics_points)
        settlement = decide(taken.job, outcome, settings, random.Random(0))
        assert settlement is not None
        wanted = self._next() if claims else None
        settled = self._run(work.settle(self.keys, job_id, taken.token, settlement, settings, next_claim=wanted))
        if settled.word == "ok":
            return self._hold(settled.claimed)
        if settled.word == "lost":
            raise LostError(job_id)
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
            self._run(owed)
        return taken.job.id

    def _next(self) -> work.NextClaim:
        self._tokens += 1
        most, ms = self.limiter or (None, None)
        token = f"t:{self._tokens}"
        return work.NextClaim(tokens=[token], lease=Lease(LOCK_S), worker_name=WORKER, limiter_max=most, limiter_ms=ms)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _node(tree: Mapping[str, Any]) -> dict[str, Any]:
    """One node of BullMQ's flow and all below it, as sandq's Flow takes them."""
    options = dict(tree.get("opts", {}))
    policies = [sandqs for name, sandqs in _POLICIES.items() if options.pop(name, False)]
    return {
        "name": tree["name"],
        "data": tree.get("data"),
        "queue": tree["queueName"],
        "children": [_node(child) for child in tree.get("children", ())],
        "on_failure": policies[0] if policies else "wait",
        **_translated(options),
    }


def _translated(options: Mapping[str, Any]) -> dict[str, Any]:
    """BullMQ's options as sandq's producers take them."""
    asked = {_OPTIONS.get(name, name): value for name, value in options.items()}
    asked |= {name: asked[name] / 1000 for name in _MILLISECONDS if name in asked}
    if "deduplication" in asked:
        asked["deduplication"] = _translated(asked["deduplication"])
    if "parent" in asked:
        asked["parent"] = Parent(**asked["parent"])
    return asked
