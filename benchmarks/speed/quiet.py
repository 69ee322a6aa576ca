"""Whether the machine is quiet: figures that were taken beside somebody else's work say nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

LOOK_S = 0.25
GLANCE_S = 0.02  # for who does not want to wait
BUSY = 0.10  # of all cores together


@dataclass(frozen=True, slots=True)
class Quiet:
    """What was seen before a cell began."""

    busy: float  # share of all cores that others used in the last look, stolen time included
    waited_s: float


def await_quiet(limit_s: float) -> Quiet:
    """Wait until the cores are idle, at most so long; how busy they were in the end. Nothing of ours runs meanwhile."""
    started = time.monotonic()
    while True:
        busy = _busy(LOOK_S if limit_s else GLANCE_S)
        waited = time.monotonic() - started
        if busy <= BUSY or waited >= limit_s:
            return Quiet(round(busy, 3), round(waited, 2))


def _busy(look_s: float) -> float:
    """The share of all cores' time that was not idle. psutil's own percentages are wrong below a second."""
    before = psutil.cpu_times()
    time.sleep(look_s)
    after = psutil.cpu_times()
    idle = after.idle - before.idle + getattr(after, "iowait", 0.0) - getattr(before, "iowait", 0.0)
    everything = sum(after[:8]) - sum(before[:8])  # the first eight: guests' time is in their user time already
    return max(0.0, 1 - idle / everything) if everything > 0 else 0.0
