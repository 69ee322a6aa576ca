"""Fork and exec of one child, with everything that must hold before its first instruction."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandq.supervisor.kernel import adopt_orphans, die_with_parent, no_new_privileges

NICE = 10  # a burning child yields to the supervisor and its heartbeat
OOM_SCORE = 800  # when memory runs out, the kernel takes the child first
CHANNEL_FROM = 200  # the channel's fd is this or the next free above: out of the way of code that counts from 3


@dataclass(frozen=True, slots=True)
class Started:
    """A running child and the ends that belong to the supervisor."""

    pid: int
    pidfd: int
    channel: socket.socket
    stdout: int
    stderr: int

    @property
    def supervisor_ends(self) -> list[int]:
        """In the order in which they are passed: socket, stdout, stderr, pidfd."""
        return [self.channel.fileno(), self.stdout, self.stderr, self.pidfd]

    def close_supervisor_ends(self) -> None:
        """Drop our copies of what was passed; the pidfd stays, it is how we kill."""
        self.channel.close()
        os.close(self.stdout)
        os.close(self.stderr)


def start(argv: list[str], env: dict[str, str], confine: Mapping[str, Any] | None = None) -> Started:
    """Start one child in a process group of its own; OSError (EAGAIN, EMFILE, ...) when the host has run out."""
    with contextlib.ExitStack() as undo:
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        undo.callback(theirs.close)
        out, err = _pipe(undo), _pipe(undo)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(argv, env, parent, theirs.fileno(), out[1], err[1], confine)
        # Both sides set the group, so that it exists whoever runs first.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        pidfd = os.pidfd_open(pid)
        undo.pop_all()
    theirs.close()
    os.close(out[1])
    os.close(err[1])
    return Started(pid, pidfd, ours, out[0], err[0])


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        undo.callback(os.close, fd)
    return ends


def _become(
    argv: list[str],
    env: dict[str, str],
    parent: int,
    channel: int,
    out: int,
    err: int,
    confine: Mapping[str, Any] | None,
) -> None:
    """In the fork: fence, yield, capture, exec. Never returns."""
    try:
        os.setpgid(0, 0)
        die_with_parent(parent)
        adopt_orphans()  # what daemonises itself stays its child, so that it can tell what a job left behind
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        fd = fcntl.fcntl(channel, fcntl.F_DUPFD, CHANNEL_FROM)
        os.set_inheritable(fd, True)
        if confine is not None:
            _confine(confine["rlimits"])
        os.execve(argv[0], [*argv, str(fd)], env)
    except BaseException as error:  # noqa: BLE001  # a fork must never return into the launcher's code
        os.write(2, f"sandq: cannot start {argv[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _confine(rlimits: Mapping[str, int]) -> None:
    """Level 1. What cannot be put on ends the start: a child must not run with less than was asked for."""
    no_new_privileges()
    for name, value in rlimits.items():
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (limit, limit))
