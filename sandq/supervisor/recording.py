"""What one attempt writes to stdout and stderr: told as lines, its end kept for the job's log, all of it in a file."""

from __future__ import annotations

from sandq.supervisor.output import Capture, Emit, Tail
from sandq.supervisor.sink import JobFile


class Recording:
    """Fed with what the attempt's child writes. Costs nothing for a job that writes nothing."""

    def __init__(self, emit: Emit, file: JobFile | None) -> None:
        self._emit = emit
        self._file = file
        self._capture: Capture | None = None
        self._tail: Tail | None = None

    def feed(self, stream: str, data: bytes) -> None:
        """Take what was just read from one stream."""
        if self._capture is None or self._tail is None:
            self._capture, self._tail = Capture(self._emit), Tail()
        self._capture.feed(stream, data)
        self._tail.feed(stream, data)
        if self._file is not None:
            self._file.feed(stream, data)

    def end(self) -> None:
        """The attempt is over."""
        if self._capture is not None:
            self._capture.end()
        if self._file is not None:
            self._file.close()

    def lines(self) -> list[str]:
        """The end of it, as it goes to the job's log; nothing the second time."""
        tail, self._tail = self._tail, None
        return [] if tail is None else tail.lines()
