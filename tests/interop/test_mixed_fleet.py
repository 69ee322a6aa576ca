"""A Node worker and sandq supervisors on one queue: every job ends once, whoever ran it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from harness import SupervisorProcess, eventually
from peer import PROCESSOR, Peer, PeerQueue
from redis import Redis

from sandq import Queue

Supervise = Callable[..., None]

HALF = 500  # of the jobs are added by each side

KILLS = 24
BETWEEN_KILLS = 80  # completed jobs
END_LIMIT_S = 60.0


def test_every_job_is_completed_exactly_once_by_somebody(node: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    supervise()
    node.work(concurrency=2)
    added = [job.id for job in queue.add_many([("echo", {"return": n}) for n in range(HALF)])]
    bulk = [{"name": "echo", "data": {"return": n}, "opts": {"attempts": 2, "priority": n % 3}} for n in range(HALF)]
    added += [job["id"] for job in node.call("addBulk", bulk)]
    ended = Counter(event["jobId"] for event in node.until("completed", count=len(added)))
    assert ended == dict.fromkeys(added, 1)
    assert queue.counts() == {**dict.fromkeys(queue.counts(), 0), "completed": len(added)}

    stored = node.call("getJobs", ["completed"], 0, len(added))
    assert {job["attemptsMade"] for job in stored} == {1}
    assert {job["processedBy"] for job in stored} == {"node", "sandq"}
    assert sorted(node.ask("handled")) == sorted(job["id"] for job in stored if job["processedBy"] == "node")


def test_a_job_whose_node_worker_vanished_is_recovered_by_sandq(
    node: PeerQueue, queue: Queue, supervise: Supervise
) -> None:
    job = queue.add("echo", {"return": "recovered"})
    # A worker that claims with a short lock and never renews.
    assert node.ask("claim", token="gone", options={"lockDuration": 300}) == job.id
    supervise(lock_s=1.0)
    assert node.result(job.id) == "recovered"
    assert node.until("stalled", job.id)
    assert queue.job(job).stalled_count == 1


class Fleet:
    """Two Node workers and two supervisors; whoever is killed is replaced by one of its kind."""

    def __init__(self, url: str, prefix: str, seed: int) -> None:
        self.url, self.prefix, self.rng = url, prefix, random.Random(seed)
        self.kills: Counter[type] = Counter()
        self.members = [self.node(), self.supervisor(), self.node(), self.supervisor()]

    def node(self) -> Peer:
        # Short locks, so that the jobs of the dead come back soon; and no job is given up for dying with its worker.
        options = {"concurrency": 2, "lockDuration": 1000, "stalledInterval": 500, "maxStalledCount": 50}
        worker = Peer("node", "driver.mjs", self.url, "bullmq")
        worker.ask("work", prefix=self.prefix, queue="render", options={**options, "drainDelay": 1})
        return worker

    def supervisor(self) -> SupervisorProcess:
        forgiving = {"max_crashes": 50, "max_interruptions": 50, "max_stalled_count": 50}
        served = {"processor": PROCESSOR, "concurrency": 2, **forgiving}
        return SupervisorProcess(self.url, self.prefix, settings={"name": "sandq"}, **served).__enter__()

    def kill_one(self) -> None:
        place = self.rng.randrange(len(self.members))
        victim = self.members[place]
        victim.kill()
        victim.close()
        self.kills[type(victim)] += 1
        self.members[place] = self.node() if isinstance(victim, Peer) else self.supervisor()

    def close(self) -> None:
        for member in self.members:
            member.close()


@pytest.fixture
def fleet(node: PeerQueue, redis_url: str) -> Iterator[Fleet]:
    members = Fleet(redis_url, node.prefix, seed=4)
    yield members
    members.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_no_job_is_lost_when_workers_of_both_kinds_are_killed(
    node: PeerQueue, queue: Queue, fleet: Fleet, redis_client: Redis
) -> None:
    node.call("getJobCounts")  # makes BullMQ's Queue, which writes its own bound of the stream
    redis_client.hset(queue.keys.key("meta"), "opts.maxLenEvents", 1_000_000)
    added = [job.id for job in queue.add_many([("echo", {"return": n, "ms": n % 20}) for n in range(1000)])]
    bulk = [{"name": "echo", "data": {"return": n, "ms": n % 20}, "opts": {"priority": n % 3}} for n in range(1000)]
    added += [job["id"] for job in node.call("addBulk", bulk)]
    for kill in range(KILLS):
        wanted = (kill + 1) * BETWEEN_KILLS
        eventually(lambda wanted=wanted: queue.counts()["completed"] >= wanted, f"{wanted} jobs are done", END_LIMIT_S)
        fleet.kill_one()
    eventually(lambda: queue.counts()["completed"] >= len(added), "every job is done", END_LIMIT_S)

    assert queue.counts() == {**dict.fromkeys(queue.counts(), 0), "completed": len(added)}
    ended = node.until("completed", count=len(added))
    assert Counter(event["jobId"] for event in ended) == dict.fromkeys(added, 1)
    values = {event["jobId"]: event["returnvalue"] for event in ended}
    assert [values[job_id] for job_id in added] == 2 * [*range(1000)]
    stored = node.call("getJobs", ["completed"], 0, len(added))
    assert {job["processedBy"] for job in stored} == {"node", "sandq"}
    # The kills did hit jobs that ran, on either side.
    assert any(job["attemptsStarted"] > 1 for job in stored)
    assert min(fleet.kills[Peer], fleet.kills[SupervisorProcess]) >= 5
