"""A place for one job with a child that is busy. Whoever takes it out has it: the child at the end of its job, or we.

Both hold the end it is taken from, and the kernel gives a packet to one of them. So a job in there is never begun
unless the child says so, and what was not begun can be taken back at any moment, the child's death included.
"""

from __future__ import annotations

import contextlib
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
    """Of one child. It takes nothing until it is opened, and one job for each time that it is told to `accept`."""

    def __init__(self) -> None:
        self._put: socket.socket | None = None
        self._take: socket.socket | None = None
        self._follower: Follower | None = None
        self.accepts = False

    def open(self) -> int | None:
        """The end for the child, to be passed to it; None when the host has run out of files, and nothing is placed."""
        with contextlib.suppress(OSError):
            self._put, self._take = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._put.setblocking(False)
            self._take.setblocking(False)
            self._take.shutdown(socket.SHUT_WR)  # nobody would read it
        return None if self._take is None else self._take.fileno()

    def accept(self) -> None:
        """A job begins: one may be placed behind it."""
        self.accepts = self._put is not None

    def place(self, note: bytes, follower: Follower) -> bool:
        """Leave a job's frame there; False when it has to wait until its child is free."""
        if not self.accepts or self._put is None or len(note) > MAX_NOTE:
            return False
        try:
            self._put.send(note)
        except OSError:
            return False
        self._follower, self.accepts = follower, False
        return True

    def recall(self) -> bool:
        """Have nothing follow the job that runs. False: the child has taken what was placed, so that job is over."""
        self.accepts = False
        if self._follower is None:
            return True
        try:
            if self._take is not None:
                self._take.recv(MAX_NOTE)
        except OSError:
            return False
        self.give_back()
        return True

    def heard_output(self) -> None:
        """The child has written something: in the job that runs, unless that is over and the next has begun."""
        if self._follower is not None and not self.recall():
            self._follower.taken()

    def begun(self, nonce: int) -> bool:
        """The child says that it has begun this job; False when it had no such job."""
        follower = self._follower
        if follower is None or nonce != follower.nonce:
            return False
        self._follower = None
        follower.begun()
        return True

    def give_back(self) -> None:
        """What is in there has not begun, and will not."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.returned()

    def close(self) -> None:
        """Close both ends; its child has ended."""
        self.give_back()
        for end in (self._put, self._take):
            if end is not None:
                end.close()
        self._put = self._take = None
        self.accepts = False
