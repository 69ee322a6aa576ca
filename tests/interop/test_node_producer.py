"""Jobs that BullMQ adds and sandq runs: Node's QueueEvents hears of every ending, with its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from peer import PeerQueue

from sandq import JobState, Queue

Supervise = Callable[..., None]

VALUES: dict[str, Any] = {
    "object": {"pages": 3, "name": "été ☃ 🎉", "none": None, "nested": [{"a": [1, [2, {"b": "c"}]]}]},
    "text": 'quotes " and \\ and \n and \u2028',
    "null": None,
    "zero": 0,
    "fraction": 0.1,
    "large number": 9007199254740991,
    "true": True,
    "empty list": [],
    "empty object": {},
}


def test_return_values_reach_queue_events_unchanged(node: PeerQueue, supervise: Supervise) -> None:
    jobs = {what: node.add("echo", {"return": value}) for what, value in VALUES.items()}
    supervise()
    assert {what: node.result(job_id) for what, job_id in jobs.items()} == VALUES


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="standard"),
        pytest.param({"delay": 300}, id="delayed"),
        pytest.param({"priority": 7}, id="prioritized"),
        pytest.param({"lifo": True}, id="lifo"),
        pytest.param({"jobId": "page-één"}, id="custom id"),
        pytest.param({"delay": 200, "priority": 3, "jobId": "a:b:c"}, id="delayed, prioritized, id of three parts"),
    ],
)
def test_any_kind_of_added_job_is_completed(
    node: PeerQueue, queue: Queue, supervise: Supervise, options: dict[str, Any]
) -> None:
    supervise()
    job_id = node.add("echo", {"return": "done"}, **options)
    assert node.result(job_id) == "done"
    assert queue.state(job_id) is JobState.COMPLETED
    assert node.job(job_id, "getState") == "completed"


def test_jobs_run_in_the_order_bullmq_promises(node: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    low = node.add("echo", priority=2)
    high = node.add("echo", priority=1)
    first, second = node.add("echo"), node.add("echo")
    pushed_in = node.add("echo", lifo=True)
    supervise(concurrency=1)
    ended = [event["jobId"] for event in node.until("completed", count=5)]
    assert ended == [pushed_in, first, second, high, low]


def test_attempts_and_backoff_are_spent_before_the_job_fails(node: PeerQueue, supervise: Supervise) -> None:
    job_id = node.add("echo", {"raise": "no such page"}, attempts=3, backoff={"type": "exponential", "delay": 50})
    supervise()
    assert node.reason(job_id) == "ValueError: no such page"
    assert node.until("retries-exhausted", job_id)[0]["attemptsMade"] == "3"
    assert [event["jobId"] for event in node.until("delayed", job_id, count=2)] == [job_id] * 2
    stored = node.call("getJob", job_id)
    assert (stored["attemptsMade"], stored["attemptsStarted"], len(stored["stacktrace"])) == (3, 3, 3)
    assert "Traceback" in stored["stacktrace"][0]


def test_a_job_that_succeeds_at_its_second_attempt_is_completed(node: PeerQueue, supervise: Supervise) -> None:
    job_id = node.add("echo", {"raise_until": 1, "return": "late"}, attempts=2, backoff=50)
    supervise()
    assert node.result(job_id) == "late"
    assert node.call("getJob", job_id)["attemptsMade"] == 2


def test_progress_and_logs_are_seen_by_node(node: PeerQueue, supervise: Supervise) -> None:
    job_id = node.add("echo", {"progress": {"pct": 50, "what": "é"}, "log": "half way"})
    supervise()
    node.until("completed", job_id)
    assert node.until("progress", job_id)[0]["data"] == {"pct": 50, "what": "é"}
    assert node.call("getJobLogs", job_id)["logs"] == ["half way"]
    assert node.call("getJob", job_id)["progress"] == {"pct": 50, "what": "é"}


def test_node_lists_the_supervisor_as_a_worker(node: PeerQueue, supervise: Supervise) -> None:
    supervise()
    job_id = node.add("echo", delay=100)  # so that it waits for a marker, on the connection that carries its name
    node.result(job_id)
    assert node.call("getJob", job_id)["processedBy"] == "sandq"
    (worker,) = node.call("getWorkers")
    assert worker["rawname"].endswith(":w:sandq")


def test_the_last_add_while_a_job_is_active_runs_once_after_it(
    node: PeerQueue, queue: Queue, supervise: Supervise
) -> None:
    dedup = {"deduplication": {"id": "report", "keepLastIfActive": True}}
    first = node.add("echo", {"return": "first"}, **dedup)
    assert node.ask("claim", token="t") == first
    node.add("echo", {"return": "second"}, **dedup)
    node.add("echo", {"return": "third"}, **dedup)
    node.ask("putBack", job=first)
    # The stored job belongs to whoever finishes the first one: here it is sandq.
    supervise()
    ended = node.until("completed", count=2)
    assert [event["returnvalue"] for event in ended] == ["first", "third"]
    assert queue.counts() | {"completed": 2} == queue.counts()
    assert node.call("getDeduplicationJobId", "report") is None


def test_retention_of_the_jobs_own_options_is_honoured(node: PeerQueue, supervise: Supervise) -> None:
    jobs = [node.add("echo", {"return": n}, removeOnComplete={"count": 2}) for n in range(4)]
    gone = node.add("echo", {"return": "gone"}, removeOnComplete=True)
    broken = node.add("echo", {"raise": "x"}, removeOnFail=True)
    supervise(concurrency=1)
    assert node.result(gone) == "gone"
    node.reason(broken)
    assert [job["id"] for job in node.call("getCompleted")] == [jobs[3], jobs[2]]
    assert node.call("getJob", gone) is None
    assert node.call("getJobCounts")["failed"] == 0


def test_history_of_a_queue_made_by_bullmq_is_not_trimmed(node: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    old = node.add("echo", timestamp=1)
    supervise()
    node.result(old)
    node.result(node.add("echo"))
    assert queue.counts()["completed"] == 2
