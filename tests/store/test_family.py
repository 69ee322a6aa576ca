"""What a job knows of its children, and how a child leaves its parent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from trees import add, leaf, parent
from worker_bench import DONE, FAILED, Bench

from sandq.client import drive
from sandq.errands import family as of_family
from sandq.errands import jobs as of_jobs
from sandq.errands import queue as of_queue
from sandq.errands.flow import FlowJob
from sandq.errors import JobNotFound, QueueError
from sandq.event import NotJson

# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_tree_shows_what_went_wrong_first_and_says_what_it_leaves_out(bench: Bench, leaves: Bench) -> None:
    inner = FlowJob("inner", job_id="I", queue="render", children=[leaf("deep")])
    add(bench, parent(leaf("A"), leaf("B", on_failure="ignore"), leaf("C", remove_on_complete=True), inner))
    for settlement in (DONE, FAILED, DONE):
        leaves.run_one(settlement)

    def shown(**limits: int) -> list[Any]:
        tree = drive(of_family.tree(bench.keys, "P", **limits), bench.run)
        return [(node.job.id, str(node.state), node.hidden) for node in tree.walk()]

    whole = [("P", "waiting-children", 1), ("B", "failed", 0), ("I", "waiting-children", 0), ("deep", "waiting", 0)]
    assert shown() == [*whole, ("A", "completed", 0)]
    assert shown(depth=1) == [*whole[:2], ("I", "waiting-children", 1), ("A", "completed", 0)]
    assert shown(max_children=1) == [("P", "waiting-children", 3), ("B", "failed", 0)]
    assert shown(depth=0) == [("P", "waiting-children", 4)]
    with pytest.raises(JobNotFound):
        drive(of_family.tree(bench.keys, "none"), bench.run)


def test_children_that_failed_are_found_with_their_reasons_the_worst_first(bench: Bench, leaves: Bench) -> None:
    rules: Any = {"A": "ignore", "B": "wait", "C": "fail", "D": "wait"}
    add(bench, parent(*(leaf(job_id, on_failure=rule) for job_id, rule in rules.items())))
    for _ in "ABC":
        leaves.run_one(FAILED)
    bench.client.zadd(bench.keys.key("P:unsuccessful"), {leaves.keys.key("gone"): 9e15, "no key of a job": 0})

    def found(limit: int) -> list[Any]:
        children = drive(of_family.failed_children(bench.keys, "P", limit), bench.run)
        assert {child.queue for child in children} <= {leaves.keys.queue}
        return [(child.id, child.kind, child.reason) for child in children]

    why = FAILED.reason
    everything = [("C", "failed", why), ("gone", "failed", None), ("B", "pending", why), ("A", "ignored", why)]
    assert found(10) == everything
    assert found(2) == everything[:2]
    assert drive(of_family.failed_children(bench.keys, "none", 10), bench.run) == []


def test_one_that_failed_is_found_among_thousands_that_are_pending(bench: Bench, leaves: Bench) -> None:
    count = 2500  # three pages
    pending = [leaves.keys.key(f"c{n}") for n in range(count)]
    bench.client.sadd(bench.keys.key("P:dependencies"), *pending)
    for n in range(0, count, 100):
        bench.client.zadd(leaves.keys.key("failed"), {f"c{n}": n})
        bench.client.hset(leaves.keys.key(f"c{n}"), "failedReason", f"torn {n}")
    found = drive(of_family.failed_children(bench.keys, "P", count), bench.run)
    assert {child.id: child.reason for child in found} == {f"c{n}": f"torn {n}" for n in range(0, count, 100)}


def test_all_children_can_be_read_page_by_page(bench: Bench, leaves: Bench) -> None:
    count = 600  # more than Redis keeps in one piece, so that cursors move
    add(bench, parent(*(leaf(f"c{n}", on_failure="ignore") for n in range(count))))
    for n in range(0, count, 2):
        bench.client.srem(bench.keys.key("P:dependencies"), leaves.keys.key(f"c{n}"))
        bench.client.hset(bench.keys.key("P:processed"), leaves.keys.key(f"c{n}"), n)
    bench.client.zadd(bench.keys.key("P:unsuccessful"), {f"f{n}": n for n in range(50)})
    pages = [drive(of_family.children(bench.keys, "P", limit=100), bench.run)]
    while pages[-1].more:
        pages.append(drive(of_family.children(bench.keys, "P", limit=100, after=pages[-1]), bench.run))
    assert len(pages) > 2
    assert {key for page in pages for key in page.pending} == {leaves.keys.key(f"c{n}") for n in range(1, count, 2)}
    values = {key: value for page in pages for key, value in page.processed.items()}
    assert values == {leaves.keys.key(f"c{n}"): n for n in range(0, count, 2)}
    assert [key for page in pages for key in page.failed] == [f"f{n}" for n in range(50)]
    counts = drive(of_family.child_counts(bench.keys, "P"), bench.run)
    assert counts == {"pending": 300, "processed": 300, "ignored": 0, "failed": 50}


def test_a_job_without_children_has_empty_answers(bench: Bench) -> None:
    job_id = bench.add()
    assert drive(of_family.children(bench.keys, job_id), bench.run) == of_family.Children()
    assert drive(of_family.child_values(bench.keys, job_id), bench.run) == {}
    assert drive(of_family.child_failures(bench.keys, job_id), bench.run) == {}


def test_what_another_client_wrote_among_the_children_is_shown_as_it_is(bench: Bench, leaves: Bench) -> None:
    add(bench, parent(leaf("A")))
    bench.client.sadd(bench.keys.key("P:dependencies"), "", ":", "nonsense", bench.keys.key("meta"))
    tree = drive(of_family.tree(bench.keys, "P"), bench.run)
    assert [node.job.id for node in tree.walk()] == ["P", "A"]
    assert tree.hidden == 4

    spoiled = {"bull:leaves:1": "no JSON", "bull:leaves:2": "[" * 100_000, "bull:leaves:3": "3"}
    bench.client.hset(bench.keys.key("P:processed"), mapping=spoiled)
    values = drive(of_family.child_values(bench.keys, "P"), bench.run)
    assert values == {**spoiled, "bull:leaves:3": 3}
    assert isinstance(values["bull:leaves:1"], NotJson)
    assert drive(of_family.children(bench.keys, "P"), bench.run).processed == values


# -- leaving a parent --------------------------------------------------------------------------------------------------


def test_a_parent_goes_on_when_the_last_child_it_waits_for_is_taken_from_it(bench: Bench, leaves: Bench) -> None:
    add(bench, parent(leaf("A"), leaf("B")))
    leave = lambda job_id: drive(of_family.remove_child_dependency(leaves.keys, job_id), bench.run)  # noqa: E731
    assert leave("A") is True
    assert list(bench.zset("waiting-children")) == ["P"]
    assert not {"parent", "parentKey"} & leaves.hash("A").keys()
    assert bench.events_during(lambda: leave("B")) == ["waiting jobId=P prev=waiting-children"]
    assert bench.list("wait") == ["P"]
    assert leaves.list("wait") == ["B", "A"]
    with pytest.raises(QueueError, match="it has no parent"):
        leave("A")


def test_a_child_that_nobody_waits_for_any_more_keeps_its_parent(
    bench: Bench, leaves: Bench, dump: Callable[..., Any]
) -> None:
    add(bench, parent(leaf("A")))
    leaves.run_one(DONE)
    before = dump()
    assert drive(of_family.remove_child_dependency(leaves.keys, "A"), bench.run) is False
    assert dump() == before
    bench.client.delete(bench.keys.key("P"))
    with pytest.raises(QueueError, match="its parent is gone"):
        drive(of_family.remove_child_dependency(leaves.keys, "A"), bench.run)
    with pytest.raises(JobNotFound):
        drive(of_family.remove_child_dependency(leaves.keys, "B"), bench.run)


# -- removing a family -------------------------------------------------------------------------------------------------


def test_children_that_wait_to_run_are_removed_and_their_parent_waits_for_the_others(
    bench: Bench, leaves: Bench
) -> None:
    inner = FlowJob("inner", job_id="I", queue="leaves", children=[leaf("deep")])
    add(bench, parent(leaf("A"), leaf("B"), leaf("C"), inner, leaf("D", delay="1h")))
    leaves.run_one(DONE)
    running = leaves.take()
    remove = lambda: drive(of_family.remove_unprocessed_children(bench.keys, "P"), bench.run)  # noqa: E731
    assert remove() == 3
    assert leaves.list("wait") == []
    assert [leaves.hash(job_id) for job_id in ("I", "deep", "C", "D")] == [{}] * 4
    assert drive(of_family.child_counts(bench.keys, "P"), bench.run)["pending"] == 1
    assert remove() == 0
    leaves.settle(running, DONE)
    assert bench.list("wait") == ["P"]
    with pytest.raises(JobNotFound):
        drive(of_family.remove_unprocessed_children(bench.keys, "Q"), bench.run)


def test_a_parent_goes_on_when_all_its_children_were_removed_before_they_ran(bench: Bench) -> None:
    add(bench, parent(*(leaf(f"c{n}") for n in range(30))))
    assert drive(of_family.remove_unprocessed_children(bench.keys, "P"), bench.run) == 30
    assert bench.list("wait") == ["P"]


@pytest.mark.parametrize("shape", ["wide", "deep"])
def test_a_job_with_more_below_it_than_one_call_may_remove_is_removed_whole(
    bench: Bench, leaves: Bench, shape: str
) -> None:
    tree = parent(*(leaf(f"c{n}") for n in range(1200)))
    if shape == "deep":
        tree = leaf("end")
        for n in range(1200):
            tree = FlowJob("link", queue="render", job_id=f"P{n}" if n < 1199 else "P", children=[tree])
    add(bench, tree)
    drive(of_jobs.remove(bench.keys, "P"), bench.run)
    for each in (bench, leaves):
        assert not any(drive(of_queue.counts(each.keys), bench.run).values())
    with pytest.raises(JobNotFound):
        drive(of_jobs.remove(bench.keys, "P"), bench.run)


def test_a_child_that_runs_when_its_round_comes_stays_with_its_parent_until_that_is_removed_again(
    bench: Bench, leaves: Bench
) -> None:
    add(bench, parent(*(leaf(f"c{n}") for n in range(600))))
    rounds = iter([leaves.take])

    def run(step: Any) -> Any:
        answer = bench.run(step)
        for act in rounds:
            act()
        return answer

    with pytest.raises(QueueError, match="or a child of it, is running"):
        drive(of_jobs.remove(bench.keys, "P"), run)
    assert len(leaves.list("active")) == 1
    assert bench.hash("P")["sq_removing"] == "waiting-children"
    leaves.lose_lock(leaves.list("active")[0])
    drive(of_jobs.remove(bench.keys, "P"), bench.run)
    assert bench.hash("P") == {}
    assert leaves.list("active") == []
