"""The jobs, the same for every system: one pure-Python loop, one C call that never lets go of the GIL.

Standard library only: sandq's children import this file, and so does every other worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cpu_bound.journal import Journal

KINDS = {"loop": "pure-Python loop", "call": "one C call holding the GIL"}
FIRST_TRY = 1 << 20
LONG_ENOUGH_S = 0.5


def run(job_id: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Do the work that `data` describes and note both ends of it."""
    journal = Journal(Path(data["journal"]))
    journal.write("start", job=job_id, pid=os.getpid())
    result = spin(data["amount"]) if data["kind"] == "loop" else add_up(int(data["amount"]))
    journal.write("end", job=job_id, pid=os.getpid())
    return {"result": result}


def process(job: Any) -> dict[str, Any]:
    """Run as a sandq processor."""
    return run(job.id, job.data)


def spin(seconds: float) -> int:
    """Turn in pure Python until so many seconds of wall time have passed; how many turns that took."""
    until, turns = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for _ in range(1000):
            turns += 1
    return turns


def add_up(numbers: int) -> int:
    """Add up so many numbers in one C call: no bytecode runs meanwhile, so no other thread of the process does."""
    return sum(range(numbers))


def numbers_per_second() -> float:
    """How many numbers one C call adds up in a second of an idle core: the best of three calls."""
    numbers = FIRST_TRY
    while (took := _timed(numbers)) < LONG_ENOUGH_S:
        numbers *= 2
    return numbers / min(took, _timed(numbers), _timed(numbers))


def _timed(numbers: int) -> float:
    started = time.perf_counter()
    add_up(numbers)
    return time.perf_counter() - started
