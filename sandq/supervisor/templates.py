"""The launcher's side of templates: children that fork children. It hands them ends and checks what they answer.

A template runs user code, so its word is no proof: the pid it tells must be its own grandchild's. What it forks waits
at a gate until then, so the pid cannot have passed to another process, and nothing was reaped that is not registered.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sandq.supervisor.spawn import Started, start
from sandq.supervisor.tree import parent_of

MAX_PACKET = 1 << 12
MAX_PID = 1 << 22  # of the kernel


@dataclass(slots=True)
class _Wanted:
    """A child that was asked for: the ends that the supervisor will get, and the gate that we hold shut."""

    channel: socket.socket
    stdout: int
    stderr: int
    gate: int

    def close(self) -> None:
        self.channel.close()
        for fd in (self.stdout, self.stderr, self.gate):
            os.close(fd)


@dataclass(slots=True)
class _Template:
    pid: int
    control: socket.socket
    wanted: dict[int, _Wanted] = field(default_factory=dict)  # by the child's number


Answer = tuple[int, Started | str]  # the child's number; the child, or why there is none


class Templates:
    """The templates of one launcher, by their own numbers as its children."""

    def __init__(self) -> None:
        self._templates: dict[int, _Template] = {}

    def start(self, number: int, argv: list[str], env: dict[str, str]) -> Started:
        """Start a template, with a control socket beside what every child has; OSError as for any child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.set_inheritable(True)
            try:
                started = start([*argv, str(theirs.fileno())], env)
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._templates[number] = _Template(started.pid, ours)
        return started

    def fds(self) -> list[int]:
        """Where answers come from."""
        return [template.control.fileno() for template in self._templates.values()]

    def ask(self, number: int, child: int) -> None:
        """Ask a template for a child; OSError when it has gone or does not listen."""
        template = self._templates.get(number)
        if template is None:
            raise ProcessLookupError("its template has ended")
        with contextlib.ExitStack() as kept, contextlib.ExitStack() as passed:
            ours, channel = socket.socketpair()
            kept.callback(ours.close)
            passed.callback(channel.close)
            out_read, out = _pipe(kept, passed)
            err_read, err = _pipe(kept, passed)
            gate, gate_write = _pipe(passed, kept)
            packet = json.dumps({"child": child}).encode()
            socket.send_fds(template.control, [packet], [channel.fileno(), out, err, gate])
            kept.pop_all()
        template.wanted[child] = _Wanted(ours, out_read, err_read, gate_write)

    def answers(self, ready: set[int]) -> Iterator[Answer]:
        """What the templates said that are ready to be heard."""
        for number, template in list(self._templates.items()):
            if template.control.fileno() not in ready:
                continue
            try:
                packet = template.control.recv(MAX_PACKET)
            except OSError:
                packet = b""
            if not packet:  # it closed its end: nothing will come of it any more, alive or not
                yield from self.end(number)
            elif (answer := _read(template, packet)) is not None:
                yield answer

    def end(self, number: int) -> Iterator[Answer]:
        """The template has ended, if it is one: what was asked of it will not come."""
        template = self._templates.pop(number, None)
        if template is not None:
            template.control.close()
            for child, wanted in template.wanted.items():
                wanted.close()
                yield child, "its template has ended"


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write


def _read(template: _Template, packet: bytes) -> Answer | None:
    """What a template answered; None when that is about nothing that was asked."""
    try:
        message = json.loads(packet)
        child, pid, error = message["child"], message.get("pid"), message.get("error")
        wanted = template.wanted.pop(child)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    try:
        pidfd = _grandchild(template.pid, pid)
    except OSError as refused:
        wanted.close()
        return child, str(error or refused)
    os.close(wanted.gate)
    return child, Started(pid, pidfd, wanted.channel, wanted.stdout, wanted.stderr)


def _grandchild(template: int, pid: Any) -> int:
    """A pidfd of the process with this pid; OSError unless it is alive and the template's grandchild."""
    if type(pid) is not int or not 0 < pid < MAX_PID:
        raise ProcessLookupError("its template told no pid")
    pidfd = os.pidfd_open(pid)
    between = parent_of(pid)
    if between is None or parent_of(between) != template:
        os.close(pidfd)
        raise ProcessLookupError("its template told a pid that is not its grandchild's")
    return pidfd
