"""Flows that are refused before Redis hears of them."""

from __future__ import annotations

from typing import Any

import pytest

from sandq.errands import flow as of_flow
from sandq.errands.flow import FlowJob
from sandq.errors import QueueError
from sandq.store import flow
from sandq.store.keys import QueueKeys, split_job_key
from sandq.store.newjob import Parent, new_job


def parent(*children: FlowJob, **options: Any) -> FlowJob:
    return FlowJob("parent", queue="render", children=children, job_id="P", **options)


def leaf(job_id: str, **options: Any) -> FlowJob:
    return FlowJob("leaf", queue="leaves", job_id=job_id, **options)


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        (FlowJob("page"), "names no queue"),
        ({"name": "page", "queue": "render", "prioty": 1}, "prioty"),
        ({"queue": "render"}, "name"),
        (("page", {}), "not a job of a flow"),
        (parent(leaf("A"), deduplication="d"), "children and deduplication"),
        (parent(leaf("A", deduplication="d")), "a parent and deduplication"),
        (parent(leaf("A", parent=Parent(id="x", queue="bull:q"))), "only a root may have a parent"),
        (parent(leaf("A", on_failure="explode")), "'explode' must be one of wait, fail"),
        (parent(leaf("A"), leaf("A")), "'A' of queue leaves stands twice"),
        (parent(parent()), "'P' of queue render stands twice"),
        (parent(leaf("12")), "is an integer"),
        (parent(FlowJob("a", queue="a:b")), "holds ':'"),
        (parent(FlowJob("a", queue="")), "queue name '' must be a text that is not empty"),
        (parent(FlowJob("a", queue=5)), "queue name 5 must be a text"),  # type: ignore[arg-type]
        (parent(parent="1"), "parent '1' must be a Job, or Parent"),
        (parent(on_failure="explode"), "'explode' must be one of wait, fail"),
        (parent(parent=Parent(id="x", queue="bull:q"), on_failure="explode"), "'explode' must be one of wait, fail"),
    ],
)
def test_a_flow_that_makes_no_sense_is_refused_in_words(tree: Any, told: str) -> None:
    with pytest.raises(QueueError, match=told):
        next(of_flow.add("bull", tree))


def test_a_flow_too_big_for_one_call_is_refused_with_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, new = QueueKeys("render"), new_job("page", "x" * 2000)
    nodes = [flow.Node(keys, f"n{n}", new, waits=False) for n in range(flow.MAX_NODES + 1)]
    with pytest.raises(QueueError, match="over the limit of 5000"):
        flow.insert(nodes)
    monkeypatch.setattr(flow, "MAX_BYTES", 5000)
    flow.insert(nodes[:2])
    with pytest.raises(QueueError, match="data of this flow is"):
        flow.insert(nodes[:3])


def test_no_flows_at_all_are_no_call() -> None:
    with pytest.raises(StopIteration) as end:
        next(of_flow.add_many("bull", []))
    assert end.value.value == []


def test_an_option_that_does_not_exist_is_a_mistake_of_the_call() -> None:
    with pytest.raises(TypeError, match="no option prioty"):
        FlowJob("page", prioty=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("bull:render:7", ("bull", "render", "7")),
        ("bull:render:repeat:tick:1", ("bull", "render", "repeat:tick:1")),
        ("a:b:render:7", ("a:b", "render", "7")),
    ],
)
def test_a_job_key_falls_into_prefix_queue_and_id(key: str, found: tuple[str, ...]) -> None:
    keys, job_id = split_job_key(key, "bull")
    assert (keys.prefix, keys.queue, job_id) == found
