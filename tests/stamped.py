"""The jobs of the chaos run: each run of a job leaves a trace of when it lived, whatever ended it.

A line `fence boottime_ns mark` per 5 ms in a file per job: mark S at its start, E at its end, . between.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

STEP_S = 0.005


def process(job: Any) -> dict[str, Any]:
    trace = os.open(Path(job.data["folder"]) / job.id, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def stamp(mark: str) -> None:
        os.write(trace, f"{job.fence} {time.clock_gettime_ns(time.CLOCK_BOOTTIME)} {mark}\n".encode())

    stamp("S")
    try:
        for step in range(int(job.data["s"] / STEP_S)):
            time.sleep(STEP_S)
            stamp(".")
            if step % 20 == 0:
                job.progress(step)
        if job.data["kind"] == "crashes" and job.crashes == 0:
            os._exit(3)
        if job.data["kind"] == "fails" or (job.data["kind"] == "raises" and job.attempt == 1):
            raise ValueError(job.data["kind"])
        stamp("E")
        return {"fence": job.fence}
    finally:
        os.close(trace)
