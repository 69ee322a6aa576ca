"""Temporary folders of children: one each, gone with its child. What a killed supervisor left, the next one sweeps."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "sandq-tmp-"
_LOCK = "lock"


class Scratch:
    """The folders of one supervisor. A lock that ends with the process tells other supervisors that it lives."""

    def __init__(self) -> None:
        unseen = Path(tempfile.mkdtemp(prefix="sandq-new-"))
        self._lock = os.open(unseen / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Only under its final name can a sweep meet it, and then the lock is held.
        self._root = unseen.rename(unseen.with_name(unseen.name.replace("sandq-new-", PREFIX)))

    def make(self, number: int) -> Path:
        """An empty folder that nobody else may enter."""
        path = self._root / f"child-{number}"
        path.mkdir(mode=0o700)
        return path

    def close(self) -> None:
        """Remove them all."""
        remove(self._root)
        os.close(self._lock)


def remove(path: Path) -> None:
    """Remove a folder with all that is in it; what cannot be removed now is left for the next sweep."""
    shutil.rmtree(path, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of supervisors that ended without doing so."""
    for root in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if root.lstat().st_uid == os.geteuid():
                _remove_if_dead(root)


def _remove_if_dead(root: Path) -> None:
    lock = os.open(root / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it lives
        remove(root)
    finally:
        os.close(lock)
