"""Crash to restart: a handler that kills its own process on its first run, until it runs again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.speed.bench import Bench, CellError, Values, await_journal, read_journal
from benchmarks.speed.fleet import running
from benchmarks.speed.rows.row import Case
from benchmarks.speed.spec import Jobs
from benchmarks.speed.system import System

JOBS = 6  # in each round
ATTEMPTS = 3  # asked for on every system that knows attempts: sandq runs a crashed job again without
BEGIN_LIMIT_S = 10.0
AGAIN_LIMIT_S = 10.0  # later than that it came back by a lease, not by the crash


class Crash:
    """All handlers run some jobs before each crash: whatever a system keeps warm is warm again."""

    name = "crash"
    about = "ms from a handler's SIGKILL of its own process to its second start"
    systems = ("sandq", "bullmq-node-sandboxed")

    def cases(self, bench: Bench, systems: Sequence[System]) -> list[Case]:
        """One case."""
        jobs = bench.options.scaled(JOBS, least=2)
        return [Case(name="child killed", subjects={s.name: partial(_run, system=s, jobs=jobs) for s in systems})]


def _run(bench: Bench, *, system: System, jobs: int) -> Values:
    spec = system.spec(bench.url, bench.new_name(system))
    ended, took = 0, []
    with running(system, spec, bench.log(spec)) as fleet:
        for number in range(jobs):
            ended = bench.warm(system, spec, fleet, ended) + 1
            journal = bench.folder / f"{spec.queue}-{number}.journal"
            bench.add(system, spec, Jobs(kind="crash", count=1, mode="paced", journal=str(journal), attempts=ATTEMPTS))
            if (ms := _until_again(journal)) is None:
                break  # the job, or its worker, may never come back: later crashes would measure that again
            took.append(ms)
    return {"jobs": jobs, "ms": took, "never": 0 if len(took) == jobs else 1}


def _until_again(journal: Path) -> float | None:
    await_journal(journal, "first", BEGIN_LIMIT_S)
    try:
        await_journal(journal, "again", AGAIN_LIMIT_S)
    except CellError:
        return None
    at: dict[str, float] = {noted["event"]: noted["at"] for noted in read_journal(journal)}
    return round((at["again"] - at["first"]) * 1000, 3)
