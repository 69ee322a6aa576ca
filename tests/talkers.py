"""What jobs can write, and by which way: one handler for each, by job name."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from sandq import SoftTimeout, handler

LIBC = ctypes.CDLL(None)
print("loading talkers")


def teardown() -> None:
    print("leaving")


@handler("ok")
def ok(job: Any) -> Any:
    return job.data


@handler("every-way")
def every_way(job: Any) -> None:
    print("from python")
    LIBC.puts(b"from c")
    LIBC.fflush(None)
    subprocess.run(["/bin/sh", "-c", "echo from a program; echo and its errors >&2"], check=True)
    os.write(1, b"no newline")


@handler("raises")
def raises(job: Any) -> None:
    print("about to fail")
    sys.stderr.write("an error without newline")
    raise ValueError("no")


@handler("floods")
def floods(job: Any) -> str:
    """Writes data.mb megabytes, then the last line."""
    block = (b"x" * 99 + b"\n") * 10_000
    for _ in range(job.data["mb"]):
        os.write(1, block) if len(block) < 4096 else _write_all(block)
    print("the last line")
    if job.data.get("dies"):
        os._exit(3)
    return "written"


def _write_all(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]


@handler("lines")
def lines(job: Any) -> None:
    """So many lines of 1000 bytes."""
    for n in range(job.data):
        print(f"{n:0999d}")


@handler("logs")
def logs(job: Any) -> None:
    log = logging.getLogger("talker")
    log.debug("not asked for")
    log.info("going on with %s", job.id)
    thread = threading.Thread(target=log.warning, args=("from a thread",))
    thread.start()
    thread.join()
    process = multiprocessing.get_context("fork").Process(target=log.error, args=("from a fork",))
    process.start()
    process.join()
    try:
        int("inner")
    except ValueError:
        log.exception("it failed")
    job.log("kept in redis", level="WARNING")


@handler("configures")
def configures(job: Any) -> None:
    logging.basicConfig(format="mine %(message)s", level=logging.DEBUG)
    logging.getLogger("talker").debug("in my own way")


@handler("reads-all")
def reads_all(job: Any) -> dict[str, str]:
    """Everything that this process can see of itself and of its launcher."""
    seen = {}
    for who in ("self", str(os.getppid())):
        for what in ("environ", "cmdline"):
            seen[f"{who}/{what}"] = Path(f"/proc/{who}/{what}").read_bytes().decode("utf-8", "replace")
    for fd in sorted(Path("/proc/self/fd").iterdir(), key=lambda path: int(path.name)):
        try:
            seen[f"fd {fd.name}"] = str(fd.readlink())
        except FileNotFoundError:  # the one that listed the folder
            continue
    seen["argv"] = repr(sys.argv)
    seen["os.environ"] = repr(dict(os.environ))
    return seen


@handler("tries")
def tries(job: Any) -> dict[str, str]:
    """What the kernel says to too many files and to a file that is too long."""
    said = {}
    with tempfile.TemporaryFile() as file:
        try:
            file.truncate(job.data["size"])
            said["size"] = "ok"
        except OSError as error:
            said["size"] = error.strerror
    opened: list[int] = []
    try:
        while len(opened) < job.data["files"]:
            opened.append(os.open("/dev/null", os.O_RDONLY))
        said["files"] = "ok"
    except OSError as error:
        said["files"] = error.strerror
    for fd in opened:
        os.close(fd)
    status = Path("/proc/self/status").read_text()
    said["NoNewPrivs"] = status.partition("NoNewPrivs:")[2].split()[0]
    return said


@handler("leaves-a-file")
def leaves_a_file(job: Any) -> list[str]:
    """What is in the temporary folder, and the folder itself."""
    there = sorted(path.name for path in Path(tempfile.gettempdir()).iterdir())
    Path(tempfile.gettempdir(), f"of-{job.id}").write_text("x")
    return [tempfile.gettempdir(), *there]


@handler("burns")
def burns(job: Any) -> float:
    """CPU seconds, so many."""
    started = time.process_time()
    while time.process_time() - started < job.data["s"]:
        pass
    return time.process_time() - started


@handler("stops-softly")
def stops_softly(job: Any) -> str:
    print(f"pid {os.getpid()}")
    try:
        while True:
            time.sleep(0.01)
    except SoftTimeout:
        return "stopped softly"


@handler("eats")
def eats(job: Any) -> int:
    """Takes memory and uses it until somebody has had enough."""
    eaten = []
    while sum(map(len, eaten)) < job.data["mb"] << 20:
        eaten.append(b"\1" * (8 << 20))
    return len(eaten)


@handler("ignores-all")
def ignores_all(job: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("here")
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue


@handler("kills-itself")
def kills_itself(job: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
