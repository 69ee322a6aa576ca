"""A child's stdout and stderr, read no faster than it may write: beyond that the pipe fills and the child waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from sandq.clock import boottime
from sandq.supervisor.output import Bucket

RATE = 4 << 20  # bytes a second, and as many at once
STDERR_TAIL = 4 << 10  # for the death certificate
_PIPE = 1 << 16  # what a pipe holds
_LAST_READS = 4  # of _PIPE each: a program that the child left behind may go on writing

Feed = Callable[[str, bytes], None]  # (stream, data)


class Pipes:
    """Both pipes of one child. What is written while nobody listens goes to `between_jobs`."""

    def __init__(self, stdout: int, stderr: int) -> None:
        self.between_jobs: Feed = lambda _stream, _data: None
        self.on_output: Callable[[], None] = lambda: None  # before anything is read; may call `follow`
        self._listener: Feed | None = None
        self._loop = asyncio.get_running_loop()
        self._fds = {"stdout": stdout, "stderr": stderr}
        self._open = dict(self._fds)  # those that have not come to their end
        self._rate = RATE
        self._bucket = Bucket(RATE)
        self._rest: asyncio.TimerHandle | None = None  # runs while nothing is read
        self._behind: set[str] = set()  # of these more may be there than was read
        self._stderr = bytearray()
        for fd in self._fds.values():
            os.set_blocking(fd, False)
        self._listen()

    @property
    def stderr_tail(self) -> str:
        """The last 4 KiB of stderr since the last `forget`."""
        return self._stderr.decode("utf-8", "replace")

    def forget(self) -> None:
        """A new job begins: what was written before is not its."""
        self._stderr.clear()

    def limit(self, rate: int) -> None:
        """Read at most so many bytes a second from now on."""
        self._rate = rate
        self._bucket = Bucket(rate)

    def hear(self, listener: Feed | None, *, sure: bool = False) -> None:
        """A job begins, or None: it is over. What was written before this moment still goes to whoever listened.

        `sure`: the loop has read it already, so the pipes need not be looked at. That costs a short job more than all
        else that is done here for it.
        """
        if not sure or self._behind or self._rest is not None:
            self._drain()
        self._listener = listener
        if listener is not None:
            self._read_anew()

    def follow(self, listener: Feed) -> None:
        """The next job has begun by itself. All that was written before it had been read: see the child's loop."""
        self._stderr.clear()
        self._listener = listener
        self._read_anew()

    def hears(self, listener: Feed) -> bool:
        """Whether what is written goes to this listener."""
        return self._listener == listener

    def finish(self) -> None:
        """The child is dead: read what it left in the pipes, and nothing after that."""
        if self._rest is not None:
            self._rest.cancel()
        for fd in self._open.values():
            self._loop.remove_reader(fd)
        self._drain()
        self._open.clear()

    def close(self) -> None:
        """Close both, after `finish`."""
        for fd in self._fds.values():
            os.close(fd)

    def _listen(self) -> None:
        for stream, fd in self._open.items():
            self._loop.add_reader(fd, self._on_readable, stream)

    def _on_readable(self, stream: str) -> None:
        """One chunk per turn of the loop, and a rest when that was too much."""
        self.on_output()
        self._read(stream)
        wait_s = self._bucket.take(0, boottime())
        if wait_s > 0 and self._rest is None:
            for fd in self._open.values():
                self._loop.remove_reader(fd)
            self._rest = self._loop.call_later(wait_s, self._rested)

    def _read_anew(self) -> None:
        """A job does not wait for what the one before it wrote."""
        self._bucket = Bucket(self._rate)
        if self._rest is not None:
            self._rest.cancel()
            self._rested()

    def _rested(self) -> None:
        self._rest = None
        self._listen()

    def _drain(self) -> None:
        """Read what the pipes hold now, and not much more."""
        for stream in tuple(self._open):
            for _ in range(_LAST_READS):
                if not self._read(stream):
                    break

    def _read(self, stream: str) -> bool:
        """One read; whether there may be more."""
        try:
            data = os.read(self._fds[stream], _PIPE)
        except (BlockingIOError, InterruptedError):
            self._behind.discard(stream)
            return False
        if len(data) < _PIPE:
            self._behind.discard(stream)
        else:
            self._behind.add(stream)
        if not data:
            self._loop.remove_reader(self._open.pop(stream))
            return False
        self._bucket.take(len(data), boottime())
        if stream == "stderr":
            self._stderr += data[-STDERR_TAIL:]
            del self._stderr[:-STDERR_TAIL]
        (self._listener or self.between_jobs)(stream, data)
        return True
