"""rq: one Worker per process, which forks a process for every job. It has no lock, so none can be lost."""

from __future__ import annotations

from redis import Redis

from benchmarks.cpu_bound.cell import Cell
from benchmarks.cpu_bound.system import Progress
from benchmarks.cpu_bound.workers import ready, told_cell

JOB_TIMEOUT_S = 3600


class Rq:
    """One worker process per handler."""

    name, package, module, has_locks = "rq", "rq", __name__, False

    def workers(self, cell: Cell) -> int:
        """As many as sandq has children."""
        return cell.children

    def add(self, cell: Cell) -> None:
        """Add the jobs one by one, as rq does."""
        from rq import Queue

        with Redis.from_url(cell.url) as connection:
            queue = Queue(cell.queue, connection=connection)
            for n in range(cell.jobs):
                queue.enqueue_call("benchmarks.cpu_bound.jobs.run", args=(str(n), cell.job_data), timeout=JOB_TIMEOUT_S)

    def progress(self, cell: Cell) -> Progress:
        """Ended jobs by rq's registries."""
        from rq.registry import FailedJobRegistry, FinishedJobRegistry

        with Redis.from_url(cell.url) as connection:
            completed, failed = (
                len(registry(cell.queue, connection=connection))
                for registry in (FinishedJobRegistry, FailedJobRegistry)
            )
        return Progress(completed, failed)


def _work(cell: Cell) -> None:
    from rq import Worker

    with Redis.from_url(cell.url) as connection:
        worker = Worker([cell.queue], connection=connection)
        ready()
        worker.work(logging_level="WARNING")


if __name__ == "__main__":
    _work(told_cell())
