"""`sandq doctor`: look at this host and its Redis, and say what to do about what is missing."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import select
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from sandq.cli.checks import Finding, Host, judge_host, judge_isolation, judge_redis, redis_facts, worst
from sandq.cli.options import debug_option, json_option, store_options
from sandq.cli.show import print_json
from sandq.cli.store import reach
from sandq.config import QueueSettings, usable_cores
from sandq.errors import SandqError, StoreRefused
from sandq.settings import Settings, read_settings
from sandq.store.call import Read
from sandq.store.connections import check_server
from sandq.store.executors import SyncExecutor
from sandq.store.urls import redact
from sandq.supervisor import isolation, oom
from sandq.units import size

PR_GET_PDEATHSIG, PR_GET_CHILD_SUBREAPER = 2, 37
CLOCK_BOOTTIME = 7
ASK_LIMIT_S = 3.0


@click.command()
@click.option(
    "--concurrency", type=click.IntRange(min=1), help="Judge for this many children (default: as configured)."
)
@click.option("--memory", metavar="SIZE", help="Judge for this memory limit of a job (default: as configured).")
@store_options
@json_option
@debug_option
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    *,
    concurrency: int | None,
    memory: str | None,
    redis: str | None,
    prefix: str | None,
    as_json: bool,
) -> None:
    """Check this host and its Redis for what sandq relies on; exit 1 if something is missing."""
    flags = {"redis": redis, "prefix": prefix, "concurrency": concurrency, "memory": memory}
    settings = read_settings(flags=flags)
    children = sum(queue.concurrency + queue.spares for queue in settings.queues.values())
    limits = [queue.memory for queue in settings.queues.values() if queue.memory]
    host = look_at_host()
    findings = judge_host(
        host,
        children=children or (concurrency or usable_cores()) + 1,
        memory=size(memory) if memory else max(limits, default=None),
    )
    if host.pidfd and host.pdeathsig:  # else no child can be started at all
        findings += prove_isolation(settings)
    findings += _look_at_redis(settings)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{finding.level:<5} {finding.what:<12} {finding.text}")
    ctx.exit(1 if worst(findings) == "fail" else 0)


def look_at_host() -> Host:
    """Read what this machine offers; tries each call, changes nothing."""
    return Host(
        python=sys.version_info[:3],
        pidfd=_has_pidfd(),
        pdeathsig=_prctl_answers(PR_GET_PDEATHSIG),
        timer=_has_timer(),
        subreaper=_prctl_answers(PR_GET_CHILD_SUBREAPER),
        autogroup=_bit("/proc/sys/kernel/sched_autogroup_enabled"),
        cores=usable_cores(),
        cpu_count=os.cpu_count() or 1,
        memory_limit=oom.memory_limit(),
        oom_group=oom.kills_whole_group(),
        fd_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def prove_isolation(settings: Settings) -> list[Finding]:
    """Start a real child at each level, and as each wrapped queue asks for it, and see what it cannot do."""
    asked = {queue.isolation for queue in settings.queues.values()}
    trials = [(f"isolation {level}", level in asked, QueueSettings(isolation=level)) for level in (0, 1)]
    trials += [(f"queue {name}", True, queue) for name, queue in settings.queues.items() if queue.wrap or queue.rlimits]
    return [
        judge_isolation(what, asyncio.run(isolation.refusals(trial)), is_asked=is_asked, layers=_layers(trial))
        for what, is_asked, trial in trials
    ]


def _layers(queue: QueueSettings) -> str:
    own = [] if queue.limits is None else ["no_new_privs", "rlimits", "a temporary folder of its own"]
    return ", ".join([*own, *([f"inside {queue.wrap[0]}"] if queue.wrap else [])]) or "a process of its own"


def _has_pidfd() -> bool:
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        fd = os.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        return not select.select([fd], [], [], 0)[0]  # we live: a pidfd that says otherwise is of no use
    finally:
        os.close(fd)


def _prctl_answers(option: int) -> bool:
    libc = ctypes.CDLL(None)
    return hasattr(libc, "prctl") and libc.prctl(option, ctypes.byref(ctypes.c_int()), 0, 0, 0) == 0


def _has_timer() -> bool:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "timer_create"):
        return False
    timer = ctypes.c_void_p()
    if libc.timer_create(CLOCK_BOOTTIME, None, ctypes.byref(timer)) != 0:
        return False
    return bool(libc.timer_delete(timer) == 0)


def _bit(path: str) -> bool | None:
    number = _number(path)
    return None if number is None else number == 1


def _number(path: str) -> int | None:
    """The number in a kernel file; None where there is no file, no limit, or only the page-rounded maximum."""
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def _look_at_redis(settings: Settings) -> list[Finding]:
    try:
        with reach(settings) as url:
            check_server(url, allow_eviction=True)  # judged below, with everything else
            reachable = Finding("ok", "redis", f"answers at {redact(url)}")
            info, config = _ask(url)
            return [reachable, *judge_redis(redis_facts(info, config))]
    except SandqError as error:  # whatever keeps us from asking is what there is to know
        return [Finding("fail", "redis", str(error))]


def _ask(url: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    executor = SyncExecutor(url, redis_timeout=ASK_LIMIT_S)
    try:
        info = executor.run(Read((("INFO", "all"),), lambda replies: _info(replies[0])))
        try:
            return info, executor.run(Read((("CONFIG", "GET", "*"),), lambda replies: _pairs(replies[0])))
        except StoreRefused:  # a hosted Redis that hides CONFIG: INFO alone must do
            return info, {}
    finally:
        executor.close()


def _info(reply: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in _text(reply).splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def _pairs(reply: Sequence[bytes]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in zip(reply[::2], reply[1::2], strict=True)}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
