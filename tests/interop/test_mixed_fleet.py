"""A Node worker and sandq supervisors on one queue: every job ends once, whoever ran it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from node import NodeQueue

from sandq import Queue

Supervise = Callable[..., None]

HALF = 500  # of the jobs are added by each side


def test_every_job_is_completed_exactly_once_by_somebody(node: NodeQueue, queue: Queue, supervise: Supervise) -> None:
    supervise()
    node.work(concurrency=2)
    added = [job.id for job in queue.add_many([("echo", {"return": n}) for n in range(HALF)])]
    bulk = [{"name": "echo", "data": {"return": n}, "opts": {"attempts": 2, "priority": n % 3}} for n in range(HALF)]
    added += [job["id"] for job in node.call("addBulk", bulk)]
    ended = Counter(event["jobId"] for event in node.until("completed", count=len(added)))
    assert ended == dict.fromkeys(added, 1)
    assert queue.counts() == {**dict.fromkeys(queue.counts(), 0), "completed": len(added)}

    stored = node.call("getJobs", ["completed"], 0, len(added))
    assert {job["attemptsStarted"] for job in stored} == {1}
    assert {job["processedBy"] for job in stored} == {"node", "sandq"}
    assert sorted(node.ask("handled")) == sorted(job["id"] for job in stored if job["processedBy"] == "node")


def test_a_job_whose_node_worker_vanished_is_recovered_by_sandq(
    node: NodeQueue, queue: Queue, supervise: Supervise
) -> None:
    job = queue.add("echo", {"return": "recovered"})
    # A worker that claims with a short lock and never renews.
    assert node.ask("claim", token="gone", options={"lockDuration": 300}) == job.id
    supervise(lock_s=1.0)
    assert node.result(job.id) == "recovered"
    assert node.until("stalled", job.id)
    assert queue.job(job).stalled_count == 1
