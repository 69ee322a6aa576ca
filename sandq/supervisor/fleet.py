"""The children of one supervisor: asked of its launcher, known until they end; a launcher that dies is replaced."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandq.clock import boottime
from sandq.config import Lease
from sandq.errors import SandqError
from sandq.supervisor.confine import Confinement
from sandq.supervisor.control import PASSED_FDS, Control
from sandq.supervisor.exit import Exit
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.scratch import Scratch, remove, sweep

SPAWN_WAIT_S = 30.0  # a launcher that has not started a child by then is as good as dead
YOUNG_S = 1.0
FREE = Confinement()


class SpawnFailed(SandqError):  # noqa: N818
    """The launcher could not start a child: the host is out of processes, files or memory, or the launcher died."""


class Fleet:
    """All children of one supervisor, through one launcher at a time."""

    def __init__(
        self, lease: Lease, on_lease_socket: Callable[[socket.socket], None], on_death: Callable[[int], None]
    ) -> None:
        self._lease = lease
        self._on_lease_socket = on_lease_socket
        self._on_death = on_death
        self._children: dict[int, ChildProcess] = {}
        self._spawning: dict[int, asyncio.Future[ChildProcess]] = {}
        self._last_number = 0
        self._launcher: Control | None = None
        self._scratch: Scratch | None = None
        self._closing = False
        self._known = asyncio.Event()  # whether there is a launcher now, or why there is none
        self._trouble = "the launcher died"

    @property
    def launcher_pid(self) -> int | None:
        """The pid of the living launcher."""
        return None if self._launcher is None else self._launcher.pid

    @property
    def size(self) -> int:
        """How many children are alive."""
        return len(self._children)

    def start(self) -> None:
        """Exec a launcher, and hand its lease socket to the heartbeat."""
        self._launcher = Control(self._lease, self._hear, self._launcher_died)
        self._on_lease_socket(self._launcher.leases)
        self._known.set()

    async def spawn(self, env: dict[str, str], confinement: Confinement = FREE, *, forks: bool = False) -> ChildProcess:
        """Start one child, or with `forks` a template; SpawnFailed when the launcher could not."""
        self._last_number += 1
        module = "sandq.child.template" if forks else "sandq.child"
        tmp = self._make_tmp(self._last_number) if confinement.private_tmp else None
        argv = [*confinement.prefix(tmp), sys.executable, "-P", "-m", module]
        # A template's children write their own numbers over its.
        mark = {"SANDQ_CHILD": f"{self._last_number:010}" if forks else str(self._last_number)}
        if tmp is not None:
            mark |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), tmp)
        request = {"op": "spawn", "argv": argv, "env": env | mark, "forks": forks, "confine": confinement.wish()}
        try:
            child = await self._ask(self._last_number, request)
        except BaseException:
            if tmp is not None:
                self._drop_tmp(tmp)
            raise
        if tmp is not None:
            child.exited.add_done_callback(lambda _: self._drop_tmp(tmp))
        if confinement.wrap:
            child.find_worker()
        return child

    def _make_tmp(self, number: int) -> str:
        try:
            if self._scratch is None:
                self._scratch = Scratch()
                asyncio.get_running_loop().run_in_executor(None, sweep)
            return str(self._scratch.make(number))
        except OSError as error:
            raise SpawnFailed(f"cannot make a temporary folder for a child: {error}") from error

    def _drop_tmp(self, tmp: str) -> None:
        if not self._closing:  # else all of them go at once
            asyncio.get_running_loop().run_in_executor(None, remove, Path(tmp))

    async def fork(self, template: ChildProcess) -> ChildProcess:
        """Have a template fork one child; SpawnFailed when it did not."""
        self._last_number += 1
        return await self._ask(self._last_number, {"op": "fork", "template": template.number})

    async def _ask(self, number: int, request: dict[str, Any]) -> ChildProcess:
        await self._known.wait()  # a launcher that died is being replaced this instant
        if self._launcher is None or self._closing:
            raise SpawnFailed(self._trouble)
        future: asyncio.Future[ChildProcess] = asyncio.get_running_loop().create_future()
        self._spawning[number] = future
        try:
            self._launcher.say(request | {"child": number})
            return await asyncio.wait_for(future, SPAWN_WAIT_S)
        except TimeoutError as error:
            raise SpawnFailed(f"the launcher did not start a child within {SPAWN_WAIT_S:g}s") from error
        finally:
            self._spawning.pop(number, None)

    def kill(self, number: int, why: str) -> None:
        """SIGKILL a child's whole tree. Its process ends soon; only its pidfd says when."""
        if number in self._children:
            self._have_killed(number, why)

    def _have_killed(self, number: int, why: str) -> None:
        if self._launcher is not None:  # else they are dying with it
            self._launcher.say({"op": "kill", "child": number, "why": why})

    async def close(self, wait_s: float = 10.0) -> None:
        """End the launcher, and with it every child; returns when it is gone, or kills it after `wait_s`."""
        self._closing = True
        await self._end_launcher(wait_s)
        self._trouble = "the supervisor is closing"
        self._known.set()
        if self._scratch is not None:
            await asyncio.to_thread(self._scratch.close)
            self._scratch = None

    async def _end_launcher(self, wait_s: float) -> None:
        if self._launcher is None:
            return
        self._known.clear()
        for child in list(self._children.values()):
            child.launcher_died()
        await self._launcher.end(wait_s)
        self._launcher = None
        ends = [child.exited for child in self._children.values()]
        if ends:
            await asyncio.wait(ends, timeout=wait_s)

    def _hear(self, message: dict[str, Any], fds: list[int]) -> None:
        number = message["child"]
        match message["op"]:
            case "spawned" if len(fds) < PASSED_FDS:  # the kernel passes only what our own limit leaves room for
                for fd in fds:
                    os.close(fd)
                self._have_killed(number, "unreachable")
                self._fail(number, "the supervisor has too many open files; raise its limit (ulimit -n)")
            case "spawned":
                child = ChildProcess(number, message["pid"], fds, self.kill, self._forget)
                self._children[number] = child
                future = self._spawning.get(number)
                if future is None or future.done():  # nobody waits for it any more
                    self.kill(number, "unwanted")
                else:
                    future.set_result(child)
            case "spawn-failed":
                self._fail(number, message["error"])
            case "exited":
                if (found := self._children.get(number)) is not None:
                    usage = message["rusage"]
                    found.reaped(Exit(message["status"], usage["cpu_s"], usage["peak_rss"], message["why"]))

    def _fail(self, number: int, why: str) -> None:
        if (future := self._spawning.get(number)) is not None and not future.done():
            future.set_exception(SpawnFailed(f"cannot start a child: {why}"))

    def _forget(self, number: int) -> None:
        self._children.pop(number, None)

    def _launcher_died(self, dead: Control) -> None:
        self._known.clear()
        self._launcher = None
        # Its children are dying by PDEATHSIG; each one's own pidfd says when. Their exit status nobody can tell.
        for child in list(self._children.values()):
            child.launcher_died()
        for future in self._spawning.values():
            if not future.done():
                future.set_exception(SpawnFailed("the launcher died"))
        if not self._closing:
            # One that dies young will do so again (no memory, a broken install): do not spin on it.
            pause_s = 0.0 if boottime() - dead.started_at > YOUNG_S else YOUNG_S
            asyncio.get_running_loop().call_later(pause_s, self._restart, dead.pid)

    def _restart(self, dead_pid: int) -> None:
        if self._closing:
            return
        try:
            self.start()
        except OSError as error:  # out of files, processes or memory: that may pass
            self._trouble = f"cannot start a launcher: {error}"
            self._known.set()
            asyncio.get_running_loop().call_later(YOUNG_S, self._restart, dead_pid)
        else:
            self._on_death(dead_pid)
