"""What every row works with: the server, a folder, queues of their own, and jobs that are added and awaited."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.speed.fleet import Fleet, environment
from benchmarks.speed.spec import Jobs, Spec
from benchmarks.speed.system import System

LOOK_EVERY_S = 0.01
SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.002, 0.1
WARM_JOBS = 40  # all handlers of any system see some of them
WARM_LIMIT_S = 60.0
IDLE_LIMIT_S = 5.0
ADD_LIMIT_S = 600.0
LEAST_JOBS = 10
LEAST_WAITING = 200  # a round of the backlog claims half of them: no claim may find the queue empty

Values = dict[str, Any]


class CellError(Exception):
    """A cell that could not be measured; the message says who failed, and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is asked for, beside its rows and systems."""

    repeat: int = 5
    scale: float = 1.0  # of all numbers of jobs; `asked` applies it to samples and sizes
    quiet_s: float = 20.0  # how long to wait for a quiet machine before each cell
    samples: int = 2000  # of latency, in all rounds together
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)  # of the backlog
    cpu_ms: tuple[int, ...] = (1, 10)  # of computing, in throughput
    locks: tuple[float | None, ...] = (2.0, None)  # of the recovery row; None is the default

    @classmethod
    def asked(
        cls, *, scale: float = 1.0, samples: int | None = None, sizes: tuple[int, ...] | None = None, **others: Any
    ) -> Options:
        """Samples and sizes that are given count as they stand; those that are not are the defaults, by the scale."""
        whole = cls(scale=scale, **others)
        fewer = dict.fromkeys(whole.scaled(size, LEAST_WAITING) for size in whole.sizes)  # the smallest may be alike
        return replace(whole, samples=samples or whole.scaled(whole.samples), sizes=sizes or tuple(fewer))

    def scaled(self, jobs: int, least: int = LEAST_JOBS) -> int:
        """So many jobs, by the scale."""
        return max(least, int(jobs * self.scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run's means."""

    url: str
    client: Redis
    folder: Path
    options: Options
    turns_per_ms: int
    _numbers: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)

    def new_name(self, system: System) -> str:
        """A queue, and file names, that no cell had before."""
        return f"{system.name}-{self._numbers()}"

    def log(self, spec: Spec) -> Path:
        """Where a queue's workers write what they have to say."""
        return self.folder / f"{spec.queue}.log"

    def journal(self, spec: Spec) -> Path:
        """Where a queue's handlers note when they run."""
        return self.folder / f"{spec.queue}.journal"

    def fresh(self) -> None:
        """Forget all data: every cell begins on an empty server."""
        self.client.flushall()
        self.client.config_resetstat()

    def add(self, system: System, spec: Spec, jobs: Jobs) -> float:
        """Add jobs with the system's own client; the seconds that took, without the client's start."""
        command = system.add_command(spec, jobs)
        limit_s = ADD_LIMIT_S + jobs.count * jobs.every_s
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=environment(), timeout=limit_s, check=False
        )
        if done.returncode != 0:
            raise CellError(f"{system.name} cannot add jobs: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
        return float(json.loads(done.stdout.splitlines()[-1])["seconds"])

    def await_ended(self, system: System, spec: Spec, jobs: int, fleet: Fleet, limit_s: float) -> float:
        """Until the server shows that so many jobs of the queue have ended: the moment at which it was asked.

        It has to show it twice: a client that moves a job with two commands may have it nowhere in between.
        Looks are rare while there is much left to do, and come every two milliseconds at the end.
        """
        began, before, seen = time.monotonic(), None, None
        while True:
            asked = time.monotonic()
            ended = system.ended(self.client, spec.queue, jobs)
            if ended >= jobs and seen is not None:
                return seen
            seen = asked if ended >= jobs else None
            if fleet.dead:
                raise CellError(f"{fleet.dead} workers of {system.name} ended on their own: {fleet.last_line()}")
            if asked > began + limit_s:
                raise CellError(f"{ended} of {jobs} jobs of {system.name} ended in {limit_s:g} s: {fleet.last_line()}")
            before = ended if before is None else before
            time.sleep(_pause(asked - began, ended - before, jobs - ended))

    def warm(self, system: System, spec: Spec, fleet: Fleet, ended: int = 0) -> int:
        """Have the workers run some jobs, so that they have done everything once, and wait until all of them are idle.

        The number of jobs that have ended by now.
        """
        self.add(system, spec, Jobs(kind="noop", count=WARM_JOBS))
        self.await_ended(system, spec, ended + WARM_JOBS, fleet, WARM_LIMIT_S)
        fleet.await_idle(IDLE_LIMIT_S)  # one worker may have run all jobs while another was still starting
        return ended + WARM_JOBS


def _pause(past_s: float, done: int, left: int) -> float:
    """How long to wait before the next look: a quarter of the time that is left at the pace so far."""
    if done <= 0:
        return LOOK_EVERY_S
    return min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, past_s * left / done / 4))


def read_journal(path: Path) -> list[dict[str, Any]]:
    """What handlers noted so far, in the order in which they did."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def await_journal(path: Path, event: str, limit_s: float) -> dict[str, Any]:
    """The first such event, as soon as it is there; CellError past the limit."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        for noted in read_journal(path):
            if noted["event"] == event:
                return noted
        time.sleep(LOOK_EVERY_S)
    raise CellError(f"no {event!r} within {limit_s:g} s")
