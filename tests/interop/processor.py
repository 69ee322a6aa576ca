"""What sandq's children run in these tests: the job's data says what its handler does."""

import os
import time

from sandq import handler


def process(job):
    data = job.data if isinstance(job.data, dict) else {}
    if "ms" in data:
        time.sleep(data["ms"] / 1000)
    if "progress" in data:
        job.progress(data["progress"])
    if "log" in data:
        job.log(data["log"])
    if "raise" in data:
        raise ValueError(data["raise"])
    if data.get("raise_until", 0) >= job.attempt:
        raise ValueError(f"attempt {job.attempt}")
    return data.get("return")


@handler("parent")
def parent(job):
    return job.child_values()


@handler("iteration")
def iteration(job):
    return {"id": job.id, "data": job.data}


@handler("exit")
def leave(job):
    os._exit(job.data["status"])
