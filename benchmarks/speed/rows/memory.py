"""Memory of an idle worker with all it started, and of each further idle child."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from benchmarks.speed.bench import WARM_JOBS, WARM_LIMIT_S, Bench, Values
from benchmarks.speed.fleet import Fleet, environment, running
from benchmarks.speed.peers import sandq as sandq_peer
from benchmarks.speed.rows.row import Case, Measure
from benchmarks.speed.spec import Jobs
from benchmarks.speed.system import System

SETTLE_S = 1.0  # idle for so long before it is looked at
MORE = 6  # handlers of the case that shows what one more costs


class Memory:
    """Workers have run some jobs, so all that comes with the first one is there."""

    name = "memory"
    about = "MiB of an idle worker with all it started, two handlers; sandq with six, to see what one more costs"
    systems = ("sandq", "saq")

    def cases(self, bench: Bench, systems: Sequence[System]) -> list[Case]:  # noqa: ARG002  # a row's signature
        """Sandq with exactly two children, with its default spare, and by its command line."""
        two: dict[str, Measure] = {system.name: partial(_run, system=system) for system in systems}
        more: dict[str, Measure] = {}
        if "sandq" in two:
            two["sandq"] = partial(_run, system=sandq_peer.SYSTEM, spares=0)
            two["sandq with a spare"] = partial(_run, system=sandq_peer.SYSTEM)
            two["sandq supervise"] = _command_line
            more["sandq"] = partial(_run, system=sandq_peer.SYSTEM, handlers=MORE, spares=0)
        return [Case(name="two handlers", subjects=two), Case(name=f"{MORE} handlers", subjects=more)]


def _run(bench: Bench, *, system: System, handlers: int = 2, spares: int = 1) -> Values:
    spec = system.spec(bench.url, bench.new_name(system), handlers=handlers, spares=spares)
    with running(system, spec, bench.log(spec)) as fleet:
        bench.warm(system, spec, fleet)
        return _look(fleet)


def _command_line(bench: Bench) -> Values:
    """What people run: `sandq supervise`, with everything the command line imports, and the default spare."""
    system = sandq_peer.SYSTEM
    spec = system.spec(bench.url, bench.new_name(system))
    command = [sys.executable, "-m", "sandq", "supervise", f"{spec.queue}={sandq_peer.PROCESSOR}", "--concurrency", "2"]
    fleet = Fleet(command, 1, bench.log(spec), environment(SANDQ_REDIS_URL=bench.url))
    try:
        bench.add(system, spec, Jobs(kind="noop", count=WARM_JOBS))
        bench.await_ended(system, spec, WARM_JOBS, fleet, WARM_LIMIT_S)
        return _look(fleet)
    finally:
        fleet.stop()


def _look(fleet: Fleet) -> Values:
    time.sleep(SETTLE_S)
    return asdict(fleet.memory())
