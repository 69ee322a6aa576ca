"""Start: from the command until the first job runs; and the whole `sandq add` command beside Python's own start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from statistics import median

from benchmarks.speed.bench import Bench, Values, await_journal
from benchmarks.speed.fleet import Fleet, environment
from benchmarks.speed.peers import sandq as sandq_peer
from benchmarks.speed.rows.row import Case, Measure
from benchmarks.speed.spec import Jobs
from benchmarks.speed.system import System

TRIES = 5  # commands in one round: they are short
START_LIMIT_S = 30.0
BASE = "python -c 'import redis'"


class Start:
    """sandq only: of other systems there is no one command to compare."""

    name = "start"
    about = "ms from `sandq supervise` to the first job's start; ms of a whole `sandq add`"
    systems = ("sandq",)

    def cases(self, bench: Bench, systems: Sequence[System]) -> list[Case]:  # noqa: ARG002  # a row's signature
        """Two cases, if sandq is among the systems."""
        if sandq_peer.SYSTEM not in systems:
            return []
        add = ["-m", "sandq", "add", "speed", "noop", "--data", '{"kind": "noop"}']
        commands: dict[str, Measure] = {
            "sandq add": partial(_command, arguments=add),
            BASE: partial(_command, arguments=["-c", "import redis"]),
        }
        return [
            Case(name="first job", subjects={"sandq supervise": _supervise}),
            Case(name="whole command", subjects=commands),
        ]


def _supervise(bench: Bench) -> Values:
    """The job waits already when the command is started."""
    system = sandq_peer.SYSTEM
    spec = system.spec(bench.url, bench.new_name(system))
    journal = bench.journal(spec)
    bench.add(system, spec, Jobs(kind="stamp", count=1, mode="paced", journal=str(journal)))
    command = [sys.executable, "-m", "sandq", "supervise", f"{spec.queue}={sandq_peer.PROCESSOR}"]
    started = time.monotonic()
    fleet = Fleet(command, 1, bench.log(spec), environment(SANDQ_REDIS_URL=bench.url))
    try:
        noted = await_journal(journal, "start", START_LIMIT_S)
    finally:
        fleet.stop()
    return {"ms": round((noted["at"] - started) * 1000, 1)}


def _command(bench: Bench, *, arguments: Sequence[str]) -> Values:
    took = []
    for _ in range(TRIES):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments],
            stdout=subprocess.DEVNULL,
            cwd=bench.folder,
            env=environment(SANDQ_REDIS_URL=bench.url),
            timeout=START_LIMIT_S,
            check=True,
        )
        took.append(time.perf_counter() - started)
    return {"ms": round(median(took) * 1000, 1)}
