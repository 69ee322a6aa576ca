"""Where BullMQ is known to go wrong, or lets others go wrong, sandq does the right thing and BullMQ can read it.

What each known trap is about, and where else it is tested: events that are no JSON (test_poison.py); markers, scores,
counters, deduplication, policies of children (test_dumps.py and its recipes); everything that happens inside one
script, such as locks, limits, drained and cleaned schedules (tests/store).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from harness import eventually, serving
from peer import PROCESSOR, PeerQueue
from redis import Redis

from sandq import Flow, FlowJob, JobFailed, JobState, Queue
from sandq.config import QueueSettings

Supervise = Callable[..., None]

LATER_MS = 3_600_000


def finish(queue: Queue, job_id: str) -> None:
    """Wait for the end of a job, whatever it is."""
    with contextlib.suppress(JobFailed):
        queue.result(job_id, timeout=10)


@pytest.mark.parametrize("broken", ["not json", "", '{"open":'])
def test_a_job_whose_data_is_no_json_fails_instead_of_staying_active_for_ever(
    node: PeerQueue, queue: Queue, supervise: Supervise, redis_client: Redis, broken: str
) -> None:
    job = queue.add("echo")
    redis_client.hset(queue.keys.key(job.id), "data", broken)
    supervise(max_crashes=0)
    assert "JSON" in node.reason(job.id)
    assert queue.state(job.id) is JobState.FAILED
    queue.remove(job.id)
    assert node.result(queue.add("echo", {"return": 1}).id) == 1


def test_options_that_redis_encoded_anew_mean_the_same(
    node: PeerQueue, queue: Queue, supervise: Supervise, redis_client: Redis
) -> None:
    job = queue.add("echo", {"raise": "torn"})
    # Key order, `{}` for `[]`, and numbers as Lua writes them.
    opts = '{"unknown":{},"backoff":{"delay":1e1,"type":"fixed"},"removeOnFail":{"count":5.0},"kl":2.0,"attempts":2.0}'
    redis_client.hset(queue.keys.key(job.id), "opts", opts)
    supervise()
    assert node.reason(job.id) == "ValueError: torn"
    assert (queue.job(job.id).attempts_made, len(node.until("delayed", job.id))) == (2, 1)


@pytest.mark.parametrize("value", ["1", "0", "", "false"])
def test_a_queue_is_paused_by_the_presence_of_a_field_whatever_it_holds(
    queue: Queue, redis_client: Redis, why_no_claim: Callable[[], str], value: str
) -> None:
    queue.add("echo")
    redis_client.hset(queue.keys.key("meta"), "paused", value)
    assert queue.paused()
    assert why_no_claim() == "paused"


ENDINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "completed": ("echo", {"return": 1}, {}),
    "failed": ("echo", {"raise": "torn"}, {}),
    "timed out": ("echo", {"ms": 30_000}, {"timeout": 0.2}),
    "crashed": ("exit", {"status": 3}, {}),
    "cancelled": ("echo", {}, {"delay": "1h"}),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_however_a_job_ends_its_deduplication_window_closes(
    node: PeerQueue, queue: Queue, supervise: Supervise, ending: str
) -> None:
    supervise(max_crashes=0, soft_stop_s=0.1, term_stop_s=0.1)
    name, data, options = ENDINGS[ending]
    job = queue.add(name, data, deduplication="once", **options)
    if ending == "cancelled":
        queue.cancel(job)
    finish(queue, job.id)
    assert node.call("getDeduplicationJobId", "once") is None
    assert node.add("echo", deduplication={"id": "once"}) != job.id


@pytest.mark.parametrize("ending", ENDINGS)
def test_however_a_child_ends_its_parent_learns_of_it(
    node: PeerQueue, queue: Queue, supervise: Supervise, ending: str
) -> None:
    name, data, options = ENDINGS[ending]
    child = {"name": name, "queueName": node.queue, "data": data}
    child["opts"] = {"jobId": "c", "ignoreDependencyOnFailure": True, "delay": LATER_MS if "delay" in options else 0}
    tree = {"name": "parent", "queueName": node.queue, "data": {}, "opts": {"jobId": "p"}, "children": [child]}
    node.ask("flow", flow=tree)
    supervise(max_crashes=0, soft_stop_s=0.1, term_stop_s=0.1, timeout_s=options.get("timeout"))
    if ending == "cancelled":
        queue.cancel("c")
    key = queue.keys.key("c")
    assert node.result("p") == ({key: 1} if ending == "completed" else {})
    assert list(node.job("p", "getIgnoredChildrenFailures")) == ([] if ending == "completed" else [key])


def test_a_supervisor_leaves_the_bound_of_the_events_that_a_team_has_set(
    node: PeerQueue, queue: Queue, supervise: Supervise, redis_client: Redis
) -> None:
    redis_client.hset(queue.keys.key("meta"), "opts.maxLenEvents", 77)
    supervise()
    queue.result(queue.add("echo", {"return": 1}), timeout=10)
    queue.pause()
    queue.resume()
    assert redis_client.hget(queue.keys.key("meta"), "opts.maxLenEvents") == b"77"


def test_jobs_of_two_queues_that_one_supervisor_serves_never_hold_their_locks_under_one_token(
    queue: Queue, supervise: Supervise, redis_client: Redis, redis_url: str
) -> None:
    supervise("render", "leaves", concurrency=1)
    with Queue("leaves", redis=redis_url, prefix=queue.keys.prefix) as leaves:
        for n in range(2):
            jobs = [(asked, asked.add("echo", {"ms": 400, "return": n})) for asked in (queue, leaves)]
            for asked, job in jobs:
                eventually(lambda asked=asked, job=job: asked.state(job) is not JobState.WAITING, f"{job.id} began")
            tokens = [redis_client.get(asked.keys.lock(job.id)) for asked, job in jobs]
            assert len(set(tokens)) == 2, "the end of one job would end the renewals of the other"
            for asked, job in jobs:
                asked.result(job, timeout=10)


def test_a_worker_is_listed_although_redis_takes_no_spaces_in_names(node: PeerQueue, redis_url: str) -> None:
    served = {node.queue: QueueSettings(processor=PROCESSOR, concurrency=1)}
    with serving(served, redis_url, node.prefix, name="gpu box é"):
        [worker] = eventually(lambda: node.call("getWorkers"), "the worker is listed")
    assert worker["rawname"].endswith(":w:gpu_box__")


def test_a_parent_keeps_its_priority_when_its_last_pending_child_is_removed(node: PeerQueue, queue: Queue) -> None:
    child = {"name": "echo", "queueName": node.queue, "data": {}, "opts": {"jobId": "c"}}
    for job_id, options in (("p", {"priority": 5}), ("d", {"delay": LATER_MS})):
        tree = {"name": "parent", "queueName": node.queue, "data": {}, "opts": {"jobId": job_id, **options}}
        node.ask("flow", flow={**tree, "children": [{**child, "opts": {"jobId": f"{job_id}-c"}}]})
        queue.remove(f"{job_id}-c")
    assert (queue.state("p"), queue.state("d")) == (JobState.PRIORITIZED, JobState.DELAYED)


def test_a_parent_that_is_removed_with_its_children_is_not_said_to_wait_for_a_worker(
    node: PeerQueue, queue: Queue, redis_url: str
) -> None:
    with Flow(redis=redis_url, prefix=node.prefix) as flow:
        flow.add(FlowJob("parent", queue=node.queue, job_id="p", children=[FlowJob("echo", job_id="c")]))
    queue.remove("p")
    assert [event["prev"] for event in node.until("removed", "p")] == ["waiting-children"]
    assert not [
        event for event in queue.events(since="0", block=0.01) if event.name == "waiting" and event.job_id == "p"
    ]


def test_promoting_all_keeps_priorities_and_says_that_nothing_is_delayed_any_more(
    node: PeerQueue, queue: Queue
) -> None:
    jobs = [queue.add("echo", delay="1h", priority=priority).id for priority in (3, 0, 1)]
    assert queue.promote_all() == 3
    assert node.call("getJobCounts", "waiting", "prioritized", "delayed") == {
        "waiting": 1, "prioritized": 2, "delayed": 0,
    }  # fmt: skip
    assert [node.call("getJob", job_id)["delay"] for job_id in jobs] == [0, 0, 0]
    assert [node.ask("claim", token="t") for _ in jobs] == [jobs[1], jobs[2], jobs[0]]
