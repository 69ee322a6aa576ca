"""Settings: frozen, validated once. Precedence is the caller's: flag, environment, file, default (see cli)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sandq.errors import ConfigError

MIN_OPEN_FILES = 64
STARTS = ("exec", "template")  # how a child comes to be, see docs/children.md
LEFT = ("threads", "files")


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
    def claim_wait_s(self) -> float:
        """A claim waits for a job in Redis at most this long.

        Its first lease counts from its sending. A job that comes at the end of the wait must still outlive a renewal
        that fails once: this + renew_every_s + renew_try_s + fence_after_s + renew_try_s is less than kill_after_s.
        """
        return self.lock_s / 8

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
class Limits:
    """What the kernel allows each process of a child at isolation 1; None is no limit."""

    open_files: int | None = 1024
    data: int | None = None  # bytes of private memory; stacks and mere reservations count, so no default fits all
    file_size: int | None = 8 << 30  # bytes, of any one file
    cpu_s: float | None = None  # of one job

    def __post_init__(self) -> None:
        if self.open_files is not None and self.open_files < MIN_OPEN_FILES:
            raise ConfigError(f"rlimits.open_files is {self.open_files}; Python needs at least {MIN_OPEN_FILES}")
        if self.cpu_s is not None and self.cpu_s < 1:
            raise ConfigError(f"rlimits.cpu is {self.cpu_s:g}s; the kernel counts whole seconds, use at least 1s")


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
    start: str = "exec"  # or "template": children are forked from a process that has imported the processor
    may_leave: tuple[str, ...] = ()  # of LEFT: what a job may leave in its child without its being replaced
    recycle_after: int | None = None  # jobs per child
    recycle_rss: int | None = None  # bytes a child may keep after a job; None: see `soft_memory`
    recycle_age_s: float | None = None
    recycle_idle_s: float | None = None  # of a child that has run jobs
    max_data: int = 1 << 20
    max_result: int = 16 << 20
    keep_completed: Keep | None = None  # None: the default rule (see store.operations.settle)
    keep_failed: Keep | None = None
    env: tuple[str, ...] = ()  # names of further variables that children may see
    add_to: tuple[str, ...] = ()  # queues that handlers may add to, beside their own
    limiter_max: int | None = None
    limiter_duration_s: float = 1.0
    isolation: Literal[0, 1] = 0  # 1 adds kernel limits, see docs/security.md
    rlimits: Limits | None = None  # None: the defaults of `Limits`
    wrap: tuple[str, ...] = ()  # a program and its arguments that start each child: ("bwrap", ...)
    output_rate: int = 4 << 20  # bytes a second that one child may write to stdout and stderr before it has to wait
    keep_output: Literal["failed", "always", "never"] = "failed"  # when the end of the output goes to the job's log
    output_dir: str = ""  # "": no files
    metrics_points: int = 0  # BullMQ's metrics.maxDataPoints; 0 is off

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_data", "max_result", "output_rate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("spares", "max_crashes", "max_interruptions", "max_stalled_count"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("recycle_after", "recycle_rss", "recycle_age_s", "recycle_idle_s"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"{name.removesuffix('_s')} is {value}; it must be above 0, or none")
        if unknown := set(self.may_leave) - set(LEFT):
            raise ConfigError(f"may_leave has {sorted(unknown)[0]!r}; it may have {', '.join(LEFT)}")
        if self.start not in STARTS:
            raise ConfigError(f"start is {self.start!r}; it is one of {', '.join(STARTS)}")

        if self.isolation not in (0, 1):
            raise ConfigError(f"isolation is {self.isolation}; it is 0 or 1, for more use wrap, see docs/security.md")
        if self.rlimits is not None and self.isolation == 0:
            raise ConfigError("rlimits need isolation = 1")
        if self.start == "template" and (self.isolation or self.wrap):
            raise ConfigError("isolation and wrap need start = exec: what a template has, its children share")

    @property
    def ladder_s(self) -> float:
        """From the first soft step of stopping a job to its SIGKILL."""
        return self.soft_stop_s + self.term_stop_s

    @property
    def limits(self) -> Limits | None:
        """The kernel limits that hold; None at level 0."""
        return (self.rlimits or Limits()) if self.isolation else None

    @property
    def soft_memory(self) -> int | None:
        """A child that keeps more than this many bytes after a job is replaced: 80 % of `memory` unless said."""
        if self.recycle_rss is not None or self.memory is None:
            return self.recycle_rss
        return self.memory * 4 // 5


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
