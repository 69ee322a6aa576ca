"""Jobs that take more than their share: memory (slowly enough to be watched), processes, or their parent's life."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sandq import handler

STEP = 4 << 20
PAUSE_S = 0.02
GENERATIONS = 6
BOMB = 2 ** (GENERATIONS + 1) - 1  # processes: each but the youngest has two children
EATER = f"import time\nkept = []\nwhile True: kept.append(b'\\1' * {STEP}); time.sleep({PAUSE_S})"


@handler("ok")
def ok(job: Any) -> Any:
    return job.data


@handler("recursion-bomb")
def recursion_bomb(job: Any) -> None:
    """Every call keeps some memory and calls the next."""
    sys.setrecursionlimit(1 << 30)
    deeper(0)


def deeper(depth: int) -> int:
    kept = b"\1" * STEP
    time.sleep(PAUSE_S)
    return deeper(depth + 1) + len(kept)


@handler("eats-in-a-program")
def eats_in_a_program(job: Any) -> None:
    """Not the child itself grows but a program that it started."""
    subprocess.run([sys.executable, "-S", "-c", EATER], check=True)


@handler("fork-bomb")
def fork_bomb(job: Any) -> None:
    """Each process notes itself in the FIFO, has two children, burns; in a session of its own if asked."""
    held = os.open(job.data["held"], os.O_WRONLY)
    generation = 0
    while generation < GENERATIONS and not (os.fork() and os.fork()):
        generation += 1
        if job.data["sessions"]:
            os.setsid()
    os.write(held, b".")
    while True:
        with contextlib.suppress(BaseException):  # the soft stop, too
            while True:
                pass


@handler("kills-parent")
def kills_parent(job: Any) -> str:
    killed = Path(job.data)
    if killed.exists():
        return "once is enough"
    killed.touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
    return "never"


@handler("waits")
def waits(job: Any) -> str:
    """Until the file named in its data is there."""
    while not Path(job.data["until"]).exists():
        time.sleep(0.005)
    return "seen"
