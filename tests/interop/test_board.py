"""bull-board shows a queue that only sandq drives: over its API, and on the pages that a browser renders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import urlopen

import pytest
from harness import eventually, serving
from node import why_not
from peer import PROCESSOR, Peer

from sandq import Flow, FlowJob, JobFailed, Queue
from sandq.config import QueueSettings

ANSWER_LIMIT_S = 10.0
WORKER = "sandq-on-board"
HOUR_MS = 3_600_000

Get = Callable[[str], Any]
See = Callable[..., str]


@pytest.fixture(scope="module")
def board(redis_url: str) -> Iterator[str]:
    """The address of a board of two queues in which sandq alone has left all that a board can show."""
    if (why := why_not()) is not None:
        pytest.skip(why)
    prefix = f"board-{os.getpid()}"
    queues = {name: QueueSettings(processor=PROCESSOR, concurrency=1) for name in ("render", "leaves")}
    process = Peer("node", "board.mjs", redis_url)
    place: dict[str, str] = {"redis": redis_url, "prefix": prefix}
    with serving(queues, redis_url, prefix, name=WORKER), Queue("render", **place) as queue, Flow(**place) as flow:
        fill(queue, flow)
        yield process.ask("board", prefix=prefix, queues=list(queues))
    process.close()


def fill(queue: Queue, flow: Flow) -> None:
    done = FlowJob("leaf", {"return": 1}, queue="leaves", job_id="done")
    pending = FlowJob("leaf", queue="leaves", job_id="pending", delay="1h")
    flow.add(FlowJob("chapter", queue="render", job_id="tree", children=[done, pending]))
    queue.upsert_scheduler("nightly", every="1h", name="sweep", data={"return": "swept"})
    queue.result(queue.add("page", {"return": {"pages": 3}}, job_id="good"), timeout=10)
    queue.add("page", delay="1h", job_id="later")
    with pytest.raises(JobFailed):
        queue.result(queue.add("page", {"raise": "no such font", "progress": 40}, job_id="bad"), timeout=10)
    eventually(lambda: queue.counts()["completed"] == 2, "the first run of the schedule is over")
    eventually(lambda: queue.child_counts("tree")["pending"] == 1, "one of two children has ended")


@pytest.fixture
def get(board: str) -> Get:
    """`get("queues/...")` is what the board's API answers."""

    def ask(path: str) -> Any:
        with urlopen(f"{board}/api/{path}", timeout=ANSWER_LIMIT_S) as answer:
            return json.load(answer)

    return ask


def test_the_board_counts_the_jobs_of_every_state(get: Get) -> None:
    shown = {queue["name"]: queue for queue in get("queues")["queues"]}
    render = {"completed": 2, "failed": 1, "delayed": 2, "waiting-children": 1}
    assert {state: count for state, count in shown["render"]["counts"].items() if count} == render
    assert {state: count for state, count in shown["leaves"]["counts"].items() if count} == {
        "completed": 1,
        "delayed": 1,
    }
    assert (shown["render"]["isPaused"], shown["render"]["jobSchedulerCount"]) == (False, 1)


def test_the_board_shows_why_a_job_failed_and_where(get: Get) -> None:
    [bad] = get("queues?activeQueue=render&status=failed&page=1&jobsPerPage=10")["queues"][0]["jobs"]
    assert (bad["id"], bad["failedReason"], bad["isFailed"]) == ("bad", "ValueError: no such font", True)
    assert (bad["progress"], bad["attempts"], bad["processedBy"]) == (40, 1, WORKER)
    [trace] = bad["stacktrace"]
    assert trace.startswith("Traceback (most recent call last):\n")
    assert 'raise ValueError(data["raise"])' in trace


def test_the_board_draws_a_flow_from_any_of_its_jobs(get: Get) -> None:
    trees = [get(f"queues/{path}/flow")["flowRoot"] for path in ("render/tree", "leaves/done", "leaves/pending")]
    assert trees[1:] == trees[:1] * 2
    children = {child["id"]: child["state"] for child in trees[0]["children"]}
    assert (trees[0]["state"], children) == ("waiting-children", {"done": "completed", "pending": "delayed"})
    assert trees[0]["dependencies"] == {"processed": 1, "unprocessed": 1, "ignored": 0, "failed": 0}


def test_the_board_lists_a_scheduler_with_its_last_and_next_run(get: Get) -> None:
    [nightly] = get("job-schedulers")["schedulers"]
    assert (nightly["id"], nightly["name"], nightly["every"]) == ("nightly", "sweep", HOUR_MS)
    assert nightly["template"]["data"] == {"return": "swept"}
    assert (nightly["iterationCount"], nightly["lastRun"] <= nightly["next"]) == (2, True)


@pytest.mark.parametrize("queue", ["render", "leaves"])
def test_the_board_lists_a_supervisor_as_one_worker_of_each_queue(get: Get, queue: str) -> None:
    assert [worker["name"] for worker in get(f"queues/{queue}/workers")["workers"]] == [WORKER]


@pytest.fixture(scope="module")
def browser() -> Iterator[Peer]:
    """A headless Chromium; skips where Debian's package of it is not installed."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed: bull-board's pages are not looked at")
    process = Peer("node", "browser.mjs", executable)
    yield process
    process.close()


@pytest.fixture
def see(browser: Peer, board: str) -> See:
    """`see("queue/render", "text", ...)` is all that a page shows once it shows these texts; it has no errors."""

    def look(path: str, *texts: str, press: tuple[str, ...] = ()) -> str:
        shown = browser.ask("see", url=f"{board}/{path}", press=press, texts=texts)
        assert shown["problems"] == []
        return str(shown["text"])

    return look


@pytest.mark.slow
def test_the_page_of_a_queue_shows_its_jobs_and_counts(see: See) -> None:
    shown = see("queue/render", "good", "later", "sweep")
    for count in ("COMPLETED\n2", "FAILED\n1", "DELAYED\n2", "WAITING CHILDREN\n1", "Schedulers\n1"):
        assert count in shown
    assert f"by {WORKER}" in shown


@pytest.mark.slow
def test_the_page_of_failed_jobs_shows_the_stack_trace(see: See) -> None:
    shown = see("queue/render?status=failed", "ValueError: no such font")
    assert "Traceback (most recent call last):" in shown
    assert 'raise ValueError(data["raise"])' in shown
    assert "good" not in shown


@pytest.mark.slow
def test_the_page_of_a_parent_draws_its_flow(see: See) -> None:
    shown = see("queue/render/tree", "Job flow", "1 unfinished", "WAITING-CHILDREN")
    for leaf in ("leaf\ndone\nCOMPLETED\nleaves", "leaf\npending\nDELAYED\nleaves"):
        assert leaf in shown


@pytest.mark.slow
def test_the_page_of_schedulers_shows_the_schedule(see: See) -> None:
    assert "sweep" in see("job-schedulers", "nightly", "every 1h")


@pytest.mark.slow
def test_the_page_of_a_queue_names_its_workers(see: See) -> None:
    shown = see("queue/leaves", "connected ", press=("Queue info", "Connected workers"))
    assert f"Connected workers\n{WORKER}\n" in shown
