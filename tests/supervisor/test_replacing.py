"""When the replacement of a dead child is asked for: a child that loads is in the way of the job that begins again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import Served, handlers, serving

from sandq.queue import Queue
from sandq.supervisor import pool
from sandq.supervisor.facts import ChildReady, Fact, Progressed, Settled, Started
from sandq.supervisor.fleet import Fleet

NEVER_S = 60.0  # longer than any wait of a test


class Story:
    """What a supervisor did, in order: what it said of jobs, and when it asked for a child."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def hear(self, fact: Fact) -> None:
        if isinstance(fact, Started):
            self.told.append("begun")
        elif isinstance(fact, Settled):
            self.told.append(fact.outcome)


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    made, spawn = Story(), Fleet.spawn

    async def note_and_spawn(fleet: Fleet, *args: Any, **asked: Any) -> Any:
        made.told.append("asked for a child")
        return await spawn(fleet, *args, **asked)

    monkeypatch.setattr(Fleet, "spawn", note_and_spawn)
    return made


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as made:
        yield made


@pytest.fixture
def serve(redis_url: str, prefix: str, story: Story) -> Callable[..., Any]:
    """A supervisor with one child and so many spares."""

    def start(spares: int, **asked: Any) -> Any:
        plan = handlers(concurrency=1, spares=spares, **asked)
        return serving({"render": plan}, redis_url, prefix, listener=story.hear)

    return start


def crash(queue: Queue, served: Served) -> str:
    """Kill the child of a job that has begun; it returns the second time."""
    job = queue.add("killed-once")
    served.facts.wait(Progressed, job_id=job.id)
    os.kill(served.facts.wait(Started, job_id=job.id).pid, signal.SIGKILL)
    return job.id


def test_a_job_begins_again_on_the_spare_before_another_child_is_asked_for(
    queue: Queue, serve: Callable[..., Any], story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "HAND_ON_S", NEVER_S)
    with serve(spares=1) as served:
        served.facts.wait(ChildReady, nth=2)
        served.facts.wait(Settled, job_id=crash(queue, served), outcome="Completed")
        assert story.told == ["asked for a child"] * 2 + ["begun", "Crashed", "begun", "Completed"]


def test_another_child_is_asked_for_although_no_job_follows(queue: Queue, serve: Callable[..., Any]) -> None:
    with serve(spares=1, max_crashes=0) as served:
        served.facts.wait(ChildReady, nth=2)
        assert served.facts.wait(Settled, job_id=crash(queue, served)).to == "failed"
        served.facts.wait(ChildReady, nth=3)


def test_without_a_spare_another_child_is_asked_for_at_once(
    queue: Queue, serve: Callable[..., Any], story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "HAND_ON_S", NEVER_S)
    with serve(spares=0) as served:
        served.facts.wait(Settled, job_id=crash(queue, served), outcome="Completed")
        assert story.told == ["asked for a child", "begun", "asked for a child", "Crashed", "begun", "Completed"]


def test_a_second_death_while_a_replacement_waits_has_both_asked_for_at_once(
    queue: Queue, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "HAND_ON_S", NEVER_S)
    with serve(spares=1) as served:
        served.facts.wait(ChildReady, nth=2)
        served.facts.wait(Settled, job_id=crash(queue, served), outcome="Completed")
        served.facts.wait(Settled, job_id=crash(queue, served), outcome="Completed")
        served.facts.wait(ChildReady, nth=4)
