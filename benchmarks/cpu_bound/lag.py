"""How late a beat comes: the same beat as sandq's heartbeat, for workers that renew on their event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cpu_bound.journal import Journal
from sandq.supervisor.heartbeat import BEAT_S

BEATS_PER_LINE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How late beats were, in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    samples: int


async def beat(journal: Journal) -> None:
    """Wake every 50 ms on this event loop and note how late that was, until cancelled."""
    late: list[float] = []
    try:
        while True:
            due = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            late.append(time.monotonic() - due)
            if len(late) >= BEATS_PER_LINE or late[-1] > BEAT_S:
                journal.write("beats", late=late)
                late = []
    finally:
        journal.write("beats", late=late)


def lag_of(events: Sequence[dict[str, Any]]) -> Lag | None:
    """The lag that workers noted: sandq's own summary, or what follows from single beats. None without any."""
    for event in events:
        if event["event"] == "heartbeat":
            shown = event["heartbeat"]
            return Lag(
                p50_ms=shown["p50_ms"],
                p99_ms=shown["p99_ms"],
                max_ms=shown["max_ms"],
                samples=shown["lag_samples"],
            )
    late = [late for event in events if event["event"] == "beats" for late in event["late"]]
    return summary(late) if late else None


def summary(late: Iterable[float]) -> Lag:
    """Percentiles over the beats that should have been.

    A loop that stands still for 6 s misses 120 beats and notes one. Each missed one counts, with the lateness it had:
    otherwise the longer a loop stands still, the better its percentiles.
    """
    lags = sorted(lag for first in late for lag in _with_missed(first))
    p50, p99 = (lags[min(len(lags) - 1, int(len(lags) * share))] for share in (0.5, 0.99))
    return Lag(
        p50_ms=round(p50 * 1000, 2),
        p99_ms=round(p99 * 1000, 2),
        max_ms=round(lags[-1] * 1000, 2),
        samples=len(lags),
    )


def _with_missed(late: float) -> list[float]:
    return [late - missed * BEAT_S for missed in range(int(max(0.0, late) / BEAT_S) + 1)]
