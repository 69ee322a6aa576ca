"""A report as a PNG: how often each job started, and how late renewals could come."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cpu_bound.cell import Result
from benchmarks.cpu_bound.stall import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"sandq": "#1b7f5c", "inprocess": "#c8553d", "bullmq": "#d9a441", "rq": "#7d8597"}
LEAST_MS = 0.01  # a logarithmic axis has no zero

Value = Callable[[Result], float | None]


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(report: Report, path: Path) -> None:
    """Write the chart; needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (starts, lag) = pyplot.subplots(2, 1, figsize=(10, 8), layout="constrained")
    _bars(starts, report, lambda result: result.starts_per_job)
    starts.axhline(1, color="black", linewidth=0.8, linestyle=":")
    starts.set_ylabel("starts per job (1 is right)")
    _bars(lag, report, lambda result: max(LEAST_MS, result.lag.p99_ms) if result.lag else None)
    lag.set_yscale("log")
    lag.axhline(report.settings.lock_s * 1000, color="black", linewidth=0.8, linestyle=":")
    lag.annotate(" the lock", (0, report.settings.lock_s * 1000), xycoords=("axes fraction", "data"), va="bottom")
    lag.set_ylabel("lateness of what renews, p99, ms")
    figure.legend(*starts.get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS), fontsize=9)
    machine = report.machine
    figure.suptitle(
        f"CPU-bound jobs, three locks long, lock {report.settings.lock_s:g}s; {machine['cores']} cores, "
        f"{machine['python']}, {machine['server']}, {machine['date']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(axes: Axes, report: Report, value: Value) -> None:
    """Groups by kind and scale, one bar per system; what was not measured has no bar."""
    groups = list(dict.fromkeys((result.kind, result.scale, result.children) for result in report.results))
    systems = list(report.settings.systems)
    width = 0.8 / len(systems)
    for place, system in enumerate(systems):
        mine = [result for result in report.results if result.system == system]
        points = [(groups.index((r.kind, r.scale, r.children)), value(r)) for r in mine]
        known = [(group + (place + 0.5) * width - 0.4, height) for group, height in points if height is not None]
        bars = axes.bar([x for x, _ in known], [y for _, y in known], width, label=system, color=COLOURS[system])
        axes.bar_label(bars, [_shown(y) for _, y in known], fontsize=7)
    axes.set_xticks(range(len(groups)), [f"{kind}\n{children} children ({scale}x)" for kind, scale, children in groups])
    axes.set_xlim(-0.5, len(groups) - 0.5)  # both charts alike, also where a system has no bars
    axes.margins(y=0.15)


def _shown(height: float) -> str:
    return f"{height:.0f}" if height >= 10 else f"{height:.2g}"
