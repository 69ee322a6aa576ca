"""The in-process worker: what an asyncio worker does, over the very same store operations that sandq uses.

It claims, renews, settles and checks for stalled jobs with sandq's own scripts at sandq's own intervals. One thing is
different, and it is the one that is measured: the handler runs in the worker's process, on its event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import secrets
import signal
from typing import TypeVar

from benchmarks.cpu_bound import jobs
from benchmarks.cpu_bound.bull_queue import BullQueue
from benchmarks.cpu_bound.cell import Cell
from benchmarks.cpu_bound.lag import beat
from benchmarks.cpu_bound.workers import ready, told_cell
from sandq.config import Lease, QueueSettings
from sandq.decide import decide
from sandq.errors import StoreUnavailable
from sandq.job import Job
from sandq.outcome import Completed, Deferred
from sandq.store import work
from sandq.store.call import Call
from sandq.store.executors import AsyncExecutor
from sandq.store.keys import QueueKeys

R = TypeVar("R")

IDLE_S = 0.2  # an empty queue is looked at this often


class Inprocess(BullQueue):
    """One process per handler, each with one job at a time."""

    name, package, module, has_locks = "inprocess", "", __name__, True

    def workers(self, cell: Cell) -> int:
        """As many as sandq has children."""
        return cell.children


class Worker:
    """Runs one job at a time on its event loop and renews its lock from a task beside it."""

    def __init__(self, cell: Cell) -> None:
        self._cell, self._keys, self._lease = cell, QueueKeys(cell.queue), Lease(cell.lock_s)
        self._settings = QueueSettings(concurrency=1)
        self._store = AsyncExecutor(cell.url, slots=3)
        self._tokens = (f"{secrets.token_hex(8)}:{n}" for n in itertools.count())
        self._rng = random.Random()
        self._held: dict[str, str] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(beat(self._cell.journal))
                tasks.create_task(self._renew())
                tasks.create_task(self._check_stalled())
                tasks.create_task(self._work())
                ready()
        finally:
            await self._store.close()

    async def _work(self) -> None:
        while True:
            wanted = work.NextClaim(tokens=(next(self._tokens),), lease=self._lease)
            claimed = await self._store.run(work.claim(self._keys, wanted))
            for taken in claimed.jobs:
                await self._attempt(taken.job, taken.token)
            if not claimed.jobs:
                await asyncio.sleep(IDLE_S)

    async def _attempt(self, job: Job, token: str) -> None:
        self._held[job.id] = token
        outcome = await _outcome(job)
        del self._held[job.id]
        settlement = decide(job, outcome, self._settings, self._rng)
        assert settlement is not None  # only a lost lock has none, and nothing here notices one before it settles
        settled = await self._store.run(work.settle(self._keys, job.id, token, settlement, self._settings))
        if settled.word != "ok":
            self._cell.journal.write("unsettled", job=job.id, outcome=type(outcome).__name__, word=settled.word)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease.renew_every_s)
            if self._held:
                await self._try(work.renew(self._keys, list(self._held.items()), self._lease.lock_ms))

    async def _check_stalled(self) -> None:
        every_ms = int(self._lease.stalled_every_s * 1000)
        while True:
            check = await self._try(work.check_stalled(self._keys, every_ms, self._settings.max_stalled_count))
            await asyncio.sleep(max(1, check.again_in_ms if check else every_ms) / 1000)

    async def _try(self, call: Call[R]) -> R | None:
        """Run what comes again anyway: a call in flight while the handler holds the loop misses its time limit."""
        try:
            return await self._store.run(call)
        except StoreUnavailable as error:
            self._cell.journal.write("error", text=str(error))
            return None


async def _outcome(job: Job) -> Completed | Deferred:
    """A job that was found stalled too often is condemned already: it fails without another run."""
    if job.deferred_failure is not None:
        return Deferred(job.deferred_failure)
    return Completed(json.dumps(await _handle(job)).encode())


async def _handle(job: Job) -> dict[str, object]:
    """An `async def` handler that computes: it never awaits, so nothing else runs on this loop meanwhile."""
    return jobs.run(job.id, job.data)


async def _main() -> None:
    worker = asyncio.create_task(Worker(told_cell()).run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await worker


if __name__ == "__main__":
    asyncio.run(_main())
