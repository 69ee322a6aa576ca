"""The worker processes of one cell: started together, awaited until ready, and gone with everything they started."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil

from benchmarks.cpu_bound.cell import Cell
from sandq.supervisor.kernel import die_with_parent

ROOT = Path(__file__).parents[2]
READY = b"."
START_LIMIT_S = 60.0  # dozens of interpreters share a few cores
STOP_LIMIT_S = 5.0


def ready() -> None:
    """Tell the benchmark, from a worker, that it could take a job now."""
    os.write(int(sys.argv[2]), READY)


def told_cell() -> Cell:
    """The cell on this worker's command line."""
    return Cell.from_json(sys.argv[1])


class Workers:
    """Processes of one module, each with the cell on its command line."""

    def __init__(self, cell: Cell, module: str, count: int) -> None:
        told, tell = os.pipe()
        command = [sys.executable, "-m", module, cell.to_json(), str(tell)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with cell.log.open("ab") as log:
            self._processes = [
                subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    pass_fds=(tell,),
                    env={**os.environ, "PYTHONPATH": path},
                    preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  # one thread only
                )
                for _ in range(count)
            ]
        os.close(tell)
        self._told = told

    def await_ready(self) -> None:
        """Until all are ready; RuntimeError when one ended or the limit passed."""
        deadline, missing = time.monotonic() + START_LIMIT_S, len(self._processes)
        while missing:
            readable, _, _ = select.select([self._told], [], [], max(0.0, deadline - time.monotonic()))
            said = os.read(self._told, missing) if readable else b""
            missing -= len(said)
            if not said or self.dead:
                raise RuntimeError(f"{missing} of {len(self._processes)} workers did not get ready")

    @property
    def dead(self) -> int:
        """How many ended on their own."""
        return sum(process.poll() is not None for process in self._processes)

    def stop(self) -> int:
        """Ask all to end, end those that do not, and what they started; how many had to be killed."""
        tree = self._tree()
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + STOP_LIMIT_S
        killed = 0
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_LIMIT_S)
                killed += 1
        for left in tree:  # psutil compares start times: a pid that was given to somebody else is left alone
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        os.close(self._told)
        return killed

    def _tree(self) -> list[psutil.Process]:
        found = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += psutil.Process(process.pid).children(recursive=True)
        return found


@contextlib.contextmanager
def working(cell: Cell, module: str, count: int) -> Iterator[Workers]:
    """Ready workers, all gone at the end of the block."""
    workers = Workers(cell, module, count)
    try:
        workers.await_ready()
        yield workers
    finally:
        workers.stop()
