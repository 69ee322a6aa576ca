"""Markdown tables of a report: one per row, one of the targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.speed.report import NOTHING, Report, number, percentile
from benchmarks.speed.targets import Target

Cells = Sequence[str]


def markdown(headers: Cells, rows: Iterable[Cells]) -> str:
    """A table whose columns line up."""
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([shown[0], rule, *shown[1:]])


def target_table(targets: Iterable[Target]) -> str:
    """Measured, must, aim and verdict of each."""
    headers = ("#", "what", "measured", "must", "aim", "verdict", "figures")
    return markdown(headers, [_target(each) for each in targets])


def _target(each: Target) -> Cells:
    sign = ">=" if each.bound == "at least" else "<="
    bounds = (NOTHING if limit is None else f"{sign} {number(limit, each.unit)}" for limit in (each.must, each.aim))
    return (each.number, each.what, number(each.measured, each.unit), *bounds, each.verdict, each.detail.strip(", ;"))


def row_tables(report: Report, row: str) -> list[str]:
    """The tables of one row, each with a title line where a row has several."""
    if row == "backlog":
        return [_backlog(report)]
    if row in ("latency", "crash"):
        return [_percentiles(report, row, case) for case in report.cases(row)]
    tables = [_medians(report, row, case) for case in report.cases(row) if report.subjects(row, case)]
    return [*tables, _costs(report)] if row == "throughput" else tables


COLUMNS = {
    "throughput": (("jobs_s", "jobs/s"), ("jobs", "jobs a run")),
    "adding": (("jobs_s", "jobs/s"), ("jobs", "jobs a run")),
    "recovery": (("s", "s"),),
    "memory": (
        ("pss", "PSS MiB"),
        ("private", "private MiB"),
        ("rss", "RSS MiB"),
        ("processes", "processes"),
        ("roots_pss", "the worker alone, PSS MiB"),
    ),
    "start": (("ms", "ms"),),
    "overload": (
        ("jobs", "jobs"),
        ("starts", "starts"),
        ("locks_lost", "lost locks"),
        ("p50_ms", "lag p50 ms"),
        ("p99_ms", "lag p99 ms"),
        ("max_ms", "lag max ms"),
    ),
}


def _medians(report: Report, row: str, case: str) -> str:
    columns = COLUMNS[row]
    lines = []
    for subject in report.subjects(row, case):
        shown = [number(report.median(row, case, subject, value)) for value, _ in columns]
        spread = report.spread(row, case, subject, columns[0][0])
        if spread is not None and row not in ("memory", "overload"):
            shown[0] += f" ({number(spread[0])}-{number(spread[1])})"
        lines.append((subject, *shown, str(len(report.of(row, case, subject)))))
    return markdown((case, *(title for _, title in columns), "rounds"), lines)


def _percentiles(report: Report, row: str, case: str) -> str:
    lines = []
    for subject in report.subjects(row, case):
        took = report.pooled(row, case, subject)
        shown = [number(percentile(took, share) if took else None) for share in (0.5, 0.95, 0.99, 1)]
        never = sum(sample.values.get("never", 0) for sample in report.of(row, case, subject))
        lines.append((subject, *shown, str(len(took)), str(never) if row == "crash" else NOTHING))
    return markdown((f"{case}, ms", "p50", "p95", "p99", "max", "samples", "not restarted"), lines)


COSTS = (
    ("worker_us", "worker CPU us"),
    ("below_us", "children CPU us"),
    ("redis_us", "Redis CPU us"),
    ("commands", "commands"),
    ("scripts", "script calls"),
    ("reads", "socket reads"),
    ("net_bytes", "bytes to and from Redis"),
)


def _costs(report: Report) -> str:
    lines = [
        (subject, *(number(report.median("throughput", "no-op", subject, value)) for value, _ in COSTS))
        for subject in report.subjects("throughput", "no-op")
    ]
    return markdown(("cost per no-op job", *(title for _, title in COSTS)), lines)


def _backlog(report: Report) -> str:
    lines = []
    for sample in report.of("backlog"):
        for size, values in sorted(sample.values["sizes"].items(), key=lambda each: int(each[0])):
            calls = (number(values.get(name)) for name in ("claim_us", "settle_us", "add_us"))
            lines.append((sample.subject, f"{int(size):,}", number(values["bytes"]), *calls))
    return markdown(
        ("system", "waiting jobs", "bytes per job", "us per claim", "us per settlement", "us per add"), lines
    )
