"""All systems that can be compared."""

from __future__ import annotations

from benchmarks.speed.peers import (
    arq,
    bullmq_node,
    bullmq_python,
    celery,
    dramatiq,
    huey,
    rq,
    sandq,
    saq,
    streaq,
    taskiq,
)
from benchmarks.speed.system import System

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        sandq.SYSTEM,
        bullmq_node.IN_PROCESS,
        bullmq_node.SANDBOXED,
        bullmq_python.SYSTEM,
        huey.SYSTEM,
        taskiq.SYSTEM,
        dramatiq.SYSTEM,
        saq.SYSTEM,
        streaq.SYSTEM,
        celery.SYSTEM,
        arq.SYSTEM,
        rq.SYSTEM,
    )
}
