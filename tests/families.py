"""Jobs that have children, or are some."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from sandq import handler


@handler("leaf")
def leaf(job: Any) -> Any:
    """Returns its data, or raises what that says."""
    if isinstance(job.data, dict) and "raise" in job.data:
        raise ValueError(job.data["raise"])
    return job.data


@handler("gathers")
def gathers(job: Any) -> dict[str, Any]:
    """What became of its children."""
    return {"values": by_id(job.child_values()), "failures": by_id(job.child_failures())}


@handler("looks")
def looks(job: Any) -> dict[str, Any]:
    """The same, once all have ended: it may be run before, for a child that failed."""
    job.wait_for_children()
    return gathers(job)


@handler("splits")
def splits(job: Any) -> int:
    """Adds two halves of itself until they are small, and sums up what they count."""
    n = job.data["n"]
    if n <= 1:
        return int(n)
    for side, half in enumerate((n // 2, n - n // 2)):
        # Its second run adds them again: the ids make that harmless.
        job.add("splits", {"n": half}, child=True, on_failure="fail", job_id=f"{job.id}-{side}")
    job.wait_for_children()
    return sum(job.child_values().values())


@handler("hasty")
def hasty(job: Any) -> str:
    """Adds a child and does not wait for it."""
    job.add("leaf", 1, child=True, delay=60)
    return "done"


@handler("tries")
def tries(job: Any) -> dict[str, Any]:
    """Its children fail, and it does without them."""
    if not job.child_failures():
        job.add("leaf", {"raise": "torn"}, child=True, on_failure="ignore")
        job.add("leaf", {"raise": "worn"}, child=True, on_failure="continue")
    job.wait_for_children()
    return gathers(job)


@handler("asks-wrongly")
def asks_wrongly(job: Any) -> list[str]:
    """What job.add answers to requests that make no sense."""
    told = []
    wrong_rules: tuple[dict[str, Any], ...] = ({"on_failure": "fail"}, {"child": True, "on_failure": "explode"})
    for asked in (*wrong_rules, {"queue": "secret"}, {"colour": "red"}, {"parent": "42"}):
        try:
            job.add("leaf", **asked)
        except Exception as error:
            told.append(str(error))
    return told


@handler("adds-to")
def adds_to(job: Any) -> str:
    """What job.add answers for the queue that its data names."""
    try:
        return str(job.add("leaf", 1, job.data))
    except Exception as error:
        return str(error)


@handler("limits")
def limits(job: Any) -> int:
    """Asks for a pause of its whole queue in its first run."""
    if not job.data["again"]:
        job.update_data({"again": True})
        job.rate_limit("50ms")
    return int(job.attempt)


@handler("later")
def later(job: Any) -> int:
    if not job.data["again"]:
        job.update_data({"again": True})
        job.retry_later("20ms")
    return int(job.attempt)


@handler("holds")
def holds(job: Any) -> int:
    """Until its file is there; the pid that it ran in."""
    while not Path(job.data["until"]).exists():
        time.sleep(0.005)
    return os.getpid()


def by_id(found: dict[str, Any]) -> dict[str, Any]:
    return {key.rpartition(":")[2]: value for key, value in found.items()}
