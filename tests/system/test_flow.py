"""Flows from the call that adds them to the result of their root, through supervisors and children."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from harness import HERE, Served, SupervisorProcess, handlers, serving
from redis import Redis

from sandq import AsyncFlow, AsyncQueue, Flow, FlowJob, JobFailed, JobState, Queue, QueueError
from sandq.supervisor.facts import Started, StoreTrouble

FAMILIES = str(HERE / "families.py")
WAIT_S = 15.0


@pytest.fixture(scope="module")
def shared(redis_url: str) -> Iterator[tuple[str, Served]]:
    """A prefix whose queues `render` and `leaves` are served all the time."""
    prefix = f"flow{os.getpid()}"
    queues = {
        name: handlers(processor=FAMILIES, concurrency=2, add_to=("leaves", "broken")) for name in ("render", "leaves")
    }
    with serving(queues, redis_url, prefix) as served:
        yield prefix, served


@pytest.fixture
def queue(redis_url: str, shared: tuple[str, Served]) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=shared[0]) as made:
        yield made


@pytest.fixture
def flow(redis_url: str, shared: tuple[str, Served]) -> Iterator[Flow]:
    with Flow(redis=redis_url, prefix=shared[0]) as made:
        yield made


@pytest.fixture
def own() -> Callable[[str], str]:
    """Ids that no other test has."""
    mine = uuid4().hex[:8]
    return lambda name: f"{name}-{mine}"


def leaf(data: Any, **options: Any) -> FlowJob:
    return FlowJob("leaf", data, queue="leaves", **options)


# -- adding and ending -------------------------------------------------------------------------------------------------


def test_a_nested_flow_over_two_queues_ends_from_the_leaves_up(flow: Flow, queue: Queue, own: Any) -> None:
    inner = FlowJob("gathers", job_id=own("inner"), queue="leaves", children=[leaf(7, job_id=own("deep"))])
    tree = flow.add(FlowJob("gathers", queue="render", children=[leaf({"n": 1}, job_id=own("a")), inner]))
    assert queue.result(tree.job, timeout=WAIT_S)["values"] == {
        own("a"): {"n": 1},
        own("inner"): {"values": {own("deep"): 7}, "failures": {}},
    }
    ended = list(flow.tree("render", tree.job).walk())
    assert len(ended) == 4
    assert {node.state for node in ended} == {JobState.COMPLETED}
    values = queue.child_values(tree.job)
    assert values[f"{flow.prefix}:leaves:{own('a')}"] == {"n": 1}
    assert queue.children(tree.job).processed == values
    assert queue.child_counts(tree.job) == {"pending": 0, "processed": 2, "ignored": 0, "failed": 0}


def test_the_async_clients_do_the_same(redis_url: str, shared: tuple[str, Served]) -> None:
    async def through() -> Any:
        prefix = shared[0]
        async with (
            AsyncFlow(redis=redis_url, prefix=prefix) as flow,
            AsyncQueue("render", redis=redis_url, prefix=prefix) as queue,
        ):
            one = FlowJob("gathers", queue="render", children=[leaf(1)])
            two = {"name": "gathers", "queue": "render", "children": [{"name": "leaf", "queue": "leaves", "data": 2}]}
            trees = [*await flow.add_many([one, two]), await flow.add(one)]
            results = [await queue.result(tree.job, timeout=WAIT_S) for tree in trees]
            shown = await queue.tree(trees[0].job)
            assert shown == await flow.tree("render", trees[0].job)
            assert await queue.child_failures(trees[0].job) == {}
            return [list(result["values"].values()) for result in results], [node.job.data for node in shown.walk()]

    assert asyncio.run(through()) == ([[1], [2], [1]], [{}, 1])


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [("ignore", {"bad": "ValueError: torn"}), ("remove", {}), ("continue", {"bad": "ValueError: torn"})],
)
def test_a_parent_that_may_do_without_a_child_ends_with_the_others(
    flow: Flow, queue: Queue, own: Any, rule: Any, outcome: dict[str, str]
) -> None:
    bad = leaf({"raise": "torn"}, job_id=own("bad"), on_failure=rule)
    tree = flow.add(FlowJob("looks", queue="render", children=[bad, leaf(1, job_id=own("good"))]))
    assert queue.result(tree.job, timeout=WAIT_S) == {
        "values": {own("good"): 1},
        "failures": {own(name): why for name, why in outcome.items()},
    }


def test_a_failed_child_fails_its_parents_all_the_way_up_without_running_them(
    flow: Flow, queue: Queue, shared: tuple[str, Served]
) -> None:
    bad = leaf({"raise": "torn"}, on_failure="fail")
    middle = FlowJob("gathers", queue="leaves", children=[bad], on_failure="fail")
    tree = flow.add(FlowJob("gathers", queue="render", children=[middle, leaf(1, delay=60)]))
    with pytest.raises(JobFailed, match=f"child {flow.prefix}:leaves:{tree.children[0].job.id} failed"):
        queue.result(tree.job, timeout=WAIT_S)
    assert shared[1].facts.all(Started, job_id=tree.job.id) == []
    assert queue.child_counts(tree.job) == {"pending": 1, "processed": 0, "ignored": 0, "failed": 1}


def test_without_a_rule_a_parent_waits_until_its_failed_child_is_retried_or_taken_from_it(
    flow: Flow, queue: Queue, redis_url: str
) -> None:
    tree = flow.add(FlowJob("gathers", queue="render", children=[leaf({"raise": "torn"})]))
    [child] = tree.children
    with Queue("leaves", redis=redis_url, prefix=flow.prefix) as leaves:
        with pytest.raises(JobFailed, match="torn"):
            leaves.result(child.job, timeout=WAIT_S)
        assert queue.state(tree.job) is JobState.WAITING_CHILDREN
        assert leaves.remove_child_dependency(child.job) is True
    assert queue.result(tree.job, timeout=WAIT_S) == {"values": {}, "failures": {}}


def test_a_job_can_be_the_parent_of_what_is_added_later(flow: Flow, queue: Queue, redis_url: str, own: Any) -> None:
    waiting = flow.add(FlowJob("gathers", queue="render", children=[leaf(1, job_id=own("a"), delay=60)])).job
    flow.add(FlowJob("gathers", queue="leaves", job_id=own("b"), parent=waiting, children=[leaf(2)]))
    with Queue("leaves", redis=redis_url, prefix=flow.prefix) as leaves:
        leaves.add("leaf", 3, job_id=own("c"), parent=waiting)
        leaves.promote(own("a"))
    assert queue.result(waiting, timeout=WAIT_S)["values"].keys() == {own("a"), own("b"), own("c")}


# -- from handlers -----------------------------------------------------------------------------------------------------


def test_a_handler_can_grow_a_nested_flow_and_gather_it(queue: Queue) -> None:
    job = queue.add("splits", {"n": 5})
    assert queue.result(job, timeout=WAIT_S) == 5
    assert len(list(queue.tree(job).walk())) == 9


def test_a_handler_says_what_the_failure_of_its_children_means(queue: Queue) -> None:
    result = queue.result(queue.add("tries"), timeout=WAIT_S)
    assert sorted(result["failures"].values()) == ["ValueError: torn", "ValueError: worn"]


def test_a_handler_that_returns_before_its_children_ended_fails_its_job_for_good(queue: Queue) -> None:
    job = queue.add("hasty", attempts=3)
    told = "the handler returned, but some of its children have not ended; call job.wait_for_children\\(\\)"
    with pytest.raises(JobFailed, match=told):
        queue.result(job, timeout=WAIT_S)
    assert queue.job(job.id).attempts_made == 1


def test_what_a_handler_may_not_add_is_refused_in_words(queue: Queue, shared: tuple[str, Served]) -> None:
    asks = queue.add("asks-wrongly")
    wrong_rule, unknown_rule, foreign, unknown, parent = queue.result(asks, timeout=WAIT_S)
    assert "give child=True" in wrong_rule
    assert "must be one of wait, fail, continue, ignore, remove" in unknown_rule
    assert "allow it with add_to" in foreign
    assert "job.add() has no option colour; it takes attempts, backoff," in unknown
    assert "job.add() has no option parent" in parent
    assert shared[1].facts.all(StoreTrouble, doing=f"add of {asks.id}") == []  # its own affair, not Redis'


def test_what_redis_refuses_to_a_handler_is_told_as_trouble_too(
    queue: Queue, shared: tuple[str, Served], redis_client: Redis
) -> None:
    prefix, served = shared
    redis_client.set(f"{prefix}:broken:wait", "no list")
    job = queue.add("adds-to", "broken")
    assert "WRONGTYPE" in queue.result(job, timeout=WAIT_S)
    assert "WRONGTYPE" in served.facts.wait(StoreTrouble, doing=f"add of {job.id}").why


@pytest.mark.parametrize("name", ["limits", "later"])
def test_a_child_that_puts_itself_off_is_still_waited_for(flow: Flow, queue: Queue, own: Any, name: str) -> None:
    postponed = FlowJob(name, {"again": False}, queue="leaves", job_id=own("c"))
    tree = flow.add(FlowJob("gathers", queue="render", children=[postponed]))
    assert queue.result(tree.job, timeout=WAIT_S)["values"] == {own("c"): 1}


# -- what may die meanwhile --------------------------------------------------------------------------------------------


def test_a_flow_goes_on_when_the_process_of_a_child_is_killed(
    flow: Flow, queue: Queue, shared: tuple[str, Served], tmp_path: Path, own: Any
) -> None:
    end = tmp_path / "end"
    held = FlowJob("holds", {"until": str(end)}, queue="leaves", job_id=own("held"))
    tree = flow.add(FlowJob("gathers", queue="render", children=[held, leaf(1)]))
    facts = shared[1].facts
    os.kill(facts.wait(Started, job_id=own("held")).pid, signal.SIGKILL)
    again = facts.wait(Started, job_id=own("held"), nth=2).pid
    end.touch()
    assert queue.result(tree.job, timeout=WAIT_S)["values"][own("held")] == again


def test_a_flow_goes_on_when_its_supervisor_is_killed(redis_url: str, prefix: str, tmp_path: Path) -> None:
    end = tmp_path / "end"
    asked: dict[str, Any] = {"processor": FAMILIES}
    with Flow(redis=redis_url, prefix=prefix) as flow, Queue("render", redis=redis_url, prefix=prefix) as queue:
        held = {"name": "holds", "data": {"until": str(end)}}
        tree = flow.add({"name": "gathers", "queue": "render", "children": [held, {"name": "leaf", "data": 1}]})
        with SupervisorProcess(redis_url, prefix, **asked) as first:
            first.facts.wait(Started, job_id=tree.children[0].job.id)
            first.kill()
            with SupervisorProcess(redis_url, prefix, **asked) as second:
                second.facts.wait(Started, job_id=tree.children[0].job.id)
                end.touch()
                assert len(queue.result(tree.job, timeout=WAIT_S)["values"]) == 2
                assert queue.job(tree.job.id).attempts_started == 1


def test_a_refused_flow_says_so_and_leaves_nothing(flow: Flow, queue: Queue, own: Any) -> None:
    kept = flow.add(FlowJob("gathers", queue="render", children=[leaf(1, job_id=own("c"), delay=60)]))
    with pytest.raises(QueueError, match="nothing of the flow was added"):
        flow.add(FlowJob("gathers", queue="render", job_id=own("p"), children=[leaf(1, job_id=own("c"))]))
    assert queue.child_counts(kept.job)["pending"] == 1
    with pytest.raises(QueueError, match=f"there is no job {own('p')}"):
        queue.job(own("p"))


# -- on the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def sandq(redis_url: str, prefix: str, tmp_path: Path) -> Callable[..., str]:
    """What `sandq ARGS` prints."""

    def run(*args: str) -> str:
        env = {**os.environ, "SANDQ_REDIS_URL": redis_url, "SANDQ_PREFIX": prefix}
        command = [sys.executable, "-m", "sandq", *args]
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, check=True).stdout

    return run


def test_the_command_line_shows_a_job_with_its_parent_and_the_tree_below(
    redis_url: str, prefix: str, sandq: Callable[..., str]
) -> None:
    deep = FlowJob("deep", job_id="d", queue="leaves", children=[FlowJob("deeper\n", job_id="e")])
    with Flow(redis=redis_url, prefix=prefix) as flow:
        flow.add(FlowJob("root", job_id="r", queue="render", children=[FlowJob("mid", job_id="m", children=[deep])]))
    shown = sandq("job", "render", "m")
    assert shown.splitlines()[-4:] == [
        "parent  render r waiting-children",
        "children",
        "    leaves d  deep  waiting-children",
        "        leaves e  deeper\\n  waiting",
    ]
    value = json.loads(sandq("job", "render", "m", "--json", "--depth", "1"))
    assert value["parent"] == {"queue": "render", "id": "r", "state": "waiting-children"}
    node = {"queue": "leaves", "id": "d", "name": "deep", "state": "waiting-children", "failed_reason": None}
    assert value["children"] == [{**node, "children": [], "hidden": 1}]
