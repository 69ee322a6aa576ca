"""Killing a process and everything it ever started. Used by the launcher, which is the subreaper of all of it.

A look at /proc is a snapshot: what forks while we look is found in the next round. Every kill goes through a pidfd that
is opened first and checked after, so that a pid that was reused meanwhile is never hit.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

MAX_ROUNDS = 200  # what still forks faster than this many sweeps is met again by the next event's sweep


def kill_tree(pid: int, pidfd: int) -> None:
    """SIGKILL a child of ours, its process group and its descendants. `pid` must not be reaped yet."""
    # Stop first: what cannot run cannot fork while we look.
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    for _ in range(MAX_ROUNDS):
        if not _kill_all(_descendants(pid, _parents())):
            break
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_orphans(children: dict[int, int]) -> None:
    """Kill every process we adopted whose own child of ours has ended, with its descendants.

    `children` maps the pids of our living children to their numbers. What a living child left behind stays: it carries
    that child's mark in its environment and ends with it.
    """
    # Nearly always there is nobody else, and a look at all of /proc takes milliseconds. The list may miss one while
    # another of them ends; that end brings us here again.
    if (own := _own_children()) is not None and children.keys() >= own:
        return
    numbers = {str(number) for number in children.values()}
    for _ in range(MAX_ROUNDS):
        parents = _parents()
        orphans = [pid for pid in parents.get(os.getpid(), ()) if pid not in children and _mark(pid) not in numbers]
        doomed = [pid for orphan in orphans for pid in (*_descendants(orphan, parents), orphan)]
        if not _kill_all(doomed):
            return


def _own_children() -> set[int] | None:
    """Pids of our children, ended ones included; None where the kernel keeps no list."""
    me = os.getpid()
    try:
        return {int(word) for word in Path(f"/proc/{me}/task/{me}/children").read_bytes().split()}
    except OSError:
        return None


def _kill_all(pids: list[int]) -> bool:
    """Whether there was anything left to kill."""
    found = False
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if parent_of(pid) is not None:  # still there, and not a zombie: the pidfd is of the process we saw
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                found = True
        except (ProcessLookupError, PermissionError):
            pass
        finally:
            os.close(pidfd)
    return found


def _parents() -> dict[int, list[int]]:
    """Living processes by their parent's pid."""
    found: dict[int, list[int]] = {}
    for pid in _pids():
        parent = parent_of(pid)
        if parent is not None:
            found.setdefault(parent, []).append(pid)
    return found


def _pids() -> Iterator[int]:
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                yield int(entry.name)


def _descendants(pid: int, parents: dict[int, list[int]]) -> list[int]:
    found: list[int] = []
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def parent_of(pid: int) -> int | None:
    """The parent's pid; None for a process that has ended, reaped or not."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:2]
    except OSError:
        return None
    return None if state in (b"Z", b"X") else int(parent)


def _mark(pid: int) -> str | None:
    """The number of the child that started this process, from the environment it inherited."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    marks = (entry[12:] for entry in environment.split(b"\0") if entry.startswith(b"SANDQ_CHILD="))
    # A template's mark has leading zeros: its children overwrite it with their own, in place.
    return next((mark.decode("ascii", "replace").lstrip("0") for mark in marks), None)
