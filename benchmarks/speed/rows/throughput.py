"""Throughput and cost: jobs that were queued beforehand, from the release of the workers until the last has ended."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial

from benchmarks.speed.bench import Bench, CellError, Values
from benchmarks.speed.cost import Meter
from benchmarks.speed.fleet import environment, running
from benchmarks.speed.rows.row import Case, Measure
from benchmarks.speed.spec import Jobs
from benchmarks.speed.system import System

HANDLERS = 2
RUN_LIMIT_S = 120.0
CPU_MS = 4_000  # of computing in one run: about two seconds on two cores
BARE = "bare"
BARE_LIMIT_S = 60.0


class Throughput:
    """No-op jobs on every system; jobs that compute on sandq, beside two plain processes that compute the same."""

    name = "throughput"
    about = "jobs/s of two handlers, jobs queued beforehand; CPU, commands and bytes per job"
    systems = ("sandq", "bullmq-node", "bullmq-node-sandboxed", "celery", "dramatiq")

    def cases(self, bench: Bench, systems: Sequence[System]) -> list[Case]:
        """Node is left out of jobs that compute: the same turns are far less work to its compiler."""
        idle: dict[str, Measure] = {}
        for system in systems:
            idle[system.name] = partial(run, system=system, kind="noop", jobs=bench.options.scaled(system.jobs))
        return [
            Case(name="no-op", subjects=idle),
            *(self._computing(bench, systems, ms) for ms in bench.options.cpu_ms),
        ]

    def _computing(self, bench: Bench, systems: Sequence[System], ms: int) -> Case:
        subjects: dict[str, Measure] = {}
        for system in systems:
            if not system.is_node and (system.name == "sandq" or system.name not in self.systems):
                jobs = bench.options.scaled(min(CPU_MS // ms, system.jobs))
                subjects[system.name] = partial(run, system=system, kind="spin", jobs=jobs, ms=ms)
        subjects[BARE] = partial(_bare, jobs=bench.options.scaled(CPU_MS // ms), ms=ms)
        return Case(name=f"{ms} ms", subjects=subjects)


def run(bench: Bench, *, system: System, kind: str, jobs: int, ms: int = 0) -> Values:
    """One run: workers up and idle, held; jobs added; workers released; all ended."""
    spec = system.spec(bench.url, bench.new_name(system), handlers=HANDLERS)
    asked = Jobs(kind=kind, count=jobs, turns=ms * bench.turns_per_ms)  # type: ignore[arg-type]  # a kind by its name
    with running(system, spec, bench.log(spec)) as fleet:
        warmed = bench.warm(system, spec, fleet)
        fleet.hold()
        add_s = bench.add(system, spec, asked)
        before = Meter.read(bench.client, fleet)
        released = fleet.release()
        ended = bench.await_ended(system, spec, warmed + jobs, fleet, RUN_LIMIT_S)
        cost = Meter.read(bench.client, fleet).per_job(before, jobs)
    wall_s = ended - released
    return {"jobs": jobs, "jobs_s": round(jobs / wall_s, 1), "wall_s": round(wall_s, 4), "add_s": add_s, **cost}


def _bare(bench: Bench, *, jobs: int, ms: int) -> Values:
    """Two plain processes, each with half of the work in one loop."""
    share = -(-jobs // HANDLERS)
    command = [sys.executable, "-m", "benchmarks.speed.bare", str(share), str(ms * bench.turns_per_ms)]
    loops = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
        for _ in range(HANDLERS)
    ]
    try:
        for loop in loops:
            _readline(loop)  # ready
        released = time.monotonic()
        for loop in loops:
            _release(loop)
        ended = max(float(_readline(loop)) for loop in loops)
    finally:
        for loop in loops:
            loop.kill()
            loop.communicate()
    wall_s = ended - released
    return {"jobs": share * HANDLERS, "jobs_s": round(share * HANDLERS / wall_s, 1), "wall_s": round(wall_s, 4)}


def _release(loop: subprocess.Popen[str]) -> None:
    assert loop.stdin is not None
    loop.stdin.write("go\n")
    loop.stdin.flush()


def _readline(loop: subprocess.Popen[str]) -> str:
    assert loop.stdout is not None
    readable, _, _ = select.select([loop.stdout], [], [], BARE_LIMIT_S)
    if not readable:
        raise CellError(f"a bare loop said nothing within {BARE_LIMIT_S:g} s")
    return loop.stdout.readline()
