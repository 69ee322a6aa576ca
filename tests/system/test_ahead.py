"""Short jobs are claimed one ahead per child: nobody notices, whatever happens to the jobs that are held."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import eventually, handlers, serving

from sandq.config import QueueSettings
from sandq.job import Job, JobState
from sandq.queue import Queue
from sandq.supervisor import ahead
from sandq.supervisor.claims import IDLE_WAIT_S
from sandq.supervisor.facts import Settled, Started, Stopping

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 300


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as queue:
        yield queue


def add_short(queue: Queue, count: int = MANY) -> list[Job]:
    return queue.add_many([("ok", n) for n in range(count)])


def notes(path: Path) -> list[tuple[float, float, str]]:
    """Begin and end of each run, as its handler noted them."""
    lines = (line.split() for line in path.read_text().splitlines())
    return sorted((float(begin), float(end), name) for begin, end, name in lines)


NOTING = """
import time
def note(job, path, s=0.0):
    begin = time.clock_gettime(time.CLOCK_BOOTTIME)
    time.sleep(s)
    end = time.clock_gettime(time.CLOCK_BOOTTIME)
    with open(path, "a") as out:
        out.write(f"{begin} {end} {job.name}\\n")
def process(job):
    note(job, job.data["path"])
    if job.name == "limits":
        job.rate_limit(job.data["s"])
    if job.name == "leaves":
        process.left = open(job.data["path"])
        raise ValueError("and leaves a file open")
"""


@pytest.fixture
def noting(tmp_path: Path) -> str:
    path = tmp_path / "noting.py"
    path.write_text(NOTING)
    return str(path)


def test_a_drain_in_the_middle_of_short_jobs_leaves_none_of_them_active(
    queue: Queue, redis_url: str, prefix: str
) -> None:
    add_short(queue, 2000)
    for nth in (1, 2, 3):
        with serving({"render": handlers(concurrency=2)}, redis_url, prefix) as served:
            served.facts.wait(Settled, nth=100 * nth)
        assert queue.counts()["active"] == 0
    assert [job.stalled_count for job in queue.jobs("waiting", limit=10) if job.stalled_count] == []
    assert sum(queue.counts().values()) == 2000


def test_a_job_held_ahead_goes_back_when_a_long_job_appears(
    queue: Queue, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    add_short(queue)
    long = queue.add("waits", {"until": str(tmp_path / "end")})
    behind = queue.add("ok", 7)
    with serving({"render": handlers(concurrency=1)}, redis_url, prefix) as served:
        served.facts.wait(Started, job_id=long.id)
        eventually(lambda: queue.state(behind) is JobState.WAITING, "the job behind the long one waits again")
        (tmp_path / "end").touch()
        assert queue.result(behind, timeout=10) == 7
    assert queue.job(behind).attempts_made == 1


def test_without_that_limit_it_stays_behind_the_long_job(
    queue: Queue, redis_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "HOLD_S", 60.0)
    add_short(queue)
    long = queue.add("waits", {"until": str(tmp_path / "end")})
    behind = queue.add("ok", 7)
    with serving({"render": handlers(concurrency=1)}, redis_url, prefix) as served:
        served.facts.wait(Started, job_id=long.id)
        eventually(lambda: queue.state(behind) is JobState.ACTIVE, "it is held")
        with pytest.raises(TimeoutError):
            eventually(lambda: queue.state(behind) is JobState.WAITING, "it waits again", 1.0)
        (tmp_path / "end").touch()


def test_no_more_jobs_run_than_the_queue_allows_all_workers_together(queue: Queue, redis_url: str, prefix: str) -> None:
    queue.set_global_concurrency(1)
    add_short(queue)
    with serving({"render": handlers(concurrency=2)}, redis_url, prefix) as served:
        served.facts.wait(Settled, nth=MANY)
    active = most = 0
    for event in queue.events(since="0", block="1ms"):
        active += {"active": 1, "completed": -1, "waiting": 0}.get(event.name, 0)
        most = max(most, active)
    assert most == 1


def test_children_that_are_replaced_do_not_let_more_jobs_run_than_may(
    queue: Queue, redis_url: str, prefix: str, tmp_path: Path, noting: str
) -> None:
    path = tmp_path / "notes"
    names = ["leaves" if n > 50 and n % 10 == 0 else "ok" for n in range(150)]
    queue.add_many([(name, {"path": str(path)}) for name in names])
    with serving({"render": QueueSettings(processor=noting, concurrency=1, spares=3)}, redis_url, prefix) as served:
        served.facts.wait(Settled, nth=len(names), limit_s=40)
    runs = notes(path)
    assert len(runs) == len(names)
    assert [pair for pair in pairwise(runs) if pair[1][0] < pair[0][1]] == []


def test_no_job_begins_after_a_handler_asked_for_a_rate_limit(
    queue: Queue, redis_url: str, prefix: str, tmp_path: Path, noting: str
) -> None:
    path = tmp_path / "notes"
    data = {"path": str(path), "s": 3.0}
    queue.add_many([*[("ok", data)] * MANY, *[("limits", data)] * 20])
    with serving({"render": QueueSettings(processor=noting, concurrency=1)}, redis_url, prefix) as served:
        served.facts.wait(Settled, outcome="Postponed")
        eventually(lambda: queue.counts()["active"] == 0, "what was held went back")
    assert [name for _, _, name in notes(path)].count("limits") == 1


def test_a_burst_is_over_when_its_last_job_is(queue: Queue, redis_url: str, prefix: str) -> None:
    """And not when the wait for another one is, some seconds later."""
    job = queue.add("sleeps", {"s": 0.3})
    with serving({"render": handlers(concurrency=2)}, redis_url, prefix, burst=True) as served:
        ended_at = served.facts.time_of(Settled, job_id=job.id)
        assert served.facts.time_of(Stopping) - ended_at < IDLE_WAIT_S / 2
