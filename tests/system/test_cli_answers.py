"""What commands answer about jobs that another program wrote, or that are in an odd state: never a traceback."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest
from redis import Redis
from test_cli import Sandq, assert_refused, said

from sandq import Flow, FlowJob
from sandq.cli.show import parsed, print_json, show_time
from sandq.queue import Queue
from sandq.store import work
from sandq.store.executors import SyncExecutor
from sandq.testing.inline import InlineWorker

FAR_MS = 10**17


def test_half_a_surrogate_pair_stays_the_escape_it_was_stored_as(sandq: Sandq, queue: Queue) -> None:
    queue.add_many([("page", {"t": "\ud800"}), ("page", {"t": "ü"})])
    first, second = said(sandq("jobs", "render", "--state", "waiting", "--json"))
    assert (first["data"], second["data"]) == ({"t": "\ud800"}, {"t": "ü"})
    queue.upsert_scheduler("odd", every="1h", data={"t": "\ud800"})
    [scheduler] = said(sandq("schedule", "list", "render", "--json"))
    assert scheduler["data"] == {"t": "\ud800"}


def test_data_nested_too_deep_to_be_read_is_shown_as_text(sandq: Sandq, queue: Queue, redis_client: Redis) -> None:
    job = queue.add("page")
    deep = "[" * 100_000 + "]" * 100_000
    redis_client.hset(queue.keys.key(job.id), "data", deep)
    assert said(sandq("job", "render", job.id, "--json"))["data"] == deep


def test_what_can_just_be_read_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for depth in range(500, 1000):
        print_json([{"data": parsed(b"[" * depth + b"]" * depth)}])
        assert json.loads(capsys.readouterr().out)


def test_a_job_that_nothing_lists_is_shown_and_explained(sandq: Sandq, queue: Queue, redis_client: Redis) -> None:
    job = queue.add("page")
    redis_client.delete(queue.keys.key("wait"))
    assert said(sandq("job", "render", job.id, "--json"))["state"] == "unknown"
    assert "none of the queue's lists" in sandq("why", "render", job.id).stdout


def test_a_job_whose_holder_vanished_is_not_said_to_run_nor_never_to_have_started(
    sandq: Sandq, queue: Queue, redis_client: Redis
) -> None:
    job = queue.add("page")
    redis_client.lmove(queue.keys.key("wait"), queue.keys.key("active"))
    redis_client.set(queue.keys.lock(job.id), "token")
    assert "is running" in sandq("why", "render", job.id).stdout
    redis_client.delete(queue.keys.lock(job.id))
    told = sandq("why", "render", job.id).stdout
    assert "is active without a holder" in told
    assert "Its lock ran out" in told
    done = sandq("cancel", "render", job.id).stdout
    assert done == f"cancelled {job.id}: whoever ran it is gone or has lost its lock; it is failed now\n"
    assert queue.state(job) == "failed"


def test_a_running_job_is_shown_since_when_and_where_it_runs(
    sandq: Sandq, queue: Queue, redis_url: str, redis_client: Redis
) -> None:
    job = queue.add("page")
    redis_client.lmove(queue.keys.key("wait"), queue.keys.key("active"))
    redis_client.hset(queue.keys.key(job.id), "processedOn", 1_700_000_000_000)
    headers, row = (line.split("  ") for line in sandq("jobs", "render", "--state", "active").stdout.splitlines())
    assert "SINCE" in [header.strip() for header in headers]
    assert show_time(1_700_000_000_000) in row
    assert said(sandq("job", "render", job.id, "--json"))["running"] is None
    info = {"id": "s1", "name": "box-7", "host": "vm", "queues": {"render": {"running": [{"id": job.id, "pid": 42}]}}}
    with closing(SyncExecutor(redis_url)) as executor:
        executor.run(work.register(queue.keys, "s1", json.dumps(info).encode(), 60_000))
    assert "running  process 42 of supervisor box-7 on vm" in sandq("job", "render", job.id).stdout.splitlines()
    shown = said(sandq("job", "render", job.id, "--json"))
    assert shown["running"] == {"pid": 42, "supervisor": "box-7 on vm"}


def test_a_cancelled_job_that_waits_for_its_next_run_is_not_said_never_to_have_started(
    sandq: Sandq, queue: Queue
) -> None:
    job = queue.add("page", delay="1h")
    assert sandq("cancel", "render", job.id).stdout == f"cancelled {job.id}: it was not running and is failed now\n"


def test_a_parent_key_that_is_none_is_shown_as_it_is(sandq: Sandq, queue: Queue, redis_client: Redis) -> None:
    job = queue.add("page")
    redis_client.hset(queue.keys.key(job.id), "parentKey", "nonsense")
    shown = said(sandq("job", "render", job.id, "--json"))
    assert shown["parent"] == {"queue": "", "id": "nonsense", "state": "gone"}


def test_a_time_beyond_all_calendars_is_shown_in_milliseconds(sandq: Sandq, queue: Queue, redis_client: Redis) -> None:
    queue.upsert_scheduler("far", every="1h")
    redis_client.hset(queue.keys.key("repeat:far"), "endDate", FAR_MS)
    assert f"{FAR_MS}ms" in sandq("schedule", "list", "render").stdout
    assert show_time(FAR_MS) == f"{FAR_MS}ms"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["retry", "render", "a"], "has not ended"),
        (["promote", "render", "a"], "is not delayed"),
        (["schedule", "remove", "render", "nightly"], "there is no scheduler nightly"),
    ],
)
def test_what_the_queue_is_not_ready_for_is_exit_code_1(sandq: Sandq, queue: Queue, args: list[str], told: str) -> None:
    queue.add("page", job_id="a")
    assert_refused(sandq(*args), 1, told)


@pytest.mark.parametrize(
    ("rule", "state", "told"),
    [
        ("wait", "waiting-children", "held up by its child c of queue leaves, which failed: ValueError: torn;"),
        ("fail", "failed", "Its child c of queue leaves failed: ValueError: torn;"),
        ("ignore", "completed", "goes on without its child c of queue leaves, which failed: ValueError: torn;"),
    ],
)
def test_why_names_the_child_that_failed(
    sandq: Sandq, queue: Queue, redis_url: str, prefix: str, rule: Any, state: str, told: str
) -> None:
    def tear(job: Any) -> None:
        if job.name == "page":
            raise ValueError("torn")

    with Flow(redis=redis_url, prefix=prefix) as flow:
        child = FlowJob("page", job_id="c", queue="leaves", on_failure=rule)
        mother = flow.add(FlowJob("book", queue="render", children=[child])).job
    with InlineWorker({"leaves": tear, "render": tear}, redis=redis_url, prefix=prefix) as worker:
        worker.run_until_idle()
    assert queue.state(mother) == state
    assert told in sandq("why", "render", mother.id).stdout
    why = said(sandq("why", "render", mother.id, "--json"))
    assert why["failed_children"] == [{"queue": "leaves", "id": "c", "reason": "ValueError: torn"}]


def test_completed_jobs_run_again_on_request(sandq: Sandq, queue: Queue, redis_client: Redis) -> None:
    queue.add("page", job_id="done")
    redis_client.lrem(queue.keys.key("wait"), 0, "done")
    redis_client.zadd(queue.keys.key("completed"), {"done": 1})
    assert said(sandq("retry", "render", "--all", "--json")) == {"retried": 0}
    assert said(sandq("retry", "render", "--all", "--state", "completed", "--json")) == {"retried": 1}
    assert_refused(sandq("retry", "render", "1", "--state", "completed"), 2, "--all")
