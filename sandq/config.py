"""Settings: frozen, validated once. Precedence is the caller's: flag, environment, file, default (see cli)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from sandq.errors import ConfigError


def usable_cores() -> int:
    """Cores this process may really use: its affinity, cut by the cgroup's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota))) if quota else max(1, cores)


def _cgroup_quota() -> float | None:
    def read(path: str) -> list[str]:
        try:
            return Path(path).read_text(encoding="ascii").split()
        except OSError:
            return []

    limit = read("/sys/fs/cgroup/cpu.max")  # cgroup v2: "<quota|max> <period>"
    if not limit:  # cgroup v1: two files, -1 for none
        limit = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") + read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if len(limit) != 2 or limit[0] in ("max", "-1"):
        return None
    return int(limit[0]) / int(limit[1])


@dataclass(frozen=True, slots=True)
class Lease:
    """Every interval that follows from the lock time L (design: leases)."""

    lock_s: float = 15.0

    def __post_init__(self) -> None:
        if self.lock_s < 1:
            raise ConfigError(f"lock {self.lock_s:g}s is too short to renew on a busy machine; use at least 1s")

    @property
    def lock_ms(self) -> int:
        """What Redis is told."""
        return int(self.lock_s * 1000)

    @property
    def renew_every_s(self) -> float:
        """All locks are renewed this often."""
        return self.lock_s / 3

    @property
    def renew_try_s(self) -> float:
        """One renewal may wait this long for Redis."""
        return self.lock_s * 2 / 15

    @property
    def kill_after_s(self) -> float:
        """A child is killed this long after the SENDING of its last successful renewal."""
        return self.lock_s * 4 / 5

    @property
    def fence_after_s(self) -> float:
        """The launcher's kernel timer fires this long after that, should nobody have killed the child."""
        return self.lock_s / 15

    @property
    def stalled_every_s(self) -> float:
        """Jobs of vanished supervisors are looked for this often."""
        return self.lock_s / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How many finished jobs to keep: the newest `count`, none older than `age_s`; None means no bound."""

    count: int | None = None
    age_s: float | None = None
    limit: int = 1000  # at most this many are removed by age in one settlement


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """How one queue is served."""

    processor: str = ""  # PATH[:FUNCTION] or a dotted module
    concurrency: int = field(default_factory=usable_cores)
    spares: int = 1
    timeout_s: float | None = None  # a job's own opts.sq.timeout wins
    run_ceiling_s: float | None = 3600.0
    soft_stop_s: float = 5.0
    term_stop_s: float = 5.0
    memory: int | None = None  # bytes, of the child's whole tree
    max_crashes: int = 2
    max_interruptions: int = 10
    max_unknown_names: int = 10
    max_stalled_count: int = 1
    recycle_after: int | None = None  # jobs per child
    max_data: int = 1 << 20
    max_result: int = 16 << 20
    keep_completed: Keep | None = None  # None: the default rule (see store.operations.settle)
    keep_failed: Keep | None = None
    env: tuple[str, ...] = ()  # names of further variables that children may see
    add_to: tuple[str, ...] = ()  # queues that handlers may add to, beside their own
    limiter_max: int | None = None
    limiter_duration_s: float = 1.0
    metrics_points: int = 0  # BullMQ's metrics.maxDataPoints; 0 is off

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_data", "max_result"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("spares", "max_crashes", "max_interruptions", "max_stalled_count"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSettings:
    """What a supervisor needs beside its queues."""

    redis: str = ""
    prefix: str = "bull"
    name: str | None = None
    lease: Lease = field(default_factory=Lease)
    redis_timeout_s: float = 10.0
    drain_timeout_s: float = 25.0
    cancel_every_s: float = 1.0
    allow_eviction: bool = False
