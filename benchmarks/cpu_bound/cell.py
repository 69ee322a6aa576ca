"""One cell of the benchmark: what runs on which system, and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cpu_bound.journal import Journal
from benchmarks.cpu_bound.lag import Lag

JOB_LOCKS = 3  # a job lasts so many lock times


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Some jobs of one kind on one system. Workers get it as JSON on their command line."""

    system: str
    kind: str
    scale: int  # children per core
    children: int  # processes that run handlers
    jobs: int
    lock_s: float
    amount: float  # seconds of the loop, or numbers of the C call
    core_s: float  # what one job takes on an idle core
    wall_s: float  # what one job takes with this many beside it, by arithmetic
    url: str
    folder: str

    @property
    def queue(self) -> str:
        """A queue of its own."""
        return f"{self.system}-{self.kind}-{self.scale}x"

    @property
    def journal(self) -> Journal:
        """Where handlers and workers write what happens."""
        return Journal(Path(self.folder) / f"{self.queue}.journal")

    @property
    def log(self) -> Path:
        """Where workers write what they have to say."""
        return Path(self.folder) / f"{self.queue}.log"

    @property
    def job_data(self) -> dict[str, Any]:
        """What each job is told."""
        return {"kind": self.kind, "amount": self.amount, "journal": str(self.journal.path)}

    @property
    def limit_s(self) -> float:
        """When a cell is given up: every job could have run three times, and been found stalled as often."""
        rounds = -(-self.jobs // self.children)
        return 3 * self.wall_s * rounds + 10 * self.lock_s

    def to_json(self) -> str:
        """For a worker's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """Undo `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was measured in a cell; None where the system has no such thing."""

    system: str
    kind: str
    scale: int
    children: int
    jobs: int
    core_s: float
    starts: int | None = None
    overlaps: int | None = None
    locks_lost: int | None = None
    stalls: int | None = None
    completed: int | None = None
    failed: int | None = None
    lag: Lag | None = None
    wall_s: float | None = None
    note: str = ""

    @property
    def starts_per_job(self) -> float | None:
        """1.0 is right."""
        return None if self.starts is None else round(self.starts / self.jobs, 2)

    @property
    def is_clean(self) -> bool:
        """Every job ran once and completed, and no lock ran out."""
        once = self.starts == self.completed == self.jobs
        return once and not self.locks_lost and not self.stalls and not self.note

    def to_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return {**asdict(self), "starts_per_job": self.starts_per_job}
