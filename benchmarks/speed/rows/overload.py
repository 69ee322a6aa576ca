"""Overload: the stall benchmark's jobs, three locks long, sixteen children a core; what becomes of the heartbeat."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.cpu_bound import stall
from benchmarks.cpu_bound.jobs import KINDS
from benchmarks.speed.bench import Bench, CellError, Values
from benchmarks.speed.rows.row import Case
from benchmarks.speed.system import System

LOCK_S = 2.0
SCALE = 16  # children per core


class Overload:
    """sandq only; `python -m benchmarks.cpu_bound stall` shows how others fare."""

    name = "overload"
    about = f"starts, lost locks and heartbeat lag, jobs of three locks, lock {LOCK_S:g} s, {SCALE} children a core"
    systems = ("sandq",)

    def cases(self, bench: Bench, systems: Sequence[System]) -> list[Case]:
        """A pure-Python loop, and one C call that holds the GIL."""
        if not any(system.name == "sandq" for system in systems):
            return []
        scale = max(1, int(SCALE * bench.options.scale))
        return [
            Case(name=about, subjects={"sandq": partial(_run, kind=kind, scale=scale)}) for kind, about in KINDS.items()
        ]


def _run(bench: Bench, *, kind: str, scale: int) -> Values:  # noqa: ARG001  # it has a server of its own
    settings = stall.Settings(lock_s=LOCK_S, kinds=(kind,), scales=(scale,), systems=("sandq",))
    (result,) = stall.run(settings, lambda _line: None).results
    if result.lag is None or result.starts is None:
        raise CellError(result.note)
    return {
        "jobs": result.jobs,
        "starts": result.starts,
        "completed": result.completed,
        "locks_lost": result.locks_lost,
        "stalls": result.stalls,
        "p50_ms": result.lag.p50_ms,
        "p99_ms": result.lag.p99_ms,
        "max_ms": result.lag.max_ms,
        "wall_s": result.wall_s,
    }
