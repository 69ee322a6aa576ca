"""sandq: one supervisor, one child per handler. Run as a module it is the supervisor's process."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from benchmarks.cpu_bound import jobs
from benchmarks.cpu_bound.bull_queue import BullQueue
from benchmarks.cpu_bound.cell import Cell
from benchmarks.cpu_bound.workers import ready, told_cell
from sandq.config import Lease, QueueSettings, SupervisorSettings
from sandq.supervisor.facts import ChildReady, Fact, Settled
from sandq.supervisor.loop import Supervisor

PROCESSOR = str(Path(jobs.__file__).resolve())


class Sandq(BullQueue):
    """The real Supervisor."""

    name, package, module, has_locks = "sandq", "", __name__, True

    def workers(self, cell: Cell) -> int:  # noqa: ARG002  # the protocol's signature
        """One supervisor, whatever the number of children."""
        return 1


async def _supervise(cell: Cell) -> None:
    loaded: set[int] = set()
    all_loaded, stopped = asyncio.Event(), asyncio.Event()

    def listen(fact: Fact) -> None:
        if isinstance(fact, ChildReady):
            loaded.add(fact.pid)
            if len(loaded) >= cell.children:
                all_loaded.set()
        elif isinstance(fact, Settled) and fact.word != "ok":
            cell.journal.write("unsettled", job=fact.job_id, outcome=fact.outcome, word=fact.word)

    supervisor = Supervisor(
        {cell.queue: QueueSettings(processor=PROCESSOR, concurrency=cell.children)},
        cell.url,
        settings=SupervisorSettings(lease=Lease(cell.lock_s)),
        listeners=[listen],
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with supervisor:
        await all_loaded.wait()  # the benchmark waits for `ready` with a limit, and ends this process past it
        ready()
        await stopped.wait()
        stats = supervisor.stats()
        cell.journal.write("heartbeat", heartbeat=stats["heartbeat"], locks_lost=stats["locks_lost"])


if __name__ == "__main__":
    asyncio.run(_supervise(told_cell()))
