"""What a child writes to stdout and stderr: lines for whoever listens, and its tail for the job. Untrusted, bounded.

Nothing here reads a pipe. Whatever a job writes, a listener gets at most LINES_PER_S lines of it, the job's log the
last TAIL bytes, and the loop spends no more on a flood than on counting its lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from sandq.clock import boottime
from sandq.protocol import RECORD_END, RECORD_MARK

MAX_LINE = 8 << 10
LINES_PER_S = 100
TAIL = 64 << 10  # bytes of a job's output that are kept, tags included
TAIL_LINES = 2000
MAX_LEVEL = 20
LEFT_OUT = "(what it wrote before is left out)"
# Control characters could rewrite a terminal or forge a log line.
_VISIBLE = dict.fromkeys((*range(9), *range(10, 32), 127), " ")

Emit = Callable[[str, str, str], None]  # (stream, line, level); the level of a `logging` record, else ""


class Bucket:
    """How much may be read: `rate` bytes a second, and as many at once after a quiet second."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._left = float(rate)
        self._at = 0.0

    def take(self, size: int, now: float) -> float:
        """Note what was read at this moment; how many seconds to wait before reading more."""
        self._left = min(self._rate, self._left + (now - self._at) * self._rate) - size
        self._at = now
        return max(0.0, -self._left / self._rate)


class Capture:
    """Cuts one child's output into lines; `emit` gets at most LINES_PER_S, and a count of the rest."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._partial = {"stdout": b"", "stderr": b""}
        self._second = 0
        self._lines = 0
        self._dropped = 0

    def feed(self, stream: str, data: bytes) -> None:
        """Take what was just read from one stream."""
        whole, newline, rest = (self._partial[stream] + data).rpartition(b"\n")
        if newline:
            self._take(stream, whole)
        if len(rest) > MAX_LINE:
            self._take(stream, rest)
            rest = b""
        self._partial[stream] = rest

    def end(self) -> None:
        """The job is over: what is left without a newline is its last line."""
        for stream, rest in self._partial.items():
            if rest:
                self._take(stream, rest)
            self._partial[stream] = b""
        self._report_dropped("stdout")

    def _take(self, stream: str, whole: bytes) -> None:
        """Tell the lines that this second still allows; the rest is counted, not even split."""
        second = int(boottime())
        if second != self._second:
            self._report_dropped(stream)
            self._second, self._lines = second, 0
        allowed = LINES_PER_S - self._lines
        lines = whole.split(b"\n", allowed)
        if len(lines) > allowed:
            self._dropped += lines.pop().count(b"\n") + 1
        self._lines += len(lines)
        for line in lines:
            level, text = _read(line)
            self._emit(stream, text, level)

    def _report_dropped(self, stream: str) -> None:
        if self._dropped:
            self._emit(stream, f"({self._dropped} more lines were dropped)", "")
            self._dropped = 0


class Tail:
    """The last bytes of both streams, in the order in which they came; split into lines only when somebody asks."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[str, bytes]] = deque()
        self._size = 0
        self._cut = False

    def feed(self, stream: str, data: bytes) -> None:
        """Take what was just read from one stream."""
        self._cut = self._cut or len(data) > TAIL
        self._chunks.append((stream, data[-TAIL:]))
        self._size += len(self._chunks[-1][1])
        while self._size - len(self._chunks[0][1]) >= TAIL:
            self._size -= len(self._chunks.popleft()[1])
            self._cut = True

    def lines(self) -> list[str]:
        """`[stderr] text`, oldest first, TAIL bytes and TAIL_LINES at most; `[WARNING] text` for a logging record."""
        kept: deque[str] = deque()
        room, cut = TAIL, self._cut
        for stream, raw in reversed(list(self._raw_lines())):
            level, text = _read(raw)
            line = f"[{level or stream}] {text}"
            room -= len(line.encode())
            if room < 0 or len(kept) == TAIL_LINES:
                cut = True
                break
            kept.appendleft(line)
        return [LEFT_OUT, *kept] if cut and kept else list(kept)

    def _raw_lines(self) -> Iterator[tuple[str, bytes]]:
        partial = {"stdout": b"", "stderr": b""}
        for stream, data in self._chunks:
            *lines, partial[stream] = (partial[stream] + data).split(b"\n")
            yield from ((stream, line) for line in lines)
        yield from ((stream, rest) for stream, rest in partial.items() if rest)


def _read(raw: bytes) -> tuple[str, str]:
    """The level, if this line is a logging record's, and the text as it may be shown."""
    level, end, text = raw[1:].partition(RECORD_END) if raw.startswith(RECORD_MARK) else (b"", b"", raw)
    if end and len(level) <= MAX_LEVEL:
        return _show(level), _show(text)
    return "", _show(raw)


def _show(raw: bytes) -> str:
    return raw[:MAX_LINE].decode("utf-8", "replace").rstrip("\r").translate(_VISIBLE)
