"""Recovery: a worker is killed in the middle of a job; until another, idle worker begins that job."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from benchmarks.speed.bench import Bench, CellError, Values, await_journal
from benchmarks.speed.fleet import Fleet, running
from benchmarks.speed.rows.row import Case
from benchmarks.speed.spec import Jobs
from benchmarks.speed.system import System

BEGIN_LIMIT_S = 10.0
RECOVERY_LIMIT_S = 90.0


class Recovery:
    """What was started is killed and nothing else: what it started has to end by itself."""

    name = "recovery"
    about = "s from SIGKILL of a worker that runs a job to the job's start on another, idle worker"
    systems = ("sandq", "bullmq-node-sandboxed")

    def cases(self, bench: Bench, systems: Sequence[System]) -> list[Case]:
        """With a lock of two seconds where one can be set; by default, sandq alone unless others are asked for."""
        return [case for lock_s in bench.options.locks if (case := self._case(systems, lock_s)).subjects]

    def _case(self, systems: Sequence[System], lock_s: float | None) -> Case:
        if lock_s is not None:
            chosen = [system for system in systems if system.takes_lock]
        else:
            chosen = [system for system in systems if system.name == "sandq" or system.name not in self.systems]
        subjects = {system.name: partial(_run, system=system, lock_s=lock_s) for system in chosen}
        return Case(name="default lock" if lock_s is None else f"lock {lock_s:g} s", subjects=subjects)


def _run(bench: Bench, *, system: System, lock_s: float | None) -> Values:
    spec = system.spec(bench.url, bench.new_name(system), handlers=1, lock_s=lock_s)
    journal = bench.journal(spec)
    with contextlib.ExitStack() as stack:
        fleets = [stack.enter_context(running(system, spec, bench.log(spec))) for _ in range(2)]
        ended = 0
        for fleet in fleets:
            ended = bench.warm(system, spec, fleet, ended)
        bench.add(system, spec, Jobs(kind="hold", count=1, mode="paced", journal=str(journal)))
        begun = await_journal(journal, "first", BEGIN_LIMIT_S)
        holder, root = _holder(fleets, begun["pid"])
        killed = holder.kill(root)
        again = await_journal(journal, "again", RECOVERY_LIMIT_S)
    return {"s": round(again["at"] - killed, 3)}


def _holder(fleets: Sequence[Fleet], pid: int) -> tuple[Fleet, int]:
    """The worker that runs the handler, itself or in a process below it."""
    for fleet in fleets:
        for root in fleet.roots:
            if pid == root or pid in fleet.below(root):
                return fleet, root
    raise CellError(f"process {pid} belongs to none of the workers")
