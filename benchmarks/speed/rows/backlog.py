"""Backlog: what a claim, a settlement and an add cost while so many jobs wait, and what each waiting job takes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import TypeVar

from benchmarks.speed.bench import Bench, Values
from benchmarks.speed.peers import sandq as sandq_peer
from benchmarks.speed.rows.row import Case, Measure
from benchmarks.speed.spec import Jobs
from benchmarks.speed.system import System
from sandq.config import Lease, QueueSettings
from sandq.decide import decide
from sandq.outcome import Completed
from sandq.queue import Queue
from sandq.store import work
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys

R = TypeVar("R")

CALLS = 100  # of each kind in one round
NODE_MOST = 100_000  # enough to compare bytes: BullMQ's own adds are not what this row is about


class Backlog:
    """One call at a time over one connection, on the same jobs that wait in the queue."""

    name = "backlog"
    about = "us per claim, settlement and add, and Redis bytes per waiting job, by jobs that wait"
    systems = ("sandq", "bullmq-node")

    def cases(self, bench: Bench, systems: Sequence[System]) -> list[Case]:
        """One round of fills; within it, as many rounds of calls at each size as the run repeats."""
        sizes = sorted(bench.options.sizes)
        subjects: dict[str, Measure] = {}
        for system in systems:
            if system.name == "sandq":
                subjects[system.name] = partial(_calls, sizes=sizes)
            elif system.name.startswith("bullmq"):
                subjects[system.name] = partial(_bytes, system=system, sizes=[n for n in sizes if n <= NODE_MOST])
        return [Case(name="waiting jobs", subjects=subjects, rounds=1)]


def _calls(bench: Bench, *, sizes: Sequence[int]) -> Values:
    system = sandq_peer.SYSTEM
    keys = QueueKeys(bench.new_name(system))
    return _bytes(bench, system=system, sizes=sizes, queue=keys.queue, at_size=partial(_rounds, bench, keys))


def _bytes(
    bench: Bench,
    *,
    system: System,
    sizes: Sequence[int],
    queue: str | None = None,
    at_size: Callable[[], dict[str, float]] = dict,
) -> Values:
    """Fill the queue from size to size with the system's own client."""
    spec = system.spec(bench.url, queue or bench.new_name(system))
    empty, filled, shown = _used(bench), 0, {}
    for size in sizes:
        bench.add(system, spec, Jobs(kind="noop", count=size - filled))
        filled = size
        shown[str(size)] = {"bytes": round((_used(bench) - empty) / size, 1), **at_size()}
    return {"sizes": shown}


def _used(bench: Bench) -> int:
    return int(bench.client.info("memory")["used_memory"])


def _rounds(bench: Bench, keys: QueueKeys) -> dict[str, float]:
    """Medians of all calls of a kind. Each round puts back as many jobs as it takes."""
    took: dict[str, list[float]] = {"claim_us": [], "settle_us": [], "add_us": []}
    store = SyncExecutor(bench.url)
    try:
        with Queue(keys.queue, redis=bench.url) as queue:
            for number in range(bench.options.repeat):
                _round(store, keys, queue, took, number)
    finally:
        store.close()
    return {name: round(median(each) * 1e6, 1) for name, each in took.items()}


def _round(store: SyncExecutor, keys: QueueKeys, queue: Queue, took: dict[str, list[float]], number: int) -> None:
    settings, rng = QueueSettings(), random.Random(0)
    taken: list[work.Taken] = []
    for turn in range(CALLS):
        wanted = work.NextClaim(tokens=(f"speed:{number}:{turn}:{time.monotonic_ns()}",), lease=Lease())
        claim = work.claim(keys, wanted)
        taken += _timed(took["claim_us"], partial(store.run, claim)).jobs
    for each in taken:
        settlement = decide(each.job, Completed(b"true"), settings, rng)
        assert settlement is not None  # only a lost lock has none
        settle = work.settle(keys, each.job.id, each.token, settlement, settings)
        _timed(took["settle_us"], partial(store.run, settle))
    for _ in range(CALLS):
        _timed(took["add_us"], lambda: queue.add("noop", {"kind": "noop"}))


def _timed(took: list[float], call: Callable[[], R]) -> R:
    started = time.perf_counter()
    answer = call()
    took.append(time.perf_counter() - started)
    return answer
