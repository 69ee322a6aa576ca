"""The two programs of a Python peer: `work SPEC` serves a queue until SIGTERM, `add SPEC JOBS` adds and times jobs.

Standard library only: this file is run by every peer's own Python.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.speed.spec import Jobs, Spec

Data = dict[str, Any]


def main(work: Callable[[Spec], None], add: Callable[[Spec, Jobs], float]) -> None:
    """Be the program that the command line asks for."""
    spec = Spec(**json.loads(sys.argv[2]))
    if sys.argv[1] == "work":
        work(spec)
    else:
        print(json.dumps({"seconds": add(spec, Jobs(**json.loads(sys.argv[3])))}), flush=True)


def add_all(jobs: Jobs, one: Callable[[Data], object], many: Callable[[list[Data]], object] | None = None) -> float:
    """Add the jobs with a blocking client; the seconds from the first call to the answer of the last."""

    async def one_later(data: Data) -> None:
        one(data)

    async def many_later(chunk: list[Data]) -> None:
        assert many is not None
        many(chunk)

    coroutine = add_all_async(jobs, one_later, many_later if many else None)
    return asyncio.run(coroutine) if jobs.mode == "paced" else _drive(coroutine)


def _drive(coroutine: Any) -> float:
    """Run a coroutine that never really awaits, without paying for an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return float(done.value)
    raise RuntimeError("a blocking client awaited something")


async def add_all_async(
    jobs: Jobs,
    one: Callable[[Data], Awaitable[object]],
    many: Callable[[list[Data]], Awaitable[object]] | None = None,
) -> float:
    """Add the jobs with an asyncio client, one call after the other; the seconds that took."""
    started = time.perf_counter()
    if jobs.mode == "paced":
        await _paced(jobs, one)
    elif jobs.mode == "bulk" and many is not None:
        for chunk in jobs.chunks():
            await many(chunk)
    else:
        for _ in range(jobs.count):
            await one(jobs.data)
    return time.perf_counter() - started


async def _paced(jobs: Jobs, one: Callable[[Data], Awaitable[object]]) -> None:
    first = time.monotonic()
    for number in range(jobs.count):
        await asyncio.sleep(max(0.0, first + number * jobs.every_s - time.monotonic()))
        await one({**jobs.data, "n": number, "sent": time.monotonic()})
