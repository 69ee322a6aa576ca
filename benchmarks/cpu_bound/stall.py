"""The stall benchmark: the same CPU-bound jobs, three lock times long, on every system at every scale."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cpu_bound.bullmq_system import Bullmq
from benchmarks.cpu_bound.cell import JOB_LOCKS, Cell, Result
from benchmarks.cpu_bound.inprocess import Inprocess
from benchmarks.cpu_bound.jobs import KINDS, numbers_per_second
from benchmarks.cpu_bound.measure import measure, not_installed
from benchmarks.cpu_bound.rq_system import Rq
from benchmarks.cpu_bound.sandq_system import Sandq
from benchmarks.cpu_bound.system import System, version
from benchmarks.machine import describe
from benchmarks.server import private_server
from sandq.config import usable_cores

SYSTEMS: dict[str, System] = {system.name: system for system in (Sandq(), Inprocess(), Bullmq(), Rq())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to run."""

    lock_s: float = 2.0
    kinds: Sequence[str] = tuple(KINDS)
    scales: Sequence[int] = (1, 2, 16)
    systems: Sequence[str] = tuple(SYSTEMS)
    jobs: int | None = None  # None: as many as children
    longest_locks: float = 4.0  # a C call lasts at most so many lock times of wall time
    cores: int = field(default_factory=usable_cores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything one run found."""

    settings: Settings
    machine: dict[str, Any]
    results: tuple[Result, ...]

    @property
    def is_good(self) -> bool:
        """Every sandq cell ran each job once and lost no lock."""
        return all(result.is_clean for result in self.results if result.system == "sandq")

    def to_dict(self) -> dict[str, Any]:
        """For the JSON."""
        cells = [result.to_dict() for result in self.results]
        return {"settings": asdict(self.settings), "machine": self.machine, "cells": cells}


def run(settings: Settings, say: Callable[[str], None]) -> Report:
    """Measure cell after cell on a private server that is gone afterwards; `say` gets one line per cell."""
    versions = {name: version(SYSTEMS[name]) for name in settings.systems}
    rate = numbers_per_second()
    folder = Path(tempfile.mkdtemp(prefix="sandq-bench-", dir="/tmp"))  # a short path: it holds a unix socket
    try:
        with private_server(folder, "--notify-keyspace-events", "Ex") as url:
            machine = {**describe(url, settings.cores, versions), "numbers_per_second": round(rate)}
            results = tuple(_measured(settings, rate, url, folder, versions, say))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Report(settings=settings, machine=machine, results=results)


def _measured(
    settings: Settings,
    rate: float,
    url: str,
    folder: Path,
    versions: dict[str, str | None],
    say: Callable[[str], None],
) -> Iterator[Result]:
    for cell in cells(settings, rate, url, folder):
        installed = versions[cell.system] is not None
        system = SYSTEMS[cell.system]
        result = measure(system, cell) if installed else not_installed(cell, system.package)
        say(f"{cell.queue}: {result.note or f'{result.starts} starts of {cell.jobs} jobs in {result.wall_s}s'}")
        yield result


def cells(settings: Settings, rate: float, url: str, folder: Path) -> Iterator[Cell]:
    """All cells of a run; `rate` is how many numbers one C call adds up in a second of an idle core."""
    for kind in settings.kinds:
        for scale in settings.scales:
            core_s, wall_s = job_length(settings, kind, scale)
            for system in settings.systems:
                yield Cell(
                    system=system,
                    kind=kind,
                    scale=scale,
                    children=scale * settings.cores,
                    jobs=settings.jobs or scale * settings.cores,
                    lock_s=settings.lock_s,
                    amount=core_s if kind == "loop" else int(core_s * rate),
                    core_s=core_s,
                    wall_s=wall_s,
                    url=url,
                    folder=str(folder),
                )


def job_length(settings: Settings, kind: str, scale: int) -> tuple[float, float]:
    """Seconds a job takes on an idle core, and with all others beside it.

    A loop ends by the clock. A call takes `scale` times as long as on an idle core, so that it would last for minutes
    at a high scale; it is cut to `longest_locks` of wall time, which still is far more than the lock.
    """
    wanted = JOB_LOCKS * settings.lock_s
    if kind == "loop":
        return wanted, wanted
    wall_s = min(wanted * scale, max(wanted, settings.longest_locks * settings.lock_s))
    return wall_s / scale, wall_s
