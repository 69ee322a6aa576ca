"""Jobs in BullMQ's data model: added, and counted, in the same way for every system that reads it."""

from __future__ import annotations

from benchmarks.cpu_bound.cell import Cell
from benchmarks.cpu_bound.system import Progress
from sandq.queue import Queue
from sandq.store import reads
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys

MOST_EVENTS = 5000


class BullQueue:
    """The producer's side of sandq, in-process and bullmq cells."""

    def add(self, cell: Cell) -> None:
        """Add the cell's jobs in one call."""
        with Queue(cell.queue, redis=cell.url) as queue:
            queue.add_many([(cell.kind, cell.job_data)] * cell.jobs)

    def progress(self, cell: Cell) -> Progress:
        """Ended jobs by their sets, stalls by the queue's own event stream."""
        store = SyncExecutor(cell.url)
        try:
            counts = store.run(reads.counts(QueueKeys(cell.queue)))
            events = store.run(reads.events(QueueKeys(cell.queue), "0", MOST_EVENTS))
        finally:
            store.close()
        stalls = sum(fields.get("event") == "stalled" for _, fields in events)
        return Progress(counts["completed"], counts["failed"], stalls)
