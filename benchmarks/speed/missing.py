"""What a run lacks to be held against the targets, and which command would measure it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.speed.bench import Options
from benchmarks.speed.report import Report
from benchmarks.speed.run import ROWS
from benchmarks.speed.targets import MUST_SAMPLES, SANDQ, Target

ROW_OF = {
    "T1": "throughput",
    "T2": "throughput",
    "T3": "latency",
    "T4": "crash",
    "T5": "recovery",
    "T6": "overload",
    "T7": "memory",
    "T8": "adding",
    "T9": "backlog",
    "T10": "start",
}


def is_complete(report: Report, found: Sequence[Target]) -> bool:
    """Whether every must was measured, on as much as is asked for: only then do all that hold mean something."""
    return not any(each.must is not None and each.measured is None for each in found) and not list(_shortfalls(report))


def missing(report: Report, found: Sequence[Target]) -> list[str]:
    """One line for each thing that the run lacks, with what to do about it; none if it is whole."""
    return [*_unmeasured(report, found), *_shortfalls(report)]


def _unmeasured(report: Report, found: Sequence[Target]) -> Iterator[str]:
    numbers = list(dict.fromkeys(each.number for each in found if each.measured is None))
    if not numbers:
        return
    rows = list(dict.fromkeys(ROW_OF[number] for number in numbers))
    command = f"all --rows {','.join(rows)}" if len(rows) > 1 else rows[0]
    yield f"not measured, wholly or in part: {', '.join(numbers)}; `python -m benchmarks.speed {command}` measures them"
    compared = {name for row in rows for name in ROWS[row].systems}
    for name, how in report.skipped.items():
        if name in compared:
            yield f"{name} was not installed: `{how}`"


def _shortfalls(report: Report) -> Iterator[str]:
    scale = report.settings["scale"]
    if scale < 1:
        yield f"`--scale {scale:g}`: fewer jobs than the targets ask for; such a run shows that all works, not how fast"
    samples = len(report.pooled("latency", "idle worker", SANDQ))
    if 0 < samples < MUST_SAMPLES:
        yield f"T3: {samples:,} samples, {MUST_SAMPLES:,} are asked for"
    sizes = [int(size) for sample in report.of("backlog", subject=SANDQ) for size in sample.values["sizes"]]
    asked = Options().sizes
    least, most = min(asked), max(asked)
    if sizes and (min(sizes) > least or max(sizes) < most):
        yield f"T9: {min(sizes):,} to {max(sizes):,} waiting jobs, {least:,} to {most:,} are asked for"
