"""Adding: jobs per second that one producer adds with the system's own client, nobody serving the queue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.speed.bench import Bench, Values
from benchmarks.speed.rows.row import Case
from benchmarks.speed.spec import BULK, Jobs
from benchmarks.speed.system import System

JOBS = {"one": 5_000, "bulk": 20_000}
MODES = {"one": "one by one", "bulk": f"bulk, {BULK} a call"}


class Adding:
    """The client is connected before its clock starts. One without a bulk call adds one by one in both cases."""

    name = "adding"
    about = "jobs/s that one producer adds: one by one, each answered before the next; and in bulk"
    systems = ("sandq", "bullmq-node")

    def cases(self, bench: Bench, systems: Sequence[System]) -> list[Case]:  # noqa: ARG002  # a row's signature
        """Two cases."""
        return [
            Case(name=name, subjects={s.name: partial(_run, system=s, mode=mode) for s in systems})
            for mode, name in MODES.items()
        ]


def _run(bench: Bench, *, system: System, mode: str) -> Values:
    spec = system.spec(bench.url, bench.new_name(system))
    jobs = bench.options.scaled(JOBS[mode])
    seconds = bench.add(system, spec, Jobs(kind="noop", count=jobs, mode=mode))  # type: ignore[arg-type]
    return {"jobs": jobs, "jobs_s": round(jobs / seconds, 1)}
