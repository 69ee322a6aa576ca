"""What a run found: samples, and the medians over their rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.speed.quiet import BUSY

SHOWN = ("jobs_s", "ms", "s", "pss", "p99_ms", "worker_us", "redis_us")
FORMAT = 1  # of the JSON
NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One cell: a subject, measured once."""

    row: str
    case: str
    subject: str
    round: int
    values: Mapping[str, Any]
    busy: float  # share of the cores that others used just before
    note: str = ""  # why there are no values

    @property
    def line(self) -> str:
        """For whoever watches."""
        said = self.note or ", ".join(f"{name} {_short(self.values[name])}" for name in SHOWN if name in self.values)
        return f"{said or 'done'}{'' if self.is_quiet else f' (not quiet: {self.busy:.0%} busy before)'}"

    @property
    def is_quiet(self) -> bool:
        """Whether the machine was."""
        return self.busy <= BUSY


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"p50 {percentile(value, 0.5):.2f} of {len(value)}" if value else "none"
    return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything of one run."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    skipped: Mapping[str, str]  # system: how to install it
    samples: tuple[Sample, ...]

    def of(self, row: str, case: str | None = None, subject: str | None = None) -> list[Sample]:
        """The samples that have values."""
        return [
            sample
            for sample in self.samples
            if sample.row == row and case in (None, sample.case) and subject in (None, sample.subject) and sample.values
        ]

    def median(self, row: str, case: str, subject: str, value: str) -> float | None:
        """The median over the rounds; None when nothing was measured."""
        found = [sample.values[value] for sample in self.of(row, case, subject) if sample.values.get(value) is not None]
        return float(median(found)) if found else None

    def spread(self, row: str, case: str, subject: str, value: str) -> tuple[float, float] | None:
        """The least and the most."""
        found = [sample.values[value] for sample in self.of(row, case, subject) if sample.values.get(value) is not None]
        return (min(found), max(found)) if found else None

    def pooled(self, row: str, case: str, subject: str, value: str = "ms") -> list[float]:
        """All single measurements of all rounds, for percentiles."""
        return [each for sample in self.of(row, case, subject) for each in sample.values[value]]

    def cases(self, row: str) -> list[str]:
        """In the order in which they were measured."""
        return _unique(sample.case for sample in self.samples if sample.row == row)

    def subjects(self, row: str, case: str | None = None) -> list[str]:
        """In the order in which they were measured."""
        return _unique(s.subject for s in self.samples if s.row == row and case in (None, s.case))

    @property
    def restless(self) -> int:
        """Cells before which the machine was not quiet."""
        return sum(not sample.is_quiet for sample in self.samples)

    @property
    def notes(self) -> list[str]:
        """Cells that could not be measured."""
        return _unique(f"{s.row}, {s.case}, {s.subject}: {s.note}" for s in self.samples if s.note)

    def to_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, shown: Mapping[str, Any]) -> Report:
        """Undo `to_dict`."""
        samples = tuple(Sample(**sample) for sample in shown["samples"])
        return cls(
            machine=shown["machine"], settings=shown["settings"], skipped=shown["skipped"], samples=samples
        )  # fmt: skip


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def number(value: float | None, unit: str = "") -> str:
    """Three digits that matter, or more where whole numbers need them."""
    if value is None:
        return NOTHING
    shown = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{shown} {unit}".strip()


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
