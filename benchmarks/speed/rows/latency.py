"""Latency: from the call that adds a job until its handler runs, on an idle worker, one job every 50 ms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.speed.bench import Bench, CellError, Values, read_journal
from benchmarks.speed.fleet import running
from benchmarks.speed.rows.row import Case
from benchmarks.speed.spec import Jobs
from benchmarks.speed.system import System

EVERY_S = 0.05
END_LIMIT_S = 30.0


class Latency:
    """Both ends are taken from the one monotonic clock of the machine: before the call, and first in the handler."""

    name = "latency"
    about = f"ms from the call that adds a job to its handler's start, idle worker, a job every {EVERY_S * 1000:g} ms"
    systems = ("sandq", "bullmq-node-sandboxed", "huey")

    def cases(self, bench: Bench, systems: Sequence[System]) -> list[Case]:
        """All rounds together have as many samples as were asked for."""
        share = -(-bench.options.samples // bench.options.repeat)
        subjects = {system.name: partial(_run, system=system, jobs=share) for system in systems}
        return [Case(name="idle worker", subjects=subjects)]


def _run(bench: Bench, *, system: System, jobs: int) -> Values:
    spec = system.spec(bench.url, bench.new_name(system))
    asked = Jobs(kind="stamp", count=jobs, mode="paced", every_s=EVERY_S, journal=str(bench.journal(spec)))
    with running(system, spec, bench.log(spec)) as fleet:
        warmed = bench.warm(system, spec, fleet)
        bench.add(system, spec, asked)
        bench.await_ended(system, spec, warmed + jobs, fleet, END_LIMIT_S)
    took = [round((noted["at"] - noted["sent"]) * 1000, 3) for noted in read_journal(bench.journal(spec))]
    if len(took) != jobs:
        raise CellError(f"{len(took)} starts of {jobs} jobs on {system.name}")
    return {"jobs": jobs, "ms": took}
