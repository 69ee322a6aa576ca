"""What a peer's programs are told, as JSON on their command line: where the queue is, and which jobs to add.

Standard library only: this file is imported by every peer's own Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

BULK = 1000  # jobs per call of a client that can add many at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One queue and how it is served."""

    url: str
    queue: str
    flavour: str = ""  # which of a peer's ways to run handlers
    handlers: int = 2
    lock_s: float | None = None  # None: the system's default
    spares: int = 1  # sandq's warm children beside those that have work

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """Jobs to add, all alike."""

    kind: Literal["noop", "spin", "stamp", "crash", "hold"]
    count: int
    mode: Literal["one", "bulk", "paced"] = "bulk"
    every_s: float = 0.0  # between two paced jobs
    turns: int = 0
    journal: str = ""
    attempts: int = 1

    @property
    def data(self) -> dict[str, Any]:
        """What each job is told, except what differs between them."""
        if self.kind == "spin":
            return {"kind": self.kind, "turns": self.turns}
        return {"kind": self.kind, "journal": self.journal} if self.journal else {"kind": self.kind}

    def chunks(self) -> Iterator[list[dict[str, Any]]]:
        """The data of all jobs, as many at a time as one bulk call takes."""
        for start in range(0, self.count, BULK):
            yield [self.data] * min(BULK, self.count - start)

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))
