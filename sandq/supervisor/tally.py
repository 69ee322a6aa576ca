"""How the queues of a supervisor fare, as plain values for people: `sandq status`, the live view, tests."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sandq.clock import boottime
from sandq.config import QueueSettings
from sandq.supervisor.assignment import Assignment
from sandq.supervisor.facts import Fact, Settled
from sandq.supervisor.lane import Lane

SHOWN_PROGRESS = 200  # bytes of its JSON text: what a child sent is shown, never parsed here


class Tally:
    """Counts settlements as they are told, and shows them beside what a lane does now."""

    def __init__(self) -> None:
        self._ended: Counter[tuple[str, str]] = Counter()

    def hear(self, fact: Fact) -> None:
        """Take note of a settlement: of where the job went, and of a crash beside that."""
        if isinstance(fact, Settled):
            self._ended[fact.queue, fact.to] += 1
            if fact.outcome == "Crashed":
                self._ended[fact.queue, "crashed"] += 1

    def show(self, queue: str, lane: Lane, settings: QueueSettings) -> dict[str, Any]:
        """One queue, at this moment; may be asked from any thread."""
        return {
            "concurrency": settings.concurrency,
            "active": len(lane.running),
            "ready": lane.pool.ready,
            "starting": lane.pool.starting,
            "completed": self._ended[queue, "completed"],
            "failed": self._ended[queue, "failed"],
            "retried": self._ended[queue, "wait"] + self._ended[queue, "delayed"],
            "crashed": self._ended[queue, "crashed"],
            "broken": lane.pool.breaker.why,
            "broken_retry_s": lane.pool.breaker.retry_in_s,
            "running": [_show_run(run) for run in list(lane.running.values())],
        }


def _show_run(run: Assignment) -> dict[str, Any]:
    progress = run.progress
    return {
        "id": run.claim.job.id,
        "name": run.claim.job.name,
        "pid": None if run.child is None else run.child.pid,
        "since_s": round(boottime() - run.started_at, 1),
        "progress": None if progress is None else progress[:SHOWN_PROGRESS].decode("utf-8", "ignore"),
    }
