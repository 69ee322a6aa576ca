"""What children write to stdout and stderr, as lines for whoever listens: untrusted, capped and rate-limited."""

from __future__ import annotations

from collections.abc import Callable

from sandq.clock import boottime

MAX_LINE = 8 << 10
LINES_PER_S = 100
# Control characters could rewrite a terminal or forge a log line.
_VISIBLE = dict.fromkeys((*range(9), *range(10, 32), 127), " ")


class Capture:
    """Cuts one child's output into lines; `emit(stream, line)` gets at most LINES_PER_S, and a count of the rest."""

    def __init__(self, emit: Callable[[str, str], None]) -> None:
        self._emit = emit
        self._partial = {"stdout": b"", "stderr": b""}
        self._second = 0
        self._lines = 0
        self._dropped = 0

    def feed(self, stream: str, data: bytes) -> None:
        """Take what was just read from one stream."""
        *lines, rest = (self._partial[stream] + data).split(b"\n")
        if len(rest) > MAX_LINE:
            lines, rest = [*lines, rest], b""
        self._partial[stream] = rest
        for line in lines:
            self._line(stream, line)

    def end(self) -> None:
        """The job is over: what is left without a newline is its last line."""
        for stream, rest in self._partial.items():
            if rest:
                self._line(stream, rest)
            self._partial[stream] = b""
        self._report_dropped("stdout")

    def _line(self, stream: str, raw: bytes) -> None:
        second = int(boottime())
        if second != self._second:
            self._report_dropped(stream)
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines > LINES_PER_S:
            self._dropped += 1
            return
        self._emit(stream, raw[:MAX_LINE].decode("utf-8", "replace").rstrip("\r").translate(_VISIBLE))

    def _report_dropped(self, stream: str) -> None:
        if self._dropped:
            self._emit(stream, f"({self._dropped} more lines were dropped)")
            self._dropped = 0
