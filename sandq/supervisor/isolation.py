"""Proof that a queue's isolation holds on this host: a real child, started as its children are, tries each layer.

A layer that was asked for and cannot be had refuses the start. It is never left out in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import psutil

from sandq.config import QueueSettings
from sandq.errors import ProcessorError, StartRefused
from sandq.outcome import Completed
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.processor import Processor
from sandq.supervisor.single import one_child, run_on

PROBE = Processor("sandq.child.probe")
END_WAIT_S = 2.0
PROOF_LIMIT_S = 60.0


async def prove(queues: Iterable[tuple[str, QueueSettings]]) -> None:
    """StartRefused unless every layer that a queue asks for denies what it must; free for queues that ask for none."""
    proven: list[Any] = []
    for queue, settings in queues:
        asked = (settings.limits, tuple(settings.wrap))
        if asked == (None, ()) or asked in proven:
            continue
        if whys := await refusals(settings):
            raise StartRefused(
                f"queue {queue}: this host cannot give the isolation that was asked for: {'; '.join(whys)}; "
                "see docs/security.md, or take it out of the configuration"
            )
        proven.append(asked)


async def refusals(settings: QueueSettings) -> list[str]:
    """Why the isolation of a queue does not hold here, layer by layer; empty if it does."""
    settings = replace(settings, timeout_s=None, run_ceiling_s=PROOF_LIMIT_S, memory=None)  # limits of jobs, not ours
    if settings.wrap and shutil.which(settings.wrap[0]) is None:
        return [f"wrap: there is no program {settings.wrap[0]!r} on PATH"]
    try:
        async with one_child(PROBE, settings) as (child, _):
            outcome = await run_on(child, json.dumps(_layers(settings)).encode(), settings)
            if not isinstance(outcome, Completed):
                return [f"the probe did not complete: {outcome}"]
            whys = [f"{layer}: {why}" for layer, why in json.loads(outcome.result).items() if why]
            if settings.wrap and (why := await _survives_the_launcher(child, settings)):
                whys.append(f"wrap: {why}")
            return whys
    except ProcessorError as error:
        return [f"a child cannot be started: {error}"]


def _layers(settings: QueueSettings) -> dict[str, Any]:
    limits = settings.limits
    if limits is None:
        return {}
    sizes = {"open_files": limits.open_files, "data": limits.data, "file_size": limits.file_size, "cpu": limits.cpu_s}
    return {"no_new_privs": None, "tmp": None, **{name: value for name, value in sizes.items() if value is not None}}


async def _survives_the_launcher(child: ChildProcess, settings: QueueSettings) -> str:
    """The fence must reach through the wrapper: when the launcher dies, so does the process that runs the handler."""
    if child.worker == child.pid:
        return ""  # it exec'd: nothing is between us and the child
    pidfd = os.pidfd_open(child.worker)
    # An idle child leaves by itself when its channel closes. Only one that works on shows whether the fence holds.
    working = asyncio.create_task(run_on(child, json.dumps({"work": 2 * END_WAIT_S}).encode(), settings))
    try:
        await asyncio.sleep(0)
        os.kill(psutil.Process(child.pid).ppid(), signal.SIGKILL)
        if await asyncio.to_thread(_ends, pidfd):
            return ""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return "what it started outlives it; bwrap needs --die-with-parent, another wrapper its like"
    finally:
        await working
        os.close(pidfd)


def _ends(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(END_WAIT_S * 1000))
