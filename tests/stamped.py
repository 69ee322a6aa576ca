"""The jobs of the chaos run: each run of a job leaves a trace of when it lived, whatever ended it.

A line `fence boottime_ns mark pid` per step in a file per job: mark S at its start, E at its end, . between. What a job
prints says whose it is: `id fence number`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

SAYS = 4  # lines, on both streams in turn
QUIET = ("ends", "reports", "chatters", "overstays", "leaves a file", "leaves a thread")
CHATTER = 100  # lines for its log: more than a supervisor takes before it lets a child wait
KEPT: list[int] = []


def process(job: Any) -> dict[str, Any]:
    trace, pid = os.open(Path(job.data["folder"]) / job.id, os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.getpid()

    def stamp(mark: str) -> None:
        os.write(trace, f"{job.fence} {time.clock_gettime_ns(time.CLOCK_BOOTTIME)} {mark} {pid}\n".encode())

    stamp("S")
    try:
        for step in range(int(job.data["s"] / job.data["step_s"])):
            time.sleep(job.data["step_s"])
            stamp(".")
            if step % 20 == 19:
                job.progress(step)
        behave(job)
        stamp("E")
        return {"fence": job.fence}
    finally:
        os.close(trace)


def behave(job: Any) -> None:
    """As its kind says."""
    kind = job.data["kind"]
    if kind not in QUIET:
        for number in range(SAYS):
            print(job.id, job.fence, number, file=(sys.stdout, sys.stderr)[number % 2])
    match kind:
        case "crashes" if job.crashes == 0:
            os._exit(3)
        case "fails":
            raise ValueError(kind)
        case "raises" if job.attempt == 1:
            raise ValueError(kind)
        case "reports":
            job.progress({"fence": job.fence})
        case "chatters":
            for number in range(CHATTER):
                job.log(f"{job.id} {job.fence} {number}")
        case "leaves a file":
            KEPT.append(os.open("/dev/null", os.O_RDONLY))
        case "leaves a thread":
            threading.Thread(target=time.sleep, args=[600], daemon=True).start()
