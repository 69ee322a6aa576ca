"""BullMQ for Node: handlers in its own process, or in processes of their own ("sandboxed"). See node/main.mjs."""

from __future__ import annotations

from benchmarks.speed.peers.bull_keys import ended
from benchmarks.speed.system import System

IN_PROCESS = System(
    name="bullmq-node",
    program="main.mjs",
    package="bullmq",
    settings="one Worker, concurrency 50, handlers on its event loop",
    isolated="no",
    ended=ended,
    flavour="in-process",
    takes_lock=True,
)
SANDBOXED = System(
    name="bullmq-node-sandboxed",
    program="main.mjs",
    package="bullmq",
    settings="one Worker, concurrency 2, a processor file run in child processes",
    isolated="yes",
    ended=ended,
    flavour="sandboxed",
    takes_lock=True,
)
