"""What jobs can do to whoever runs them: one handler for each kind of behaviour, by job name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sandq import SoftTimeout, UnrecoverableError, handler

FOREVER_S = 600.0
STATE: dict[str, int] = {"setups": 0, "runs": 0}


def setup() -> None:
    STATE["setups"] += 1


def teardown() -> None:
    if path := os.environ.get("TEARDOWN_NOTE"):
        with Path(path).open("a") as note:
            note.write(f"{os.getpid()}\n")


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def burn(seconds: float) -> float:
    """Pure Python for so long; the wall seconds it really took."""
    started, n = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        n += 1
    return time.monotonic() - started


# -- well-behaved ------------------------------------------------------------------------------------------------------


@handler("ok")
def ok(job: Any) -> Any:
    return job.data


@handler("who")
def who(job: Any) -> dict[str, Any]:
    STATE["runs"] += 1
    return {"pid": os.getpid(), "attempt": job.attempt, "crashes": job.crashes, "fence": job.fence, **STATE}


@handler("async")
async def asynchronous(job: Any) -> dict[str, Any]:
    import asyncio

    await asyncio.sleep(0)
    return {"awaited": job.data}


@handler("waits")
def waits(job: Any) -> str:
    """Until the file named in its data is there; says when it has begun."""
    job.progress("waits")
    while not Path(job.data["until"]).exists():
        time.sleep(0.005)
    return "seen"


@handler("sleeps")
def sleeps(job: Any) -> str:
    time.sleep(job.data["s"])
    return "slept"


@handler("killed-once")
def killed_once(job: Any) -> int:
    """Says that it has begun and burns until somebody kills it; the second time it returns."""
    if job.crashes == 0:
        job.progress("burns")
        burn(FOREVER_S)
    return int(job.crashes)


@handler("stamps")
def stamps(job: Any) -> int:
    """Says every millisecond that it lives: `pid boottime_ns` lines in data.path, until data.until is there."""
    out = os.open(job.data["path"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while not Path(job.data["until"]).exists():
        os.write(out, f"{os.getpid()} {boottime_ns()}\n".encode())
        time.sleep(0.001)
    os.close(out)
    return os.getpid()


@handler("talks")
def talks(job: Any) -> Any:
    job.log("first line")
    job.progress({"percent": 50})
    job.update_data({"step": 2})
    job.log("second line \ud800")
    return job.data


@handler("adds")
def adds(job: Any) -> str:
    return str(job.add("ok", {"from": job.id}, job.data.get("queue"), priority=3))


@handler("gathers")
def gathers(job: Any) -> Any:
    """Adds children in its first run, waits for them, and returns what they returned."""
    if not job.data["asked"]:
        job.update_data({"asked": True})
        for n in range(2):
            job.add("ok", n, child=True)
    job.wait_for_children()
    return sorted(job.child_values().values())


@handler("later")
def later(job: Any) -> Any:
    """Postpones itself once."""
    if not job.data["again"]:
        job.update_data({"again": True})
        job.retry_later(0.05)
    return {"attempt": job.attempt}


# -- heavy -------------------------------------------------------------------------------------------------------------


@handler("spin")
def spin(job: Any) -> float:
    return burn(job.data.get("s", FOREVER_S))


@handler("burns-aloud")
def burns_aloud(job: Any) -> None:
    job.log("burning")
    burn(FOREVER_S)


@handler("surroundings")
def surroundings(job: Any) -> dict[str, Any]:
    """What a child finds itself in."""
    try:
        typed = input()
    except EOFError:
        typed = "nothing"
    return {
        "nice": os.nice(0),
        "oom": int(Path("/proc/self/oom_score_adj").read_text()),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "group": os.getpgrp() == os.getpid(),
        "session": os.getsid(0),
        "parent": os.getppid(),
        "environ": sorted(os.environ),
        "stdin": typed,
        "redis": sorted(name for name in sys.modules if name == "redis"),
        "argv": sys.argv,
    }


@handler("gil-held")
def gil_held(job: Any) -> float:
    """One C call that keeps the GIL for at least data.s seconds; the wall seconds of that call."""
    used = time.process_time()  # not the wall clock: on a busy machine that is somebody else's time, too
    _timed(2_000_000)
    used = time.process_time() - used
    return _timed(int(2_000_000 * 1.3 * job.data["s"] / used))


def _timed(count: int) -> float:
    started = time.monotonic()
    max(range(count))
    return time.monotonic() - started


# -- failing -----------------------------------------------------------------------------------------------------------


class Rude(BaseException):
    """Not an Exception."""


class BrokenError(Exception):
    """Neither its text can be had nor a copy of it."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __reduce__(self) -> Any:
        raise RuntimeError("no copy")


@handler("raises")
def raises(job: Any) -> None:
    errors = {"value": ValueError("no such page"), "rude": Rude("out"), "broken": BrokenError(), "final": _final()}
    raise errors[job.data["what"]]


def _final() -> UnrecoverableError:
    return UnrecoverableError("not ever")


@handler("exits-softly")
def exits_softly(job: Any) -> None:
    sys.exit(0)


@handler("asks")
def asks(job: Any) -> str:
    return input()


@handler("recurses")
def recurses(job: Any) -> Any:
    return recurses(job)


@handler("returns")
def returns(job: Any) -> Any:
    circle: list[Any] = []
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    values = {
        "nan": lambda: float("nan"),
        "set": lambda: {1, 2},
        "circle": lambda: circle,
        "deep": lambda: deep,
        "surrogate": lambda: "a\ud800b",
        "20 MiB": lambda: "x" * (20 << 20),
        "100 MB": lambda: "x" * 100_000_000,
        "2 MiB": lambda: "x" * (2 << 20),
    }
    return values[job.data]()


@handler("times-out")
def times_out(job: Any) -> str:
    """Burns, and cleans up when it is asked to stop."""
    try:
        burn(FOREVER_S)
    except SoftTimeout as stop:
        if job.data == "returns":
            return f"cleaned up: {stop}"
        raise
    return "never"


@handler("sleeps-on")
def sleeps_on(job: Any) -> None:
    """Sleeps, and sleeps again when it is asked to stop."""
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(FOREVER_S)


@handler("ignores-stops")
def ignores_stops(job: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            burn(FOREVER_S)
        except BaseException:
            job.log("not now")


# -- dying -------------------------------------------------------------------------------------------------------------


@handler("exits")
def exits(job: Any) -> None:
    os.write(2, b"last words\n")
    os._exit(job.data)


@handler("segfaults")
def segfaults(job: Any) -> None:
    ctypes.string_at(1)


@handler("kills-itself")
def kills_itself(job: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@handler("stops-itself")
def stops_itself(job: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@handler("leaves-grandchild")
def leaves_grandchild(job: Any) -> None:
    """A program in a session of its own, which outlives whoever does not look for it; then it dies, or waits."""
    program = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(job.data["path"]).write_text(str(program.pid))
    if job.data.get("dies"):
        os._exit(1)
    burn(FOREVER_S)


# -- lying -------------------------------------------------------------------------------------------------------------


@handler("prints-a-lot")
def prints_a_lot(job: Any) -> str:
    line = "x" * 99
    for _ in range(100_000):
        print(line)
    print("\x1b[2Jend")
    return "printed"


@handler("garbage-everywhere")
def garbage_everywhere(job: Any) -> None:
    """Into every file that it has: its channel is one of them."""
    for fd in range(256):
        with contextlib.suppress(OSError):
            os.write(fd, b"not a frame at all" * 100)
    burn(FOREVER_S)


@handler("claims-4-gib")
def claims_4_gib(job: Any) -> None:
    from sandq.protocol import HEADER, VERSION, Kind

    for fd in _sockets():
        os.write(fd, HEADER.pack(b"SQ", VERSION, Kind.DONE, 2, 0xFFFFFFFF, 0))
    burn(FOREVER_S)


@handler("lies-about-json")
def lies_about_json(job: Any) -> None:
    _answer(job, b'{"open":')
    burn(FOREVER_S)


@handler("sends-100-mb")
def sends_100_mb(job: Any) -> None:
    """As its result, past the code that would have measured it."""
    _answer(job, b'"' + b"x" * 100_000_000 + b'"')
    burn(FOREVER_S)


@handler("answers-and-exits")
def answers_and_exits(job: Any) -> None:
    """Gone before the supervisor can have read its answer."""
    _answer(job, b'"done"')
    os._exit(0)


@handler("closes-fds")
def closes_fds(job: Any) -> None:
    os.closerange(3, 4096)
    burn(FOREVER_S)


@handler("stale-frames")
def stale_frames(job: Any) -> str:
    """Speaks about an attempt that is not its own."""
    _answer(job, b'"stale"', other=1)
    return "own"


@handler("begins-another")
def begins_another(job: Any) -> str:
    """Says that another job has begun, in the middle of its own."""
    from sandq.protocol import Frame, Kind, encode

    for fd in _sockets():
        os.write(fd, encode(Frame(Kind.BEGUN, job._nonce ^ 1)))
    burn(FOREVER_S)
    return "never"


@handler("marks")
def marks(job: Any) -> int:
    Path(job.data["path"]).touch()
    return os.getpid()


def _answer(job: Any, result_json: bytes, *, other: int = 0) -> None:
    """Say that the job, or another, has ended with a result; as the child's own code would, but behind its back."""
    from sandq.protocol import Frame, Kind, encode

    for fd in _sockets():
        rest = memoryview(encode(Frame(Kind.DONE, job._nonce ^ other, {}, result_json)))
        while rest:
            rest = rest[os.write(fd, rest) :]


def _sockets() -> list[int]:
    """Every stream socket of this process: one of them is the channel."""
    links = Path("/proc/self/fd")
    fds = [int(entry.name) for entry in links.iterdir() if entry.is_symlink() and "socket:" in str(entry.readlink())]
    with contextlib.ExitStack() as copies:
        ends = {fd: copies.enter_context(socket.socket(fileno=os.dup(fd))) for fd in fds}
        return [fd for fd, end in ends.items() if end.type is socket.SOCK_STREAM]
