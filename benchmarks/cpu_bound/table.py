"""A report as text: settings and machine, then one Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cpu_bound.cell import Result
from benchmarks.cpu_bound.jobs import KINDS
from benchmarks.cpu_bound.stall import Report

HEADERS = (
    *("job", "children", "system", "jobs", "starts per job", "at once", "lost locks", "stalls"),
    *("completed", "failed", "lag p50 / p99 / max ms", "wall s", "note"),
)
NOT_APPLICABLE = "-"


def text(report: Report) -> str:
    """Everything a reader needs to judge the figures, and the figures."""
    rows = [HEADERS, *(_row(result) for result in report.results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADERS))]
    lines = [_line(row, widths) for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([*_head(report), "", lines[0], rule, *lines[1:]])


def _head(report: Report) -> list[str]:
    settings, machine = report.settings, report.machine
    kinds = "; ".join(f"{kind}: {KINDS[kind]}" for kind in settings.kinds)
    versions = ", ".join(f"{name} ({version})" for name, version in machine["systems"].items())
    return [
        f"lock {settings.lock_s:g}s, scales {', '.join(f'{scale}x' for scale in settings.scales)} of "
        f"{settings.cores} cores. {kinds}",
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} usable cores, {machine['memory_gib']} GiB, "
        f"load {machine['load_before']} before",
        f"{machine['kernel']}, {machine['python']}, {machine['server']}",
        f"systems: {versions}",
    ]


def _row(result: Result) -> tuple[str, ...]:
    lag = result.lag
    return (
        f"{result.kind} {result.core_s:g}s",
        f"{result.children} ({result.scale}x)",
        result.system,
        str(result.jobs),
        _shown(None if result.starts_per_job is None else f"{result.starts_per_job:.2f}"),
        _shown(result.overlaps),
        _shown(result.locks_lost),
        _shown(result.stalls),
        _shown(result.completed),
        _shown(result.failed),
        NOT_APPLICABLE if lag is None else f"{lag.p50_ms:.1f} / {lag.p99_ms:.1f} / {lag.max_ms:.1f}",
        _shown(result.wall_s),
        result.note,
    )


def _shown(value: object) -> str:
    return NOT_APPLICABLE if value is None else str(value)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
