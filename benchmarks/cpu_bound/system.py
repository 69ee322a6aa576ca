"""What the benchmark has to know of a system under test."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Protocol

from benchmarks.cpu_bound.cell import Cell


@dataclass(frozen=True, slots=True)
class Progress:
    """How many jobs have ended, and how."""

    completed: int
    failed: int
    stalls: int | None = None  # None: the system has no lock that could run out

    @property
    def ended(self) -> int:
        """Jobs that will not run again."""
        return self.completed + self.failed


class System(Protocol):
    """One system: how its workers are started and its jobs added and counted."""

    name: str
    package: str  # what to install for it; "" when it comes with this repository
    module: str  # `python -m MODULE CELL` is one worker
    has_locks: bool

    def workers(self, cell: Cell) -> int:
        """How many worker processes give `cell.children` handlers at once."""

    def add(self, cell: Cell) -> None:
        """Put the cell's jobs into its queue."""

    def progress(self, cell: Cell) -> Progress:
        """How far they are."""


def version(system: System) -> str | None:
    """The installed version of what the system needs; None when it is not installed."""
    if not system.package:
        return "this repository"
    if importlib.util.find_spec(system.package) is None:
        return None
    return importlib.metadata.version(system.package)
