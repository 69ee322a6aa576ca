"""The child's end of the socket: frames out, frames in, and stop requests that may arrive at any moment.

There is no reader thread: a thread would cost every handler its fork safety and a share of the GIL. A stop is announced
by SIGUSR2; the handler of that signal reads the STOP frame and raises in the running handler. Never in the middle of a
frame, though: half a frame cannot be taken back, so a stop that arrives while the channel works is raised after it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from collections import deque
from types import FrameType

from sandq.errors import SoftTimeout
from sandq.protocol import Decoder, Frame, Kind, encode

_CHUNK = 1 << 16  # a buffer of more would be mapped and unmapped for every frame
FILES_FROM = 200  # our own files have this number or the next free above: out of the way of code that counts from 3
_MAX_BODY = 1 << 30  # the supervisor is trusted; its own limits were applied before


class Channel:
    """Blocking send and receive on one socket, safe against SIGUSR2 between any two instructions."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)
        self._decoder = Decoder(from_child=False, max_body=_MAX_BODY)
        self._mailbox: socket.socket | None = None  # comes with the first frame, if at all
        self._notes = Decoder(from_child=False, max_body=_MAX_BODY)
        self._heard = False
        self._frames: deque[Frame] = deque()
        self._busy = False
        self._interruptible = False
        self._nonce = 0
        self.stop: Frame | None = None  # the stop request of the current job, once one came
        self._raised = False
        signal.signal(signal.SIGUSR2, self._on_stop_signal)

    def fileno(self) -> int:
        """For waiting until something can be received."""
        return self._socket.fileno()

    def close(self) -> None:
        """Have no part in it any more; whoever else holds the socket goes on."""
        self._socket.close()

    def send(self, frame: Frame) -> None:
        """Send the whole frame; blocks while the supervisor does not read, which slows only this job."""
        self.send_all(frame)

    def send_all(self, *frames: Frame) -> None:
        """Send frames as one."""
        self._busy = True
        try:
            self._socket.sendall(b"".join(map(encode, frames)))
        finally:
            self._busy = False
        self._raise_if_stopped()

    def receive(self) -> Frame:
        """The next frame that is not a stop; EOFError when the supervisor has gone."""
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if frame.kind is not Kind.STOP:
                    return frame
                self._note_stop(frame)
            self._busy = True
            try:
                data = self._socket.recv(_CHUNK) if self._heard else self._first_words()
                if not data:
                    raise EOFError("the supervisor closed the channel")
                self._frames.extend(self._decoder.feed(data))
            finally:
                self._busy = False
            self._raise_if_stopped()

    @property
    def has_mailbox(self) -> bool:
        """Whether a job may follow another without being asked for."""
        return self._mailbox is not None

    def take(self) -> Frame | None:
        """The job in the mailbox, if one is there. Whoever takes it tells the supervisor that it begins."""
        try:
            note = self._mailbox.recv(_CHUNK) if self._mailbox is not None else b""
        except OSError:  # empty; or closed, by a handler that closes all it finds
            return None
        frames = self._notes.feed(note)
        return frames[0] if frames else None

    def _first_words(self) -> bytes:
        data, files, _, _ = socket.recv_fds(self._socket, _CHUNK, 1)
        self._heard = True
        for fd in files:
            with contextlib.suppress(OSError):  # it may have no more than so many files: then it has no mailbox
                self._mailbox = socket.socket(fileno=fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FILES_FROM))
            os.close(fd)
        return data

    def open_job(self, nonce: int) -> None:
        """From here on a stop for this attempt is raised in the handler."""
        self.stop, self._raised, self._nonce = None, False, nonce
        self._interruptible = True

    def close_job(self) -> None:
        """The handler is over: a late stop no longer finds anything to interrupt."""
        self._interruptible = False

    def _on_stop_signal(self, _signal: int, _frame: FrameType | None) -> None:
        if self._busy:
            return  # receive() will read the frame itself; send() checks again when its frame is out
        self._read_pending()
        self._raise_if_stopped()

    def _read_pending(self) -> None:
        """Take what has already arrived, without waiting; keep everything that is not a stop for receive()."""
        try:
            while data := self._socket.recv(_CHUNK, socket.MSG_DONTWAIT):
                self._frames.extend(self._decoder.feed(data))
        except BlockingIOError:
            pass
        stops = [frame for frame in self._frames if frame.kind is Kind.STOP]
        for frame in stops:
            self._frames.remove(frame)
            self._note_stop(frame)

    def _note_stop(self, frame: Frame) -> None:
        if frame.nonce == self._nonce and self.stop is None:
            self.stop = frame

    def _raise_if_stopped(self) -> None:
        if self._interruptible and not self._raised:
            if self.stop is None:
                self._read_pending()
            if self.stop is not None:
                self._raised = True
                raise SoftTimeout(str(self.stop.head.get("text", "stopped")))
