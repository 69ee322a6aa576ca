"""When a child has served long enough. Pure: what is known of it and the settings in, the reason out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandq.config import QueueSettings
from sandq.units import show_duration, show_size

MANY_JOBS = 100  # of one child
_PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a child has done so far; moments are boottime."""

    started_at: float
    idle_since: float
    jobs: int = 0
    rss: int = 0
    unfit: str = ""  # what its last job left behind, in its own words


def due(service: Service, settings: QueueSettings, now: float) -> str | None:
    """Why this child should be replaced, to be read after `it`; None when it may go on."""
    if service.unfit:
        return service.unfit
    if settings.recycle_after is not None and service.jobs >= settings.recycle_after:
        return f"has run {service.jobs} job{'' if service.jobs == 1 else 's'}"
    if settings.soft_memory is not None and service.jobs and service.rss > settings.soft_memory:
        return f"kept {show_size(service.rss)} of memory after a job, {show_size(settings.soft_memory)} are allowed"
    if settings.recycle_age_s is not None and now - service.started_at >= settings.recycle_age_s:
        return f"is {show_duration(round(now - service.started_at, 1))} old"
    # A spare that has run nothing is as clean as the one that would replace it.
    if settings.recycle_idle_s is not None and service.jobs and now - service.idle_since >= settings.recycle_idle_s:
        return f"has been idle for {show_duration(round(now - service.idle_since, 1))}"
    return None


def recycles(settings: QueueSettings) -> bool:
    """Whether a child can become due by anything but what a job leaves in it."""
    bounds = (settings.recycle_after, settings.soft_memory, settings.recycle_age_s, settings.recycle_idle_s)
    return any(bound is not None for bound in bounds)


def may_claim_ahead(settings: QueueSettings) -> bool:
    """Whether it can pay: not under a limiter, and not where a child is soon gone that the job was meant for."""
    return settings.limiter_max is None and (settings.recycle_after or MANY_JOBS) >= MANY_JOBS


def looks_every_s(settings: QueueSettings) -> float | None:
    """How often idle children are looked at; None when nothing can become due without a job."""
    spans = [span for span in (settings.recycle_age_s, settings.recycle_idle_s) if span is not None]
    return min(60.0, max(0.05, min(spans) / 4)) if spans else None


def rss_of(pid: int) -> int:
    """Resident bytes of one process; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
