"""Jobs that sandq adds: a Node Worker completes them, Node's getters read them, and operations on them agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from peer import Peer, PeerQueue

from sandq import Flow, FlowJob, JobFailed, JobState, Queue
from sandq.store.newjob import Parent

Supervise = Callable[..., None]

STATES = ("wait", "active", "delayed", "prioritized", "waiting-children", "completed", "failed")


def test_a_node_worker_completes_jobs_of_every_kind(node: PeerQueue, queue: Queue) -> None:
    node.work()
    value = {"pages": 3, "name": "été ☃ 🎉", "none": None, "nested": [{"a": []}]}
    jobs = [
        queue.add("echo", {"return": value}),
        queue.add("echo", {"return": value}, delay=0.2),
        queue.add("echo", {"return": value}, priority=3),
        queue.add("echo", {"return": value}, lifo=True, job_id="page-één"),
        queue.add("echo", {"return": value}, timeout="1m", memory="1GiB", keep_logs=5, stacktrace_limit=3),
    ]
    assert [queue.result(job, timeout=10) for job in jobs] == [value] * len(jobs)
    assert node.call("getJob", "page-één")["attemptsMade"] == 1


def test_attempts_and_backoff_asked_of_sandq_are_spent_by_a_node_worker(node: PeerQueue, queue: Queue) -> None:
    node.work()
    job = queue.add("echo", {"raise": "no such page"}, attempts=3, backoff="exponential:50ms")
    with pytest.raises(JobFailed, match="no such page"):
        queue.result(job, timeout=10)
    stored = queue.job(job)
    assert (stored.attempts_made, stored.attempts_started, len(stored.stacktrace)) == (3, 3, 3)


def test_node_reads_every_state_of_jobs_made_by_sandq(node: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    supervise()
    queue.result(queue.add("echo", {"return": {"é": 1}}), timeout=10)
    with pytest.raises(JobFailed):
        queue.result(queue.add("echo", {"raise": "half a surrogate: \ud83d"}), timeout=10)
    queue.pause()
    queue.add("echo", {"a": "waiting"})
    queue.add("echo", {"a": "delayed"}, delay="1h", backoff="fixed:5s", attempts=2)
    queue.add("echo", {"a": "prioritized"}, priority=2_097_151, remove_on_complete={"count": 3, "age": 60})
    counts = node.call("getJobCounts")
    assert {state: n for state, n in counts.items() if n} == {
        "completed": 1, "failed": 1, "waiting": 1, "delayed": 1, "prioritized": 1,
    }  # fmt: skip
    assert len(node.call("getJobs", list(STATES))) == 5
    mine = {job.id: job for state in JobState if state is not JobState.UNKNOWN for job in queue.jobs(state)}
    theirs = {job["id"]: job for job in node.call("getJobs", list(STATES))}
    assert {job_id: (job.name, job.data, job.timestamp, job.priority) for job_id, job in mine.items()} == {
        job_id: (job["name"], job["data"], job["timestamp"], job["priority"]) for job_id, job in theirs.items()
    }


def test_a_job_that_crashed_its_child_is_readable_by_node(node: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    supervise(max_crashes=0)
    job = queue.add("exit", {"status": 3})
    with pytest.raises(JobFailed, match="crashed"):
        queue.result(job, timeout=10)
    assert node.reason(job.id).startswith("crashed: ")
    assert node.call("getFailed")[0]["failedReason"] == node.reason(job.id)


def test_a_job_retried_by_sandq_is_run_again_by_node(node: PeerQueue, queue: Queue) -> None:
    node.work()
    job = queue.add("echo", {"raise": "torn"})
    node.reason(job.id)
    node.job(job.id, "updateData", {"return": "mended"})
    queue.retry(job)
    assert node.result(job.id) == "mended"
    assert [event["prev"] for event in node.until("waiting", job.id, count=2) if "prev" in event] == ["failed"]


def test_a_delayed_job_promoted_by_sandq_is_run_by_a_waiting_node_worker(node: PeerQueue, queue: Queue) -> None:
    node.work()
    job = queue.add("echo", {"return": 1}, delay="1h")
    assert node.job(job.id, "getState") == "delayed"
    queue.promote(job)
    assert node.result(job.id) == 1


def test_node_neither_sees_nor_counts_a_removed_job(node: PeerQueue, queue: Queue) -> None:
    job = queue.add("echo")
    queue.remove(job)
    assert node.until("removed", job.id)[0]["prev"] == "wait"
    assert node.call("getJob", job.id) is None
    assert node.call("getJobCountByTypes", *STATES) == 0


def test_a_parent_removed_by_sandq_takes_its_children_from_node(node: PeerQueue, queue: Queue) -> None:
    tree = {"name": "parent", "queueName": node.queue, "opts": {"jobId": "p"}}
    node.ask("flow", flow={**tree, "children": [{"name": "echo", "queueName": node.queue, "opts": {"jobId": "a"}}]})
    queue.remove("p")
    assert {event["jobId"] for event in node.until("removed", count=2)} == {"p", "a"}
    assert node.call("getJobs", list(STATES)) == []


def test_a_pause_by_sandq_holds_node_and_a_pause_by_node_holds_sandq(
    node: PeerQueue, queue: Queue, supervise: Supervise, why_no_claim: Callable[[], str]
) -> None:
    queue.pause()
    assert node.call("isPaused") is True
    job = queue.add("echo", {"return": 1})
    assert node.ask("claim", token="t") is None
    queue.resume()
    assert node.call("isPaused") is False
    assert node.ask("claim", token="t") == job.id
    node.ask("complete", job=job.id, value=None, next=False)

    node.call("pause")
    assert queue.paused()
    later = queue.add("echo", {"return": 2})
    assert why_no_claim() == "paused"
    supervise()
    node.call("resume")
    assert node.result(later.id) == 2


def test_operations_by_node_on_a_job_of_sandq(node: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    supervise()
    job = queue.add("echo", {"raise": "torn"}, delay="1h")
    node.job(job.id, "updateData", {"return": "new"})
    node.job(job.id, "changeDelay", 10)
    assert node.result(job.id) == "new"
    node.job(job.id, "retry", "completed")
    assert len(node.until("completed", job.id, count=2)) == 2


def test_a_child_added_by_sandq_releases_its_parent_on_node(node: PeerQueue, queue: Queue) -> None:
    tree = {"name": "parent", "queueName": node.queue, "data": {}, "opts": {"jobId": "p"}}
    node.ask("flow", flow={**tree, "children": [{"name": "echo", "queueName": node.queue, "opts": {"jobId": "a"}}]})
    queue.add("echo", {"return": 2}, parent=Parent(id="p", queue=f"{node.prefix}:{node.queue}"))
    node.work()
    assert sorted(node.result("p").values(), key=str) == [2, None]


def test_deduplication_by_sandq_and_by_node_is_one(node: PeerQueue, queue: Queue) -> None:
    job = queue.add("echo", deduplication="report")
    assert node.add("echo", deduplication={"id": "report"}) == job.id
    assert node.until("deduplicated", job.id)[0]["deduplicationId"] == "report"
    assert queue.add("echo", deduplication="report").id == job.id
    node.work()
    node.until("completed", job.id)
    assert queue.add("echo", deduplication="report").id != job.id


def test_a_global_concurrency_set_by_node_holds_for_sandq(node: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    node.call("setGlobalConcurrency", 1)
    jobs: list[Any] = queue.add_many([("echo", {"return": n}) for n in range(10)])
    supervise(concurrency=2)
    supervise(concurrency=2)
    node.until("completed", count=len(jobs))
    running = most = 0
    for event in queue.events(since="0", block=0.01):
        running += (event.name == "active") - (event.name == "completed")
        most = max(most, running)
    assert most == 1


def test_a_node_worker_runs_a_flow_of_sandq_to_its_end(
    node_process: Peer, node: PeerQueue, queue: Queue, redis_url: str
) -> None:
    fails = FlowJob("echo", {"raise": "torn"}, job_id="bad", on_failure="ignore")
    middle = FlowJob(
        "parent", queue="leaves", job_id="middle", children=[FlowJob("echo", {"return": 1}, job_id="deep")]
    )
    with Flow(redis=redis_url, prefix=node.prefix) as flow:
        flow.add(FlowJob("parent", queue=node.queue, job_id="p", children=[middle, fails]))
    node.work()
    PeerQueue(node_process, node.prefix, "leaves").work()
    leaves = f"{node.prefix}:leaves"
    assert queue.result("p", timeout=10) == {f"{leaves}:middle": {f"{leaves}:deep": 1}}
    assert node.job("p", "getIgnoredChildrenFailures") == {queue.keys.key("bad"): "torn"}
    assert queue.tree("p").job.id == "p"


@pytest.mark.parametrize(
    "timing", [{"every": 0.2}, {"cron": "* * * * * *", "tz": "Europe/Berlin"}], ids=["every", "cron"]
)
def test_a_node_worker_goes_on_with_a_schedule_of_sandq(node: PeerQueue, queue: Queue, timing: dict[str, Any]) -> None:
    queue.upsert_scheduler("often", limit=2, name="echo", data={"return": 1}, **timing)
    node.work()
    assert len({event["jobId"] for event in node.until("completed", count=2)}) == 2
    assert node.call("getJobScheduler", "often")["iterationCount"] == 2
    assert queue.remove_scheduler("often")
    assert node.call("getJobSchedulers") == []
