"""CPU-heavy Python jobs on Redis: no job can cost its lock, take the runtime down, or be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sandq.errands.family import Children
    from sandq.errors import (
        ConfigError,
        JobFailed,
        JobNotFound,
        QueueError,
        ResultTimeout,
        SandqError,
        SchedulerNotFound,
        SoftTimeout,
        StoreRefused,
        StoreUnavailable,
        UnrecoverableError,
        WrongState,
    )
    from sandq.event import Event, NotJson
    from sandq.events import AsyncQueueEvents, QueueEvents
    from sandq.flow import AsyncFlow, Flow, FlowJob, FlowTree
    from sandq.handlers import handler
    from sandq.job import Job, JobState
    from sandq.queue import AsyncQueue, Queue
    from sandq.store.gauges import Metrics, Worker
    from sandq.store.newjob import Parent
    from sandq.store.reads import Meta
    from sandq.store.schedule import Scheduler
    from sandq.supervisor.loop import Supervisor

# Names are loaded on first use: `import sandq` runs in every child, and redis alone would cost it 200 ms.
_HOMES = {
    "AsyncFlow": "sandq.flow",
    "AsyncQueue": "sandq.queue",
    "AsyncQueueEvents": "sandq.events",
    "Children": "sandq.errands.family",
    "ConfigError": "sandq.errors",
    "Event": "sandq.event",
    "Flow": "sandq.flow",
    "FlowJob": "sandq.flow",
    "FlowTree": "sandq.flow",
    "Job": "sandq.job",
    "JobFailed": "sandq.errors",
    "JobNotFound": "sandq.errors",
    "JobState": "sandq.job",
    "Meta": "sandq.store.reads",
    "Metrics": "sandq.store.gauges",
    "NotJson": "sandq.event",
    "Parent": "sandq.store.newjob",
    "Queue": "sandq.queue",
    "QueueError": "sandq.errors",
    "QueueEvents": "sandq.events",
    "ResultTimeout": "sandq.errors",
    "SandqError": "sandq.errors",
    "Scheduler": "sandq.store.schedule",
    "SchedulerNotFound": "sandq.errors",
    "SoftTimeout": "sandq.errors",
    "StoreRefused": "sandq.errors",
    "StoreUnavailable": "sandq.errors",
    "Supervisor": "sandq.supervisor.loop",
    "UnrecoverableError": "sandq.errors",
    "Worker": "sandq.store.gauges",
    "WrongState": "sandq.errors",
    "handler": "sandq.handlers",
}

__all__ = [
    "AsyncFlow",
    "AsyncQueue",
    "AsyncQueueEvents",
    "Children",
    "ConfigError",
    "Event",
    "Flow",
    "FlowJob",
    "FlowTree",
    "Job",
    "JobFailed",
    "JobNotFound",
    "JobState",
    "Meta",
    "Metrics",
    "NotJson",
    "Parent",
    "Queue",
    "QueueError",
    "QueueEvents",
    "ResultTimeout",
    "SandqError",
    "Scheduler",
    "SchedulerNotFound",
    "SoftTimeout",
    "StoreRefused",
    "StoreUnavailable",
    "Supervisor",
    "UnrecoverableError",
    "Worker",
    "WrongState",
    "handler",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sandq' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
