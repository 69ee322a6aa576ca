"""bullmq for Python: one Worker per process, its handler on the event loop, as its documentation shows it."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from benchmarks.cpu_bound import jobs
from benchmarks.cpu_bound.bull_queue import BullQueue
from benchmarks.cpu_bound.cell import Cell
from benchmarks.cpu_bound.lag import beat
from benchmarks.cpu_bound.workers import ready, told_cell


class Bullmq(BullQueue):
    """One process per handler, each with one job at a time."""

    name, package, module, has_locks = "bullmq", "bullmq", __name__, True

    def workers(self, cell: Cell) -> int:
        """As many as sandq has children."""
        return cell.children


async def _work(cell: Cell) -> None:
    from bullmq import Worker  # not needed to name the system, and missing on most machines

    async def handle(job: Any, token: str) -> dict[str, Any]:  # noqa: ARG001  # bullmq passes both
        return jobs.run(job.id, job.data)

    lock_ms = int(cell.lock_s * 1000)
    # The stalled interval equals the lock, as in its defaults; it renews at half the lock by itself.
    options = {"connection": cell.url, "lockDuration": lock_ms, "stalledInterval": lock_ms, "concurrency": 1}
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    worker = Worker(cell.queue, handle, options)
    worker.on("error", lambda error, *_: cell.journal.write("error", text=str(error)))
    beats = asyncio.create_task(beat(cell.journal))
    ready()
    await stopped.wait()
    beats.cancel()
    await asyncio.wait([beats])
    await worker.close(force=True)


if __name__ == "__main__":
    asyncio.run(_work(told_cell()))
