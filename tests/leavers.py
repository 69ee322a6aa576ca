"""Jobs that leave something behind in their child, and one that says in what state it found it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sandq import handler

STARTED = {"setups": 0, "imported_by": os.getpid(), "jobs": 0}
KEPT: list[Any] = []


def setup() -> None:
    STARTED["setups"] += 1


@handler("look")
def look(job: Any) -> dict[str, Any]:
    """The state that this job finds."""
    STARTED["jobs"] += 1
    umask = os.umask(0o022)
    os.umask(umask)
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "pgid": os.getpgid(0),
        "sid": os.getsid(0),
        "nice": os.nice(0),
        "oom": int(Path("/proc/self/oom_score_adj").read_text()),
        "mark": os.environ["SANDQ_CHILD"],
        "folder": str(Path.cwd()),
        "umask": umask,
        "environ": {name: os.environ.get(name) for name in ("PATH", "LEFT")},
        "term": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        "soft": callable(signal.getsignal(signal.SIGUSR2)),
        "fds": sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()),
        **STARTED,
    }


@handler("who")
def who(job: Any) -> dict[str, int]:
    return {"pid": os.getpid()}


@handler("changes")
def changes(job: Any) -> int:
    """Everything about its process that can be put back."""
    os.chdir("/")
    os.umask(0)
    os.environ["LEFT"] = "1"
    del os.environ["PATH"]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.alarm(1)
    return os.getpid()


@handler("leaves")
def leaves(job: Any) -> int:
    """What nobody can take back; the pid of a program that it started, else its own."""
    match job.data:
        case "thread":
            threading.Thread(target=time.sleep, args=[600], name="left", daemon=True).start()
        case "file":
            KEPT.append(os.fdopen(os.open("/etc/passwd", os.O_RDONLY)))
        case "all files":
            exhaust_files()
        case "program":
            return _program()
        case "daemon":
            return _daemon()
        case "daemon with every file":
            return _daemon(files=True)
        case "memory":
            KEPT.append(bytearray(64 << 20))
    return os.getpid()


def exhaust_files() -> None:
    """Opens files until there are no more to be had, which raises."""
    while True:
        KEPT.append(os.dup(0))


def _program() -> int:
    return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]).pid


def _daemon(*, files: bool = False) -> int:
    """As daemons do: fork, a session of its own, fork again; here without an exec, so it keeps its first environ.

    With `files` it keeps what its parent has open, the channel to the supervisor among them.
    """
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            if not files:
                os.closerange(0, 1024)
            time.sleep(600)
        os._exit(0)
    os.waitpid(pid, 0)
    daemon = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    return daemon


@handler("sleeps")
def sleeps(job: Any) -> int:
    time.sleep(job.data)
    return os.getpid()


@handler("dies-leaving-daemon")
def dies_leaving_daemon(job: Any) -> None:
    Path(job.data).write_text(str(_daemon()))
    if job.crashes == 0:
        os._exit(1)


@handler("waits")
def waits(job: Any) -> int:
    """Until the file named in its data is there."""
    while not Path(job.data).exists():
        time.sleep(0.005)
    return os.getpid()
