"""Every job ends, and ends once, whichever process is killed under it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import SupervisorProcess, completions, handlers, serving, wait_gone

from sandq.clock import boottime
from sandq.config import Lease
from sandq.job import Job, JobState
from sandq.queue import Queue
from sandq.supervisor.facts import LauncherDied, Progressed, Recovered, Settled, Started, Stopping

LOCK_S = 1.0  # what `supervise` gives


def test_jobs_whose_child_was_killed_end_completed(
    queue: Queue, end: Path, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(concurrency=2)
    jobs = queue.add_many([("waits", {"until": str(end)})] * 4)
    for job in jobs[:2]:
        only.facts.wait(Progressed, job_id=job.id)
        os.kill(only.facts.wait(Started, job_id=job.id).pid, signal.SIGKILL)
        assert only.facts.wait(Settled, job_id=job.id).outcome == "Crashed"
    end.touch()
    all_completed(queue, jobs)


def test_case_60_jobs_whose_launcher_was_killed_end_completed_by_a_new_one(
    queue: Queue, end: Path, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(concurrency=2)
    jobs = queue.add_many([("waits", {"until": str(end)})] * 4)
    children = [only.facts.wait(Started, job_id=job.id).pid for job in jobs[:2]]
    launcher = only.launcher
    os.kill(launcher, signal.SIGKILL)
    assert only.facts.wait(LauncherDied).pid == launcher
    for job, child in zip(jobs, children, strict=False):
        assert only.facts.wait(Settled, job_id=job.id).outcome == "Interrupted"
        wait_gone(child, 1.0)
    end.touch()
    all_completed(queue, jobs)
    assert only.launcher != launcher


def all_completed(queue: Queue, jobs: list[Job]) -> None:
    """Each job ended as completed, once, with one attempt spent."""
    for job in jobs:
        assert queue.result(job, timeout=20) == "seen"
        ended = queue.job(job.id)
        assert (ended.attempts_made, ended.crashes, ended.interruptions) == (1, 0, 0)
        assert completions(queue, job) == 1


def orphan(queue: Queue, end: Path, first: SupervisorProcess, start: Callable[[], SupervisorProcess]) -> Any:
    """Kill a supervisor while it runs a job and another serves the queue; the job, the other, and when it happened."""
    job = queue.add("waits", {"until": str(end)})
    child = first.facts.wait(Started, job_id=job.id).pid
    second = start()
    launcher = first.launcher
    killed_at = boottime()
    first.kill()
    for pid in (child, launcher):
        wait_gone(pid, 1.0)
    return job, second, killed_at


def test_case_57_a_job_of_a_killed_supervisor_is_recovered_within_lock_plus_check_and_its_child_is_gone_in_a_second(
    queue: Queue, end: Path, supervise: Callable[..., SupervisorProcess]
) -> None:
    lease = Lease(2.0)
    first = supervise(lock_s=2.0)
    job, second, killed_at = orphan(queue, end, first, lambda: supervise(lock_s=2.0))
    took = second.facts.time_of(Started, job_id=job.id) - killed_at
    print(f"SIGKILL of the supervisor to the job's next start: {took:.2f} s (lock {lease.lock_s:g} s)")
    assert took <= lease.lock_s + lease.stalled_every_s + 1
    assert second.facts.wait(Recovered).job_ids == (job.id,)
    end.touch()
    assert queue.result(job, timeout=10) == "seen"
    assert completions(queue, job) == 1


def test_without_the_stalled_check_the_job_of_a_killed_supervisor_is_not_recovered(
    queue: Queue, end: Path, supervise: Callable[..., SupervisorProcess]
) -> None:
    first = supervise()
    job, second, _ = orphan(queue, end, first, lambda: supervise(mutation="no stalled check"))
    with pytest.raises(TimeoutError):
        second.facts.wait(Started, job_id=job.id, limit_s=LOCK_S + Lease(LOCK_S).stalled_every_s + 1)


@pytest.mark.slow
def test_all_jobs_end_when_redis_is_killed_and_started_again_with_what_it_had_on_disk(
    make_server: Callable[..., Any], prefix: str
) -> None:
    server = make_server("--appendonly", "yes", "--appendfsync", "always")
    with (
        Queue("render", redis=server.url, prefix=prefix) as queue,
        serving({"render": handlers(concurrency=2)}, server.url, prefix) as served,
    ):
        jobs = queue.add_many([("sleeps", {"s": 0.03})] * 20)
        served.facts.wait(Settled, nth=4)
        server.kill()
        server.start()
        assert [queue.result(job, timeout=20) for job in jobs] == ["slept"] * 20
        assert [completions(queue, job) for job in jobs] == [1] * 20


def test_case_64_a_drain_puts_running_jobs_back_without_spending_an_attempt(
    queue: Queue, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(concurrency=2, settings={"drain_timeout_s": 0.8})
    jobs = queue.add_many([("times-out", None), ("ignores-stops", None)])
    for job in jobs:
        only.facts.wait(Started, job_id=job.id)
    only.signal(signal.SIGTERM)
    assert only.wait() == 0
    for job in jobs:
        assert queue.state(job.id) is JobState.WAITING
        assert (queue.job(job.id).attempts_made, queue.job(job.id).interruptions) == (0, 1)


def test_in_a_drain_each_queue_stops_its_jobs_in_time_for_its_own_ladder(
    redis_url: str, prefix: str, end: Path
) -> None:
    """What is said when it begins is what jobs get: 0.5 s here, 39.6 s there, whatever runs in the other queue."""
    queues = {"slow": handlers(soft_stop_s=20, term_stop_s=19.5, concurrency=1), "quick": handlers(concurrency=1)}
    with (
        Queue("slow", redis=redis_url, prefix=prefix) as slow,
        Queue("quick", redis=redis_url, prefix=prefix) as quick,
        serving(queues, redis_url, prefix, drain_timeout_s=40) as served,
    ):
        stopped, finished = slow.add("waits", {"until": str(end)}), quick.add("waits", {"until": str(end)})
        for job, queue in ((stopped, "slow"), (finished, "quick")):
            served.facts.wait(Progressed, job_id=job.id, queue=queue)
        served.stop()
        told = served.facts.wait(Stopping).run_on_s
        assert told == {"slow": 0.5, "quick": pytest.approx(39.6)}
        said_at, ended_at = served.facts.time_of(Stopping), served.facts.time_of(Settled, queue="slow")
        assert served.facts.wait(Settled, queue="slow").outcome == "Interrupted"
        assert ended_at - said_at >= told["slow"]
        end.touch()
        assert served.facts.wait(Settled, queue="quick").outcome == "Completed"


def test_case_65_a_second_sigterm_stops_at_once_and_still_puts_jobs_back(
    queue: Queue, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(soft_stop_s=20, term_stop_s=20, settings={"drain_timeout_s": 60})
    job = queue.add("ignores-stops")
    only.facts.wait(Started, job_id=job.id)
    only.signal(signal.SIGTERM)
    only.signal(signal.SIGTERM)
    assert only.wait(limit_s=5.0) == 0
    assert queue.state(job.id) is JobState.WAITING
    assert queue.job(job.id).attempts_made == 0
