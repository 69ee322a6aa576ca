"""The clock for everything we wait for: it also counts while the machine sleeps, and nobody can set it."""

from __future__ import annotations

import time

# Redis TIME for what is stored, this one for what is waited for; never the wall clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds since boot."""
    return time.clock_gettime(_CLOCK)


def boottime_ns() -> int:
    """Nanoseconds since boot."""
    return time.clock_gettime_ns(_CLOCK)
