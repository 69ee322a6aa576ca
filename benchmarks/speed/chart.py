"""Charts of a report: throughput, latency, cost, backlog, memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.report import Report, percentile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS = "#1b7f5c", "#9aa5b1"
PARTS = {"worker_us": "#1b7f5c", "below_us": "#8fc7b0", "redis_us": "#c8553d"}
PART_NAMES = {"worker_us": "worker", "below_us": "its children", "redis_us": "Redis"}


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(report: Report, folder: Path) -> list[Path]:
    """Write a PNG for each row that was measured and has a picture; needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, paint in CHARTS.items():
        if not report.of(name.partition("-")[0]):
            continue
        figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
        paint(axes, report)
        machine = report.machine
        axes.set_title(
            f"{axes.get_title()}\n{machine['cores']} cores, {machine['server']}, {machine['date']}", fontsize=9
        )
        figure.savefig(folder / f"{name}.png", dpi=110)
        pyplot.close(figure)
        written.append(folder / f"{name}.png")
    return written


def _throughput(axes: Axes, report: Report) -> None:
    found = _medians(report, "throughput", "no-op", "jobs_s")
    _bars(axes, found)
    for place, subject in enumerate(found):
        least, most = report.spread("throughput", "no-op", subject, "jobs_s") or (0.0, 0.0)
        axes.plot([least, most], [place, place], color="black", linewidth=1)
    axes.set_title("no-op jobs a second, two handlers (median; line: least to most)")


def _cost(axes: Axes, report: Report) -> None:
    subjects = list(_medians(report, "throughput", "no-op", "jobs_s"))
    left = [0.0] * len(subjects)
    for value, colour in PARTS.items():
        widths = [report.median("throughput", "no-op", subject, value) or 0.0 for subject in subjects]
        axes.barh(range(len(subjects)), widths, left=left, color=colour, label=PART_NAMES[value])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(subjects)), subjects)
    title = "CPU of one no-op job, microseconds"
    if len(left) > 2 and max(left) > 4 * sorted(left)[-2]:  # one bar would make all others too short to tell apart
        axes.set_xlim(0, 1.05 * sorted(left)[-2])
        title += f" (the longest bar goes on to {max(left):,.0f})"
    axes.legend(fontsize=8)
    axes.set_title(title)


def _latency(axes: Axes, report: Report) -> None:
    for subject in report.subjects("latency"):
        took = sorted(report.pooled("latency", "idle worker", subject))
        shares = [(place + 1) / len(took) for place in range(len(took))]
        if took:
            colour = OURS if subject == "sandq" else None
            axes.plot(took, shares, color=colour, label=f"{subject}, p50 {percentile(took, 0.5):.2f} ms")
    axes.set_xscale("log")
    axes.set_xlabel("ms")
    axes.legend(fontsize=8)
    axes.set_title("share of jobs started within so many ms of being added, idle worker")


def _memory(axes: Axes, report: Report) -> None:
    _bars(axes, _medians(report, "memory", "two handlers", "pss"))
    axes.set_title("MiB of an idle worker with all it started, two handlers (PSS)")


def _backlog(axes: Axes, report: Report) -> None:
    for sample in report.of("backlog"):
        sizes: dict[str, Any] = sample.values["sizes"]
        order = sorted(sizes, key=int)
        for value, label in (("claim_us", "claim"), ("settle_us", "settlement"), ("add_us", "add")):
            if all(value in sizes[size] for size in order):
                axes.plot([int(size) for size in order], [sizes[size][value] for size in order], "o-", label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("waiting jobs")
    axes.legend(fontsize=8)
    axes.set_title("sandq: microseconds a call takes, by jobs that wait")


CHARTS: dict[str, Callable[[Axes, Report], None]] = {
    "throughput": _throughput,
    "throughput-cost": _cost,
    "latency": _latency,
    "memory": _memory,
    "backlog": _backlog,
}


def _medians(report: Report, row: str, case: str, value: str) -> dict[str, float]:
    """Subjects and what they reached, the largest last (drawn at the top)."""

    def found() -> Iterator[tuple[str, float]]:
        for subject in report.subjects(row, case):
            if (middle := report.median(row, case, subject, value)) is not None:
                yield subject, middle

    return dict(sorted(found(), key=lambda each: each[1]))


def _bars(axes: Axes, found: dict[str, float]) -> None:
    colours = [OURS if subject.startswith("sandq") else THEIRS for subject in found]
    bars = axes.barh(range(len(found)), list(found.values()), color=colours)
    axes.bar_label(bars, [f" {value:,.0f}" for value in found.values()], fontsize=8)
    axes.set_yticks(range(len(found)), list(found))
    axes.margins(x=0.12)
