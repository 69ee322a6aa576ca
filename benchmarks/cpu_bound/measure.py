"""Run one cell: workers up, jobs in, wait until they ended, workers down, count."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from benchmarks.cpu_bound.cell import Cell, Result
from benchmarks.cpu_bound.journal import count_overlaps, count_starts
from benchmarks.cpu_bound.lag import lag_of
from benchmarks.cpu_bound.system import Progress, System
from benchmarks.cpu_bound.watch import LockWatch
from benchmarks.cpu_bound.workers import Workers, working

LOOK_EVERY_S = 0.1


def measure(system: System, cell: Cell) -> Result:
    """What came of the cell; one whose workers did not start says so in its note."""
    try:
        with _watching(cell) as watch, working(cell, system.module, system.workers(cell)) as workers:
            started = time.monotonic()
            system.add(cell)
            progress = _await_end(system, cell, watch, workers)
            wall_s = time.monotonic() - started
            note = _note(cell, progress, workers)
    except RuntimeError as error:
        return _result(cell, note=f"{error}: {_last_line(cell)}")
    events = cell.journal.read()
    return _result(
        cell,
        starts=count_starts(events),
        overlaps=count_overlaps(events),
        locks_lost=watch.lost if system.has_locks else None,
        stalls=progress.stalls,
        completed=progress.completed,
        failed=progress.failed,
        lag=lag_of(events),
        wall_s=round(wall_s, 1),
        note=note,
    )


def not_installed(cell: Cell, package: str) -> Result:
    """A cell that could not be measured here."""
    return _result(cell, note=f"not installed: pip install {package}")


def _await_end(system: System, cell: Cell, watch: LockWatch, workers: Workers) -> Progress:
    deadline = time.monotonic() + cell.limit_s
    while True:
        watch.look(LOOK_EVERY_S)
        progress = system.progress(cell)
        if progress.ended >= cell.jobs or time.monotonic() > deadline or workers.dead:
            return progress


def _note(cell: Cell, progress: Progress, workers: Workers) -> str:
    if workers.dead:
        return f"{workers.dead} workers ended on their own: {_last_line(cell)}"
    if progress.ended < cell.jobs:
        return f"given up after {cell.limit_s:.0f} s"
    return ""


def _last_line(cell: Cell) -> str:
    lines = cell.log.read_text(encoding="utf-8", errors="replace").split("\n") if cell.log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")


@contextlib.contextmanager
def _watching(cell: Cell) -> Iterator[LockWatch]:
    watch = LockWatch(cell.url, cell.queue)
    try:
        yield watch
    finally:
        watch.close()


def _result(cell: Cell, **measured: object) -> Result:
    return Result(
        system=cell.system,
        kind=cell.kind,
        scale=cell.scale,
        children=cell.children,
        jobs=cell.jobs,
        core_s=round(cell.core_s, 2),
        **measured,  # type: ignore[arg-type]  # Result's own fields, named above
    )
