"""A place for one job with a child that is busy. Whoever takes it out has it: the child at the end of its job, or we.

Both hold the end it is taken from, and the kernel gives a packet to one of them. So a job in there is never begun
unless the child says so, and what was not begun can be taken back at any moment, the child's death included.
"""

from __future__ import annotations

import socket
from typing import Protocol

MAX_NOTE = 16 << 10  # bytes of a job's frame; a larger one waits until its child is free


class Follower(Protocol):
    """A job placed in a mailbox; each of these is called at most once, `begun` or `returned` last."""

    nonce: int

    def taken(self) -> None:
        """The child has it; what the child writes from now on is this job's."""

    def begun(self) -> None:
        """The child said that the job before is over and this one begins."""

    def returned(self) -> None:
        """It is ours again, and has not begun."""


class Mailbox:
    """Both ends; `theirs` is passed to the child."""

    def __init__(self) -> None:
        """OSError when the host has run out of files."""
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self.theirs.setblocking(False)
        self.theirs.shutdown(socket.SHUT_WR)  # nobody would read it

    def put(self, note: bytes) -> bool:
        """Leave a job's frame there; False when the kernel has no room for it."""
        try:
            return self._ours.send(note) == len(note)
        except OSError:
            return False

    def take_back(self) -> bool:
        """Whether what was put there was still there; then the child will not see it."""
        try:
            return bool(self.theirs.recv(MAX_NOTE))
        except OSError:
            return False

    def close(self) -> None:
        """Close both ends."""
        self._ours.close()
        self.theirs.close()
