"""One child process as the supervisor sees it: frames in and out, output, and the truth about its death. No policy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable

from sandq.clock import boottime
from sandq.errors import ProtocolError
from sandq.protocol import Decoder, Frame, Kind, encode
from sandq.supervisor.exit import UNREPORTED, Exit
from sandq.supervisor.mailbox import Mailbox
from sandq.supervisor.pipes import Pipes

REAPED_WAIT_S = 1.0  # after death, the launcher's report (status, rusage) is waited for this long
EOF_WAIT_S = 0.25
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_CHUNK = 1 << 16  # a buffer of more would be mapped and unmapped for every read
_LAST_READS = 512  # of _CHUNK each: far more than a socket holds


class ChildProcess:
    """A child from start to death; frames go to `on_frame`, broken protocol to `on_broken`."""

    def __init__(
        self,
        number: int,
        pid: int,
        fds: list[int],
        kill: Callable[[int, str], None],
        forget: Callable[[int], None],
    ) -> None:
        self.number = number
        self.pid = pid
        self.worker = pid  # where the handler runs; another process than `pid` only under a wrapper
        self.started_at = self.idle_since = boottime()
        self.jobs = 0
        self.on_frame: Callable[[Frame], None] = lambda _frame: None
        self.on_broken: Callable[[str], None] = lambda _why: None
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self._kill = kill
        self._forget = forget
        self._socket = socket.socket(fileno=fds[0])
        self._socket.setblocking(False)
        self.output = Pipes(fds[1], fds[2])
        self._pidfd = fds[3]
        self._worker_fd: int | None = fds[3]
        self._decoder = Decoder(from_child=True, max_body=1 << 20)
        self._unsent = bytearray()
        self._passed: list[int] = []  # files that go with the next bytes
        self._exit: Exit | None = None
        self._dead = False
        self.spoke_once = False  # the last read brought what was sent at once, and nothing else
        self.between_jobs = True  # it has said how its last job ended
        self.mailbox = Mailbox()
        self.output.on_output = self.mailbox.heard_output
        self.left_unread = False  # it ended, or closed its channel, without having read all that we sent
        self._reader_on = False
        self._telling = False  # frames that were read are being passed on
        self.resume_reading()
        self._loop.add_reader(self._pidfd, self._on_death)

    def __repr__(self) -> str:
        return f"<ChildProcess {self.number} pid {self.pid} {'dead' if self._dead else 'alive'}>"

    @property
    def alive(self) -> bool:
        """Its pidfd has not fired."""
        return not self._dead

    def allow_body(self, size: int) -> None:
        """Take frames with bodies up to this size from now on; a larger claim breaks the protocol."""
        self._decoder.max_body = size

    def open_mailbox(self) -> None:
        """Give it its end, with the next frame that is sent."""
        if (end := self.mailbox.open()) is not None:
            self._passed = [end]

    def send(self, frame: Frame) -> None:
        """Send a frame; what the socket does not take now follows as it drains. A dead child is not an error here."""
        if self._dead:
            self.left_unread = True
            return
        data = encode(frame)
        if not self._unsent:
            try:
                data = data[self._send(data) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:  # it closed its end; its death or our reader tells
                self.left_unread = True
                return
        if data:
            if not self._unsent:
                self._loop.add_writer(self._socket, self._on_writable)
            self._unsent += data

    def _send(self, data: bytes) -> int:
        if not self._passed:
            return self._socket.send(data)
        sent = socket.send_fds(self._socket, [data], self._passed)
        self._passed = []
        return sent

    def runs(self, on_frame: Callable[[Frame], None], on_broken: Callable[[str], None]) -> None:
        """A job begins: its attempt hears what the child says."""
        self.on_frame, self.on_broken = on_frame, on_broken
        self.between_jobs = False

    def listen(self) -> None:
        """Hear now what it has said."""
        if self._reader_on and not self._telling:
            self._read_frames()

    def find_worker(self) -> None:
        """A wrapper stands between us and the child, in a pid namespace perhaps: the kernel names who speaks to us."""
        self._worker_fd = None
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child itself, not to its tree."""
        if not self._dead and self._worker_fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._worker_fd, number)

    def kill(self, why: str) -> None:
        """SIGKILL the child and everything it started."""
        if not self._dead:
            self._kill(self.number, why)

    def pause_reading(self) -> None:
        """Let a child that talks too much wait: its next send blocks once the socket is full.

        No job follows one that is not heard: nobody would know that it has begun. Once one has, little more will come.
        """
        if self.mailbox.recall():
            self._stop_reading()

    def resume_reading(self) -> None:
        """Hear it again."""
        if not self._reader_on and not self._dead:
            self._reader_on = True
            self._loop.add_reader(self._socket, self._read_frames)

    def reaped(self, exit_: Exit) -> None:
        """The launcher reaped it and says how it ended."""
        self._exit = exit_ if self._worker_fd == self._pidfd else exit_.unwrapped
        if self._dead:
            self._conclude()

    def launcher_died(self) -> None:
        """Nobody will reap it for us; its end is certain (PDEATHSIG), its status is not."""
        if self._exit is None:
            self._exit = Exit(None)
        if self._dead:
            self._conclude()

    def _unreported(self) -> None:
        if self._exit is None:
            self.reaped(Exit(None, why=UNREPORTED))

    def _stop_reading(self) -> None:
        if self._reader_on:
            self._reader_on = False
            self._loop.remove_reader(self._socket)

    def _read_frames(self) -> bool:
        """One read; whether there may be more."""
        try:
            data = self._socket.recv(_CHUNK) if self._worker_fd is not None else self._first_words()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.left_unread = self.left_unread or isinstance(error, ConnectionResetError)
            data = b""
        if not data:
            self._stop_reading()
            # End of file is part of dying and often seen first. Only a child that lives on has broken the protocol.
            self._loop.call_later(EOF_WAIT_S, self._living_without_channel)
            return False
        try:
            frames = self._decoder.feed(data)
        except ProtocolError as error:
            self._break(str(error))
            return False
        self.spoke_once = len(frames) == 1 or (len(frames) == 2 and frames[1].kind is Kind.BEGUN)
        self._telling = True
        try:
            self._tell(frames)
        finally:
            self._telling = False
        if self._decoder.failed is not None:
            self._break(self._decoder.failed)
            return False
        return True

    def _tell(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind is not Kind.BEGUN:
                self.on_frame(frame)
            elif not self.between_jobs or not self.mailbox.begun(frame.nonce):
                self._break("it began a job that was not its turn")

    def _break(self, why: str) -> None:
        """It broke the protocol. Whoever has the child is told; with no job running in it, nobody would end it."""
        self._stop_reading()
        self.on_broken(why)
        if self.between_jobs:
            self.kill("protocol")

    def _first_words(self) -> bytes:
        data, ancillary, _, _ = self._socket.recvmsg(_CHUNK, socket.CMSG_SPACE(_CREDENTIALS.size))
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                self.worker, _, _ = _CREDENTIALS.unpack(raw[: _CREDENTIALS.size])
                with contextlib.suppress(OSError):  # it has ended: our own pidfd tells
                    self._worker_fd = os.pidfd_open(self.worker)
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        return data

    def _living_without_channel(self) -> None:
        if not self._dead:
            self.on_broken("it closed its channel")

    def _on_writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _on_death(self) -> None:
        """The pidfd fired. What the child had written is all in our buffers now: read it before anybody judges."""
        self._loop.remove_reader(self._pidfd)
        self._dead = True
        if self._unsent:
            self.left_unread = True
            self._loop.remove_writer(self._socket)
        if self._reader_on:
            self._loop.remove_reader(self._socket)
        # A program it started may still hold the other ends and even write to them, so neither end of file nor an
        # empty buffer is sure to come: read what a socket and a pipe can hold, and no more.
        for _ in range(_LAST_READS):
            if not self._read_frames():
                break
        self.output.finish()
        self.mailbox.give_back()  # it has not said that it began
        if self._exit is not None:
            self._conclude()
        else:
            self._loop.call_later(REAPED_WAIT_S, self._unreported)

    def _conclude(self) -> None:
        if self.exited.done():
            return
        if self._worker_fd not in (None, self._pidfd):
            os.close(self._worker_fd)
        os.close(self._pidfd)
        self.output.close()
        self._socket.close()
        self.mailbox.close()
        self._forget(self.number)
        self.exited.set_result(self._exit or Exit(None))
