"""Other clients beside npm's BullMQ 6: PyPI's, and npm's BullMQ 5. Each produces, works and listens."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from node import why_not
from peer import Peer, PeerQueue

from sandq import Flow, FlowJob, JobFailed, Queue

Supervise = Callable[..., None]

CLIENTS = ("PyPI", pytest.param("npm 5", marks=pytest.mark.slow))
VALUE = {"pages": 3, "name": "été ☃ 🎉", "none": None, "nested": [{"a": [1.5, True]}]}


def command(client: str, url: str) -> tuple[str, ...]:
    """What runs the client; skips where it is not installed."""
    if client == "PyPI":
        if importlib.util.find_spec("bullmq") is None:
            pytest.skip("PyPI's bullmq is not installed")
        return sys.executable, "driver.py", url
    if (why := why_not()) is not None:
        pytest.skip(why)
    return "node", "driver.mjs", url, "bullmq5"


@pytest.fixture(scope="module", params=CLIENTS)
def process(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Peer]:
    """A process that runs one of the clients."""
    started = Peer(*command(request.param, redis_url))
    yield started
    started.close()


@pytest.fixture
def peer(process: Peer, prefix: str, queue_name: str) -> Iterator[PeerQueue]:
    """The test's queue as that client sees it; the test fails if the client reported an error meanwhile."""
    yield PeerQueue(process, prefix, queue_name)
    assert process.ask("close", prefix=prefix) == []


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="standard"),
        pytest.param({"delay": 300}, id="delayed"),
        pytest.param({"priority": 7}, id="prioritized"),
        pytest.param({"lifo": True}, id="lifo"),
        pytest.param({"jobId": "page-één"}, id="custom id"),
    ],
)
def test_sandq_runs_what_the_client_adds_and_the_client_hears_the_value(
    peer: PeerQueue, supervise: Supervise, options: dict[str, Any]
) -> None:
    job_id = peer.add("echo", {"return": VALUE, "progress": {"pct": 5}}, **options)
    supervise()
    assert peer.result(job_id) == VALUE
    assert peer.until("progress", job_id)[0]["data"] == {"pct": 5}
    assert job_id == options.get("jobId", job_id)


def test_sandq_spends_the_attempts_that_the_client_gave(peer: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    supervise()
    backoff = {"type": "fixed", "delay": 50}
    mended = peer.add("echo", {"raise_until": 2, "return": "third time"}, attempts=3, backoff=backoff)
    lost = peer.add("echo", {"raise": "torn"}, attempts=2, backoff=backoff)
    assert peer.result(mended) == "third time"
    assert peer.reason(lost) == "ValueError: torn"
    assert [queue.job(job_id).attempts_made for job_id in (mended, lost)] == [3, 2]


def test_sandq_takes_prioritized_jobs_in_the_order_the_client_gave(peer: PeerQueue, supervise: Supervise) -> None:
    jobs = {priority: peer.add("echo", priority=priority) for priority in (5, 1, 3)}
    jobs[0] = peer.add("echo")
    supervise(concurrency=1)
    taken = [event["jobId"] for event in peer.until("active", count=4)]
    assert taken == [jobs[priority] for priority in (0, 1, 3, 5)]


def test_sandq_runs_a_flow_of_the_client(peer: PeerQueue, supervise: Supervise) -> None:
    leaves = [
        {"name": "leaf", "queueName": "leaves", "data": {"return": n}, "opts": {"jobId": f"leaf-{n}"}} for n in (1, 2)
    ]
    tree = {"name": "parent", "queueName": peer.queue, "data": {}, "opts": {"jobId": "p"}, "children": leaves}
    assert peer.ask("flow", flow=tree) == "p"
    supervise("render", "leaves")
    assert peer.result("p") == {f"{peer.prefix}:leaves:leaf-{n}": n for n in (1, 2)}


def test_a_failed_child_fails_the_clients_parent(peer: PeerQueue, supervise: Supervise) -> None:
    leaf = {"name": "leaf", "queueName": peer.queue, "data": {"raise": "torn"}}
    leaf["opts"] = {"jobId": "bad", "failParentOnFailure": True}
    tree = {"name": "parent", "queueName": peer.queue, "data": {}, "opts": {"jobId": "p"}, "children": [leaf]}
    peer.ask("flow", flow=tree)
    supervise()
    assert peer.reason("p") == f"child {peer.prefix}:{peer.queue}:bad failed"


def test_sandq_goes_on_with_a_schedule_of_the_client(peer: PeerQueue, supervise: Supervise) -> None:
    template = {"name": "echo", "data": {"return": 1}}
    peer.ask("schedule", scheduler="often", repeat={"every": 200, "limit": 3}, template=template)
    supervise()
    assert len({event["jobId"] for event in peer.until("completed", count=3)}) == 3


def test_the_clients_deduplication_and_sandqs_are_one(peer: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    first = peer.add("echo", deduplication={"id": "report"})
    assert queue.add("echo", deduplication="report").id == first
    assert peer.add("echo", deduplication={"id": "report"}) == first
    supervise()
    peer.until("completed", first)
    assert queue.add("echo", deduplication="report").id != first


@pytest.mark.parametrize("resumes", ["the client", "sandq"])
def test_a_pause_by_the_client_holds_sandq_until_either_resumes(
    peer: PeerQueue, queue: Queue, supervise: Supervise, why_no_claim: Callable[[], str], resumes: str
) -> None:
    jobs = [peer.add("echo"), peer.add("echo", priority=2)]
    peer.call("pause")  # BullMQ 5 moves the waiting jobs to a list of their own, and adds to that
    jobs.append(peer.add("echo"))
    if resumes == "sandq":  # a resume by BullMQ 5 loses what was added to the real list meanwhile, be it by BullMQ 6
        jobs.append(queue.add("echo").id)
    assert queue.paused()
    assert why_no_claim() == "paused"
    supervise()
    if resumes == "sandq":
        queue.resume()
    else:
        peer.call("resume")
    assert {event["jobId"] for event in peer.until("completed", count=len(jobs))} == set(jobs)


def test_a_pause_by_sandq_holds_the_client(peer: PeerQueue, queue: Queue) -> None:
    queue.pause()
    assert peer.call("isPaused") is True
    job = queue.add("echo", {"return": 1})
    peer.work()
    queue.resume()
    assert queue.result(job, timeout=10) == 1


def test_the_client_runs_what_sandq_adds(peer: PeerQueue, queue: Queue) -> None:
    peer.work()
    jobs = [
        queue.add("echo", {"return": VALUE, "progress": 50}),
        queue.add("echo", {"return": VALUE}, delay=0.2),
        queue.add("echo", {"return": VALUE}, priority=3),
        queue.add("echo", {"return": VALUE}, lifo=True, job_id="page-één"),
        queue.add("echo", {"return": VALUE}, timeout="1m", memory="1GiB", keep_logs=5, stacktrace_limit=3),
    ]
    assert [queue.result(job, timeout=10) for job in jobs] == [VALUE] * len(jobs)
    assert [event["data"] for event in peer.until("progress")] == [50]


def test_the_client_spends_the_attempts_that_sandq_gave(peer: PeerQueue, queue: Queue) -> None:
    peer.work()
    job = queue.add("echo", {"raise": "no such page"}, attempts=3, backoff="exponential:50ms")
    with pytest.raises(JobFailed, match="no such page"):
        queue.result(job, timeout=10)
    stored = queue.job(job)
    assert (stored.attempts_made, stored.attempts_started, len(stored.stacktrace)) == (3, 3, 3)


def test_the_client_runs_a_flow_of_sandq(peer: PeerQueue, process: Peer, queue: Queue, redis_url: str) -> None:
    leaves = [FlowJob("leaf", {"return": n}, queue="leaves", job_id=f"leaf-{n}", priority=n) for n in (1, 2)]
    with Flow(redis=redis_url, prefix=peer.prefix) as flow:
        flow.add(FlowJob("parent", queue=peer.queue, job_id="p", children=leaves))
    peer.work()
    PeerQueue(process, peer.prefix, "leaves").work()
    assert queue.result("p", timeout=10) == {f"{peer.prefix}:leaves:leaf-{n}": n for n in (1, 2)}


def test_the_client_goes_on_with_a_schedule_of_sandq(peer: PeerQueue, queue: Queue) -> None:
    queue.upsert_scheduler("often", every=0.2, limit=3, name="echo", data={"return": 1})
    peer.work()
    ended = peer.until("completed", count=3)
    assert len({event["jobId"] for event in ended}) == 3
    assert {event["returnvalue"] for event in ended} == {1}


def test_the_client_and_sandq_work_on_one_queue(peer: PeerQueue, queue: Queue, supervise: Supervise) -> None:
    supervise()
    peer.work(concurrency=2)
    jobs = [job.id for job in queue.add_many([("echo", {"return": n}) for n in range(200)])]
    jobs += [peer.add("echo", {"return": n}) for n in range(20)]
    ended = [event["jobId"] for event in peer.until("completed", count=len(jobs))]
    assert sorted(ended) == sorted(jobs)
    ran = peer.ask("handled")
    assert 0 < len(ran) < len(jobs)
    assert {queue.job(job_id).processed_by == "sandq" for job_id in ran} == {False}
