"""One launcher as the supervisor holds it: its start, requests to it, its reports, and its end. No policy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from sandq.clock import boottime
from sandq.config import Lease
from sandq.supervisor.environment import child_env

MAX_PACKET = 1 << 20
PASSED_FDS = 4  # with each child: its socket, stdout, stderr and pidfd


class Control:
    """A launcher in a session of its own, from exec to death. OSError when it cannot be started.

    `on_report(message, fds)` hears what it says, `on_death(control)` that it has ended, unless `end` was called before.
    """

    def __init__(
        self,
        lease: Lease,
        on_report: Callable[[dict[str, Any], list[int]], None],
        on_death: Callable[[Control], None],
    ) -> None:
        self._on_report = on_report
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            ours, theirs = _socketpair(undo)
            leases, their_leases = _socketpair(undo)
            self._process = _exec(theirs.fileno(), their_leases.fileno(), lease)
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            self._pidfd = os.pidfd_open(self._process.pid)
            undo.pop_all()
        theirs.close()
        their_leases.close()
        self.started_at = boottime()
        self.leases = leases  # for the heartbeat, which closes it
        ours.setblocking(False)
        self._socket: socket.socket | None = ours
        self._loop.add_reader(ours, self._read)
        self._loop.add_reader(self._pidfd, self._died)

    @property
    def pid(self) -> int:
        """The launcher's own."""
        return self._process.pid

    def say(self, request: dict[str, Any]) -> None:
        """Send it a request; it may never be read."""
        if self._socket is None:
            return
        try:
            self._socket.send(json.dumps(request).encode())
        except (BrokenPipeError, ConnectionResetError):
            pass  # its pidfd tells us, and that is where we act
        except BlockingIOError:
            # 200 KB of requests unread: it is stopped or hangs. Leases and its kernel timer fence the children; a spawn
            # that is not answered fails after its own limit.
            pass

    async def end(self, wait_s: float) -> None:
        """Hang up, on which it kills its children and ends; returns when it is gone, or kills it after `wait_s`."""
        self._disconnect()
        try:
            await asyncio.to_thread(self._process.wait, wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, wait_s)

    def _read(self) -> None:
        while self._socket is not None:
            try:
                packet, fds, _, _ = socket.recv_fds(self._socket, MAX_PACKET, PASSED_FDS)
            except BlockingIOError:
                return
            except ConnectionResetError:
                packet = b""
            if not packet:
                self._loop.remove_reader(self._socket)  # its pidfd says the rest
                return
            for fd in fds:
                os.set_inheritable(fd, False)
            self._on_report(json.loads(packet), fds)

    def _died(self) -> None:
        self._read()  # what it said before it ended still counts
        self._disconnect()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0)
        self._on_death(self)

    def _disconnect(self) -> None:
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # shutdown, not close: the heartbeat thread may be writing on it this instant. It closes what it replaces.
        with contextlib.suppress(OSError):
            self.leases.shutdown(socket.SHUT_RDWR)


def _socketpair(undo: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    undo.callback(ours.close)
    undo.callback(theirs.close)
    return ours, theirs


def _exec(control: int, leases: int, lease: Lease) -> subprocess.Popen[bytes]:
    limits = (int(lease.kill_after_s * 1e9), int(lease.fence_after_s * 1e9))
    numbers = (control, leases, os.getpid(), *limits)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "sandq.supervisor.launcher", *map(str, numbers)],
        env=child_env(),
        stdin=subprocess.DEVNULL,
        pass_fds=(control, leases),
        start_new_session=True,
    )
