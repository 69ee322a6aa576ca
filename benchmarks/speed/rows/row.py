"""What a row is: cases, and in each case subjects that are measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.speed.bench import Bench, Values
from benchmarks.speed.system import System

Measure = Callable[[Bench], Values]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Subjects that are compared with each other: measured A B C A B C ..., `rounds` times each."""

    name: str
    subjects: Mapping[str, Measure]
    rounds: int | None = None  # None: as often as the run repeats


class Row(Protocol):
    """One row of the benchmark."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""

    @property
    def about(self) -> str:
        """What its figures are."""

    @property
    def systems(self) -> Sequence[str]:
        """Those that the targets compare; others on request."""

    def cases(self, bench: Bench, systems: Sequence[System]) -> Sequence[Case]:
        """What to measure on the systems that were asked for and are installed."""
