"""The whole output of a job in a file of its own: `<folder>/<queue>/<job id>.log`, one attempt after the other."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from sandq.protocol import RECORD_END, RECORD_MARK

MAX_FILE = 64 << 20  # bytes per job, all its attempts together
MAX_NAME = 200
FULL = b"\n(this file is full; the rest was dropped)\n"
_MARKS = bytes.maketrans(RECORD_END, b" ")


def file_of(folder: str, queue: str, job_id: str) -> Path:
    """Where a job's output goes. Names are made by strangers: none of them leads out of the folder."""
    return Path(folder) / _name(queue) / f"{_name(job_id)}.log"


class JobFile:
    """Appends one attempt's output, both streams as they come. A disk that refuses is told of once, then left alone."""

    def __init__(self, path: Path, title: str, trouble: Callable[[str], None]) -> None:
        self._path = path
        self._title = title
        self._trouble = trouble
        self._fd = -1
        self._room = MAX_FILE
        self._given_up = False

    def feed(self, _stream: str, data: bytes) -> None:
        """Write what was just read; the file is made by the first bytes, so a silent job leaves none."""
        if self._given_up:
            return
        try:
            title = self._open() if self._fd < 0 else b""
            self._write(title + data.translate(_MARKS, RECORD_MARK))
        except OSError as error:
            self._give_up()
            self._trouble(f"{self._path}: {error.strerror}; the rest of this attempt's output is not kept there")

    def close(self) -> None:
        """The attempt is over."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> bytes:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # No symbolic link is followed, and no pipe waited for: a child could have put either there.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._room = MAX_FILE - os.fstat(self._fd).st_size
        return f"--- {self._title}\n".encode()

    def _write(self, data: bytes) -> None:
        if self._room > 0:
            rest = memoryview(data[: self._room] + (FULL if len(data) > self._room else b""))
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        self._room -= len(data)
        if self._room < 0:
            self._give_up()

    def _give_up(self) -> None:
        self._given_up = True
        with contextlib.suppress(OSError):
            self.close()


def _name(text: str) -> str:
    safe = quote(text, safe=" ")
    if safe.startswith("."):
        safe = "%2E" + safe[1:]
    return safe if len(safe) <= MAX_NAME else hashlib.sha256(text.encode()).hexdigest()
