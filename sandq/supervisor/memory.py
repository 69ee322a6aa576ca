"""Memory of running jobs, measured over the whole tree of each child, so that we act before the kernel has to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psutil

from sandq.job import Job
from sandq.units import show_size
from sandq.verdict import Stop

POLL_S = 0.25  # a child may allocate some GiB in this time: leave headroom below the container's own limit


def limit_of(job: Job, queue_limit: int | None) -> int | None:
    """The job's own limit in bytes if it asks for less than the queue's, else the queue's."""
    own = job.limit("memory")
    if own is None:
        return queue_limit
    return int(own) if queue_limit is None else min(int(own), queue_limit)


def over(used: int, limit: int) -> Stop | None:
    """The reason to kill a job that uses this much, None while it stays within its limit."""
    if used <= limit:
        return None
    return Stop("memory", f"used {show_size(used)} of memory, {show_size(limit)} were allowed")


def tree_rss(pids: Iterable[int]) -> Mapping[int, int]:
    """Resident bytes of each process and all its descendants. One look at all processes, some 5 ms: use a thread."""
    parents: dict[int, int] = {}
    rss: dict[int, int] = {}
    for process in psutil.process_iter(["ppid", "memory_info"]):
        info = process.info["memory_info"]
        parents[process.pid] = process.info["ppid"]
        rss[process.pid] = info.rss if info is not None else 0
    totals = dict.fromkeys(pids, 0)
    for pid, size in rss.items():
        ancestor: int | None = pid
        while ancestor is not None and ancestor not in totals:
            ancestor = parents.get(ancestor)
        if ancestor is not None:
            totals[ancestor] += size
    return totals
