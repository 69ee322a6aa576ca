"""Control groups of a test's own, where the host lets us make some."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from harness import eventually


@contextmanager
def cgroup(kind: str) -> Iterator[Path]:
    """A control group of a kind of our own; skips where we may not make one."""
    root = Path("/sys/fs/cgroup") / kind
    group = root / f"sandq-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no {kind} control group can be made here: {error}")
    try:
        yield group
    finally:
        eventually(lambda: not leave(group), "the control group is empty")
        group.rmdir()


def enter(group: Path, pid: int) -> None:
    """Move a process into a control group with all that it has started."""
    for each in (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))):
        (group / "cgroup.procs").write_text(str(each))


def leave(group: Path) -> list[str]:
    """Move every process out of a control group; those that were in it, which may have started others meanwhile."""
    pids = (group / "cgroup.procs").read_text().split()
    for pid in pids:
        with suppress(OSError):  # it has ended meanwhile
            (group.parent / "cgroup.procs").write_text(pid)
    return pids
