"""Hundreds of jobs, one in five misbehaving: each bad one pays for itself, no good one notices, nothing is left."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from harness import SupervisorProcess, eventually, wait_gone
from redis import Redis

from sandq.job import Job
from sandq.queue import Queue
from sandq.supervisor.facts import ChildReady, Settled, Started
from sandq.supervisor.loop import SLOTS

if TYPE_CHECKING:
    from conftest import RedisServer

JOBS = 500
CHILDREN = 8
SPARES = 1
# Mixed likewise. After the first bad jobs a supervisor holds the same to some kilobytes, wave after wave; but floods of
# output need megabytes at once, and the allocator keeps of them what it pleases.
WARM_UP = 250
MAX_HEARTBEAT_P99_MS = 100
MAX_GROWTH = 1.10
MAX_CONNECTIONS = SLOTS + 2  # and one that renews, and one that waits for jobs


@dataclass(frozen=True)
class Kind:
    """A way to misbehave, and how its job ends: after `starts` starts, for a reason that holds `why`."""

    name: str
    data: Any
    outcome: str
    why: str
    starts: int = 1
    to: str = "failed"
    timeout: str | None = None


CRASH = "(crash 2, 1 allowed: failed)"
KINDS = {
    "raises": Kind("raises", {"what": "value"}, "Raised", "ValueError: no such page"),
    "exits 0": Kind("exits", 0, "Crashed", f"exit 0 before a result {CRASH}", 2),
    "exits 3": Kind("exits", 3, "Crashed", f"exit 3 before a result {CRASH}", 2),
    "segfaults": Kind("segfaults", None, "Crashed", "SIGSEGV", 2),
    "kills itself": Kind("kills-itself", None, "Crashed", "SIGKILL", 2),
    "garbage": Kind("garbage-everywhere", None, "Crashed", "do not start with the frame magic", 2),
    "NaN": Kind("returns", "nan", "Raised", "ValueError: Out of range float values"),
    "huge result": Kind("returns", "20 MiB", "TooLarge", "over the limit of 16777216"),
    "prints": Kind("prints-a-lot", None, "Completed", "", to="completed"),
    "spins": Kind("spin", {"s": 600}, "TimedOut", "timed out after 100ms", timeout="100ms"),
    "closes fds": Kind("closes-fds", None, "Crashed", "closed its channel", 2),
    "ignores stops": Kind("ignores-stops", None, "TimedOut", "soft stop did not work, killed", timeout="100ms"),
    "grandchild": Kind("leaves-grandchild", {"dies": True}, "Crashed", "exit 1 before a result", 2),
}


@dataclass(frozen=True)
class Holdings:
    """What a supervisor's process holds. Connections to Redis stand apart: it opens them when needed."""

    fds: int
    threads: int
    children: int

    @classmethod
    def of(cls, pid: int, client: Redis) -> Holdings:
        process = psutil.Process(pid)
        return cls(process.num_fds() - connections(client), process.num_threads(), len(process.children(True)))


def connections(client: Redis) -> int:
    """How many connections the server has, the two of this test not counted."""
    return len(client.client_list()) - 2


def arguments(kind: Kind, path: Path) -> dict[str, Any]:
    """What to add for a bad job; `path` is where its grandchild is noted, if it has one."""
    data = {**kind.data, "path": str(path)} if kind.name == "leaves-grandchild" else kind.data
    return {"name": kind.name, "data": data, "timeout": kind.timeout}


def mixture(chance: random.Random, count: int, noted: Path) -> list[tuple[Kind | None, dict[str, Any]]]:
    """The jobs in random order: None with a good job's arguments, or a kind with those of its job."""
    names = [*KINDS, *chance.choices(list(KINDS), k=count // 5 - len(KINDS))]
    jobs: list[tuple[Kind | None, dict[str, Any]]] = []
    for number, name in enumerate(names):
        jobs.append((KINDS[name], arguments(KINDS[name], noted.with_suffix(f".{number}"))))
    for _ in range(count - len(jobs)):
        jobs.append((None, {"name": "spin", "data": {"s": chance.uniform(0.005, 0.02)}}))
    chance.shuffle(jobs)
    return jobs


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_of_500_jobs_with_100_bad_ones_each_ends_as_it_must_and_the_supervisor_holds_no_more_than_before(
    server: RedisServer, prefix: str, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    asked = mixture(chance, JOBS, tmp_path / "run")
    ways = {"lock_s": 5, "concurrency": CHILDREN, "spares": SPARES, "max_crashes": 1}
    with (
        server.client() as client,
        Queue("render", redis=server.url, prefix=prefix) as queue,
        SupervisorProcess(server.url, prefix, **ways) as supervisor,
    ):
        supervisor.facts.wait(ChildReady, nth=CHILDREN + SPARES)
        warm_up = mixture(chance, WARM_UP, tmp_path / "warm-up")
        queue.add_many([asking for _, asking in warm_up])
        eventually(lambda: all_ended(queue, WARM_UP), "the warm-up has ended", limit_s=60)
        eventually(lambda: whole(queue), "every child that died was replaced")
        before, rss = Holdings.of(supervisor.pid, client), psutil.Process(supervisor.pid).memory_info().rss

        began = time.monotonic()
        jobs = queue.add_many([asking for _, asking in asked])
        eventually(lambda: all_ended(queue, WARM_UP + JOBS), "every job has ended", limit_s=60)
        took = time.monotonic() - began
        wrong = [line for (kind, _), job in zip(asked, jobs, strict=True) for line in odd(supervisor, kind, job)]
        assert not wrong, f"seed {seed}:\n" + "\n".join(wrong)

        for noted in tmp_path.iterdir():
            wait_gone(int(noted.read_text()), 2.0)
        eventually(lambda: Holdings.of(supervisor.pid, client) == before, f"it holds {before} again; seed {seed}")
        assert connections(client) <= MAX_CONNECTIONS
        grown = psutil.Process(supervisor.pid).memory_info().rss / rss
        supervisor.signal(signal.SIGTERM)
        assert supervisor.wait() == 0
    beat = supervisor.stats["heartbeat"]
    kinds = Counter(kind.name for kind, _ in asked if kind)
    print(f"{JOBS} jobs in {took:.1f} s; {before}; RSS {rss >> 20} MiB x {grown:.3f}; heartbeat {beat}; {dict(kinds)}")
    assert grown < MAX_GROWTH
    assert beat["p99_ms"] < MAX_HEARTBEAT_P99_MS
    assert supervisor.stats["locks_lost"] == 0


def all_ended(queue: Queue, count: int) -> bool:
    counts = queue.counts()
    return counts["completed"] + counts["failed"] == count


def whole(queue: Queue) -> bool:
    """Whether the supervisor says that all its children are there and idle."""
    [stats] = queue.supervisors()
    lane = stats["queues"]["render"]
    return (lane["ready"], lane["active"], lane["starting"]) == (CHILDREN + SPARES, 0, 0)


def odd(supervisor: SupervisorProcess, kind: Kind | None, job: Job) -> list[str]:
    """What went otherwise than it should for a job; a good one completes at its only start."""
    kind = kind or Kind("spin", None, "Completed", "", to="completed")
    last = supervisor.facts.wait(Settled, job_id=job.id, nth=kind.starts)
    starts = len(supervisor.facts.all(Started, job_id=job.id))
    fits = (last.outcome, last.to, last.word, starts) == (kind.outcome, kind.to, "ok", kind.starts)
    return [] if fits and kind.why in last.reason else [f"{kind}: {starts} starts, {last}"]
