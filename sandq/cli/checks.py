"""What a host and its Redis must offer, judged: facts in, findings out. Pure; doctor.py gathers the facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sandq.units import show_size

FDS_PER_CHILD = 12  # socketpair, output pipes and pidfd, on the supervisor's side and the launcher's
FDS_OTHER = 64


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `text` says what was found and, unless ok, what to do."""

    level: Literal["ok", "warn", "fail"]
    what: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What was read from this machine; None where it could not be told."""

    python: tuple[int, int, int]
    pidfd: bool
    pdeathsig: bool
    timer: bool
    subreaper: bool
    autogroup: bool | None
    cores: int
    cpu_count: int
    memory_limit: int | None  # of the cgroup, bytes
    oom_group: bool | None  # memory.oom.group: the kernel kills the whole cgroup at once
    fd_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    """What a reachable Redis says about itself."""

    version: str
    policy: str  # maxmemory-policy, "" where CONFIG is not allowed
    maxmemory: int
    appendonly: bool | None
    snapshots: bool | None


def judge_host(host: Host, *, children: int, memory: int | None) -> list[Finding]:
    """Whether this machine lets sandq keep its promises with so many children of so much memory."""
    return [
        _python(host.python),
        _must(host.pidfd, "pidfd", "process deaths are seen at once", "Linux 5.3 or newer is needed for pidfd_open"),
        _must(host.pdeathsig, "pdeathsig", "children die with their launcher", "PR_SET_PDEATHSIG is needed (Linux)"),
        _must(host.timer, "timer", "the kernel can end a lease", "timer_create is needed; a sandbox may forbid it"),
        _must(host.subreaper, "subreaper", "orphans are found", "PR_SET_CHILD_SUBREAPER is needed (Linux 3.4)"),
        _autogroup(host.autogroup),
        _cores(host),
        _memory(host.memory_limit, children, memory),
        _oom_group(host.oom_group),
        _fds(host.fd_limit, children),
    ]


def judge_isolation(what: str, refusals: list[str], *, is_asked: bool, layers: str) -> Finding:
    """Whether the layers held that a real child tried to get past; a level that nobody asks for only warns."""
    if refusals:
        return Finding("fail" if is_asked else "warn", what, f"refused: {'; '.join(refusals)}")
    return Finding("ok", what, f"proven by a child that tried: {layers}")


def judge_redis(redis: Redis) -> list[Finding]:
    """Whether this Redis keeps what it is given."""
    return [
        _version(redis.version),
        _policy(redis),
        _persistence(redis),
    ]


def _python(version: tuple[int, int, int]) -> Finding:
    text = ".".join(map(str, version))
    if version < (3, 11, 0):
        return Finding("fail", "python", f"{text} is too old; use 3.11 or newer")
    return Finding("ok", "python", text)


def _must(there: bool, what: str, good: str, bad: str) -> Finding:
    return Finding("ok", what, good) if there else Finding("fail", what, bad)


def _autogroup(on: bool | None) -> Finding:
    if on:
        return Finding("ok", "autogroup", "on: children share one scheduling group, apart from the supervisor")
    return Finding("ok", "autogroup", "off or absent: nice 10 alone keeps children behind the supervisor")


def _cores(host: Host) -> Finding:
    if host.cores < host.cpu_count:
        return Finding("ok", "cores", f"{host.cores} of {host.cpu_count} usable (affinity or cgroup quota)")
    return Finding("ok", "cores", f"{host.cores} usable")


def _memory(limit: int | None, children: int, memory: int | None) -> Finding:
    if limit is None:
        return Finding("ok", "memory", "no cgroup limit; --memory bounds each job")
    if memory is None:
        text = f"cgroup limit {show_size(limit)} and no --memory: one job can take it all; set memory"
        return Finding("warn", "memory", text)
    need = memory * children
    if need > limit:
        text = (
            f"{children} children of {show_size(memory)} need {show_size(need)}, the cgroup allows {show_size(limit)}; "
            "lower concurrency or memory, or raise the limit"
        )
        return Finding("warn", "memory", text)
    return Finding("ok", "memory", f"{children} children of {show_size(memory)} fit the cgroup's {show_size(limit)}")


def _oom_group(on: bool | None) -> Finding:
    if on:
        text = "1: one job out of memory ends the supervisor with it; set it to 0 (systemd: OOMPolicy=continue)"
        return Finding("warn", "oom.group", text)
    return Finding("ok", "oom.group", "the kernel ends single processes, not the whole service")


def _fds(limit: int, children: int) -> Finding:
    need = FDS_OTHER + FDS_PER_CHILD * children
    if limit < need:
        return Finding("fail", "open files", f"{limit} allowed, {children} children need about {need}; raise ulimit -n")
    return Finding("ok", "open files", f"{limit} allowed, about {need} needed")


def _version(version: str) -> Finding:
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdigit() and minor.isdigit()):
        return Finding("warn", "version", f"{version or 'unknown'}: not a version sandq knows; 6.2 or newer is needed")
    if (int(major), int(minor)) < (6, 2):
        return Finding("fail", "version", f"{version} is too old; use Redis 6.2 or newer, or Valkey")
    return Finding("ok", "version", version)


def _policy(redis: Redis) -> Finding:
    if not redis.policy:
        return Finding("warn", "eviction", "CONFIG GET is not allowed here; make sure maxmemory-policy is noeviction")
    if redis.policy != "noeviction":
        fix = "run: CONFIG SET maxmemory-policy noeviction"
        if not redis.maxmemory:
            return Finding("warn", "eviction", f"{redis.policy}: harmless until maxmemory is set; {fix}")
        return Finding("fail", "eviction", f"maxmemory-policy is {redis.policy}, jobs can vanish; {fix}")
    return Finding("ok", "eviction", "noeviction")


def _persistence(redis: Redis) -> Finding:
    if redis.appendonly:
        return Finding("ok", "persistence", "appendonly: a restart keeps the jobs")
    if redis.snapshots:
        text = "snapshots only: a crash loses the jobs since the last one; run: CONFIG SET appendonly yes"
        return Finding("warn", "persistence", text)
    if redis.appendonly is None:
        return Finding("warn", "persistence", "CONFIG GET is not allowed here; make sure appendonly is on")
    return Finding("warn", "persistence", "none: a restart loses all jobs; run: CONFIG SET appendonly yes")


def worst(findings: list[Finding]) -> str:
    """The gravest level among the findings."""
    levels = {finding.level for finding in findings}
    return next(level for level in ("fail", "warn", "ok") if level in levels or level == "ok")


def redis_facts(info: Mapping[str, str], config: Mapping[str, str]) -> Redis:
    """Read INFO and CONFIG GET; what they leave out stays unknown."""
    maxmemory = info.get("maxmemory", "0")
    return Redis(
        version=info.get("valkey_version") or info.get("redis_version", ""),
        policy=info.get("maxmemory_policy") or config.get("maxmemory-policy", ""),
        maxmemory=int(maxmemory) if maxmemory.isdigit() else 0,
        appendonly=_yes(config.get("appendonly")) if "appendonly" in config else _one(info.get("aof_enabled")),
        snapshots=bool(config["save"]) if "save" in config else None,
    )


def _yes(word: str | None) -> bool:
    return word == "yes"


def _one(digit: str | None) -> bool | None:
    return None if digit is None else digit == "1"
