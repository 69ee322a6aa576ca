"""Job schedulers made by BullMQ go on when only sandq runs their jobs: each iteration once, and the right number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peer import PeerQueue

from sandq import Queue

Supervise = Callable[..., None]


def iterations(node: PeerQueue, scheduler: str, count: int) -> list[int]:
    """Wait for so many completed iterations; their times, which are the last parts of their ids."""
    ended = [event["jobId"] for event in node.until("completed", count=count)]
    assert len(ended) == len(set(ended)) == count
    assert all(job_id.startswith(f"repeat:{scheduler}:") for job_id in ended)
    return sorted(int(job_id.rsplit(":", 1)[1]) for job_id in ended)


def schedule(node: PeerQueue, scheduler: str, repeat: dict[str, Any], **template: Any) -> None:
    node.call("upsertJobScheduler", scheduler, repeat, {"name": "iteration", "data": {"n": 1}, **template})


def test_an_interval_runs_as_often_as_its_limit_says(node: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    schedule(node, "often", {"every": 500, "limit": 3})
    supervise()
    first, second, third = iterations(node, "often", 3)
    assert (second - first, third - second) == (500, 500)
    assert queue.counts() == {**dict.fromkeys(queue.counts(), 0), "completed": 3}
    assert node.call("getJobScheduler", "often")["iterationCount"] == 3
    # The template's data reaches every iteration.
    assert {event["returnvalue"]["data"]["n"] for event in node.until("completed", count=3)} == {1}


def test_a_cron_pattern_runs_as_often_as_its_limit_says(node: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    schedule(node, "ticks", {"pattern": "* * * * * *", "tz": "Europe/Berlin", "limit": 2})
    supervise()
    first, second = iterations(node, "ticks", 2)
    assert (first % 1000, second - first) == (0, 1000)
    assert queue.counts() == {**dict.fromkeys(queue.counts(), 0), "completed": 2}


def test_two_supervisors_and_a_node_worker_make_each_iteration_once(
    node: PeerQueue, queue: Queue, supervise: Supervise
) -> None:
    schedule(node, "shared", {"every": 100, "limit": 12})
    supervise(concurrency=1)
    supervise(concurrency=1)
    node.work()
    iterations(node, "shared", 12)
    assert queue.counts() == {**dict.fromkeys(queue.counts(), 0), "completed": 12}


def test_a_failing_iteration_does_not_end_the_schedule(node: PeerQueue, supervise: Supervise) -> None:
    node.call("upsertJobScheduler", "bad", {"every": 200, "limit": 3}, {"name": "echo", "data": {"raise": "no"}})
    supervise()
    failed = node.until("failed", count=3)
    assert len({event["jobId"] for event in failed}) == 3


def test_a_scheduler_that_node_removes_makes_no_further_iteration(
    node: PeerQueue, queue: Queue, supervise: Supervise
) -> None:
    schedule(node, "gone", {"every": 60000})
    supervise()
    node.until("completed")
    assert queue.counts()["delayed"] == 1
    assert node.call("removeJobScheduler", "gone") is True
    assert queue.counts()["delayed"] == 0
