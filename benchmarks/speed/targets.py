"""The targets: what must hold, what is aimed at, and what one run measured. All ratios are within that run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.cpu_bound.jobs import KINDS
from benchmarks.speed.report import Report, number, percentile
from benchmarks.speed.rows.adding import MODES
from benchmarks.speed.rows.memory import MORE
from benchmarks.speed.rows.start import BASE

Bound = Literal["at least", "at most"]

SANDQ, NODE, SANDBOXED = "sandq", "bullmq-node", "bullmq-node-sandboxed"
MUST_SAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One comparison."""

    number: str
    what: str
    measured: float | None  # None: not measured in this run
    bound: Bound
    must: float | None
    aim: float | None
    unit: str = ""
    detail: str = ""

    @property
    def verdict(self) -> str:
        """In one word or two."""
        if self.measured is None:
            return "not measured"
        if self.must is not None and not self._holds(self.must):
            return "NOT held"
        if self.aim is None:
            return "held"
        return "aim reached" if self._holds(self.aim) else "held" if self.must is not None else "aim missed"

    @property
    def is_broken(self) -> bool:
        """A must that was measured and does not hold."""
        return self.verdict == "NOT held"

    def _holds(self, limit: float) -> bool:
        assert self.measured is not None
        return self.measured >= limit if self.bound == "at least" else self.measured <= limit


def targets(report: Report) -> list[Target]:
    """All of them, in order."""
    found = (_throughput, _computing, _latency, _crash, _recovery, _overload, _memory, _adding, _backlog, _start)
    return [target for each in found for target in each(report)]


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else round(one / other, 3)


def _pair(one: float | None, other: float | None, unit: str) -> str:
    return "" if one is None or other is None else f"{number(one)} against {number(other)} {unit}"


def _throughput(report: Report) -> Iterator[Target]:
    bounds = ((SANDBOXED, 1.5, None), ("celery", 5.0, None), ("dramatiq", 1.0, None), (NODE, None, 1.3))
    mine = report.median("throughput", "no-op", SANDQ, "jobs_s")
    for rival, must, aim in bounds:
        theirs = report.median("throughput", "no-op", rival, "jobs_s")
        yield Target(
            number="T1",
            what=f"no-op jobs/s, two children, to {rival}'s",
            measured=_ratio(mine, theirs),
            bound="at least",
            must=must,
            aim=aim,
            unit="x",
            detail=_pair(mine, theirs, "jobs/s"),
        )


def _computing(report: Report) -> Iterator[Target]:
    for case, must, aim in (("1 ms", 0.75, 0.85), ("10 ms", 0.95, 0.97)):
        mine, bare = (report.median("throughput", case, name, "jobs_s") for name in (SANDQ, "bare"))
        yield Target(
            number="T2",
            what=f"{case} CPU jobs, to two bare loops",
            measured=_ratio(mine, bare),
            bound="at least",
            must=must,
            aim=aim,
            unit="x",
            detail=_pair(mine, bare, "jobs/s"),
        )


def _latency(report: Report) -> Iterator[Target]:
    pooled = {name: report.pooled("latency", "idle worker", name) for name in (SANDQ, SANDBOXED, "huey")}

    def at(name: str, share: float) -> float | None:
        return percentile(pooled[name], share) if pooled[name] else None

    few = len(pooled[SANDQ]) < MUST_SAMPLES
    count = f", {len(pooled[SANDQ])} samples" + (f" (fewer than {MUST_SAMPLES})" if few else "")
    rows = ((0.50, SANDBOXED, 0.75, None), (0.95, SANDBOXED, 1.25, None), (0.50, "huey", None, 1.0))
    for share, rival, must, aim in rows:
        mine, theirs = at(SANDQ, share), at(rival, share)
        yield Target(
            number="T3",
            what=f"add to start, p{share * 100:.0f}, to {rival}'s",
            measured=_ratio(mine, theirs),
            bound="at most",
            must=must,
            aim=aim,
            unit="x",
            detail=_pair(mine, theirs, "ms") + count,
        )


def _crash(report: Report) -> Iterator[Target]:
    pooled = {name: report.pooled("crash", "child killed", name) for name in (SANDQ, SANDBOXED)}
    mine, theirs = (percentile(each, 0.5) if each else None for each in pooled.values())
    never = sum(sample.values["never"] for sample in report.of("crash", "child killed", SANDQ))
    late = f"; {never} NOT restarted in time" if never else ""
    yield Target(
        number="T4",
        what=f"child SIGKILL to restart, p50, to {SANDBOXED}'s",
        measured=None if never else _ratio(mine, theirs),
        bound="at most",
        must=1.0,
        aim=None,
        unit="x",
        detail=_pair(mine, theirs, "ms") + late,
    )
    yield Target(
        number="T4", what="the same", measured=mine, bound="at most", must=None, aim=5.0, unit="ms", detail=late
    )  # fmt: skip


def _recovery(report: Report) -> Iterator[Target]:
    for case, must, aim in (("default lock", 20.0, 15.5), ("lock 2 s", 2.9, 2.5)):
        rival = report.median("recovery", case, SANDBOXED, "s")
        yield Target(
            number="T5",
            what=f"supervisor SIGKILL to restart, {case}",
            measured=report.median("recovery", case, SANDQ, "s"),
            bound="at most",
            must=must,
            aim=aim,
            unit="s",
            detail="" if rival is None else f"{SANDBOXED} {rival:.2f} s",
        )


def _overload(report: Report) -> Iterator[Target]:
    for case in KINDS.values():
        cells = report.of("overload", case, SANDQ)
        for value, what in (("starts", "starts per job"), ("locks_lost", "lost locks")):
            sums = sum(sample.values[value] for sample in cells)
            jobs = sum(sample.values["jobs"] for sample in cells)
            starts = value == "starts"
            yield Target(
                number="T6",
                what=f"{case}: {what}",
                measured=(sums / jobs if starts else float(sums)) if cells else None,
                bound="at most",
                must=1.0 if starts else 0.0,
                aim=None,
                detail=f"{sums} for {jobs} jobs" if cells else "",
            )
        yield Target(
            number="T6",
            what=f"{case}: heartbeat lag p99",
            measured=report.median("overload", case, SANDQ, "p99_ms"),
            bound="at most",
            must=50.0,
            aim=10.0,
            unit="ms",
        )


def _memory(report: Report) -> Iterator[Target]:
    pss = report.median("memory", "two handlers", SANDQ, "pss")
    saq = report.median("memory", "two handlers", "saq", "pss")
    spare = report.median("memory", "two handlers", "sandq with a spare", "pss")
    detail = ", ".join(
        f"{name} {value:.1f} MiB" for name, value in (("with a spare", spare), ("saq", saq)) if value is not None
    )
    yield Target(
        number="T7",
        what="two idle children, whole tree, PSS",
        measured=pss,
        bound="at most",
        must=60.0,
        aim=46.0,
        unit="MiB",
        detail=detail,
    )
    two, more = (report.median("memory", f"{n} handlers", SANDQ, "private") for n in ("two", MORE))
    yield Target(
        number="T7",
        what="each further idle child, private",
        measured=None if two is None or more is None else round((more - two) / (MORE - 2), 2),
        bound="at most",
        must=10.0,
        aim=None,
        unit="MiB",
    )


def _adding(report: Report) -> Iterator[Target]:
    for case, (must, aim) in zip(MODES.values(), ((0.75, 1.0), (1.0, 1.5)), strict=True):
        mine, theirs = (report.median("adding", case, name, "jobs_s") for name in (SANDQ, NODE))
        yield Target(
            number="T8",
            what=f"added jobs/s, {case}, to {NODE}'s",
            measured=_ratio(mine, theirs),
            bound="at least",
            must=must,
            aim=aim,
            unit="x",
            detail=_pair(mine, theirs, "jobs/s"),
        )


def _backlog(report: Report) -> Iterator[Target]:
    found = {sample.subject: sample.values["sizes"] for sample in report.of("backlog")}
    mine, theirs = found.get(SANDQ, {}), found.get(NODE, {})
    sizes = sorted(mine, key=int)
    claims = [mine[size]["claim_us"] for size in sizes]
    yield Target(
        number="T9",
        what="time per claim, the slowest size to the smallest",
        measured=_ratio(max(claims), claims[0]) if claims else None,
        bound="at most",
        must=1.2,
        aim=None,
        unit="x",
        detail=", ".join(f"{int(size):,}: {mine[size]['claim_us']} us" for size in sizes),
    )
    both = [size for size in sizes if size in theirs]
    largest = both[-1] if both else None
    one, other = (mine[largest]["bytes"], theirs[largest]["bytes"]) if largest else (None, None)
    yield Target(
        number="T9",
        what=f"Redis bytes per waiting job, to {NODE}'s",
        measured=_ratio(one, other),
        bound="at most",
        must=1.1,
        aim=1.0,
        unit="x",
        detail=_pair(one, other, "bytes") + (f" at {int(largest):,} jobs" if largest else ""),
    )


def _start(report: Report) -> Iterator[Target]:
    yield Target(
        number="T10",
        what="supervisor start to first job running",
        measured=report.median("start", "first job", "sandq supervise", "ms"),
        bound="at most",
        must=600.0,
        aim=400.0,
        unit="ms",
    )
    mine, base = (report.median("start", "whole command", name, "ms") for name in ("sandq add", BASE))
    yield Target(
        number="T10",
        what=f"whole `sandq add`, to `{BASE}`",
        measured=_ratio(mine, base),
        bound="at most",
        must=2.0,
        aim=1.5,
        unit="x",
        detail=_pair(mine, base, "ms"),
    )
