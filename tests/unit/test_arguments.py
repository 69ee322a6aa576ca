"""Arguments that make no sense are refused in one sentence, and before Redis hears of them: none is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandq.errors import QueueError
from sandq.events import QueueEvents
from sandq.flow import Flow
from sandq.job import Job
from sandq.queue import Queue

NOBODY = "unix:///nobody/listens.sock"
HALF = "\ud800"  # half of a surrogate pair: a Python text that has no UTF-8


@pytest.fixture
def queue() -> Iterator[Any]:
    with Queue("render", redis=NOBODY) as opened:
        yield opened


@pytest.mark.parametrize(
    ("call", "told"),
    [
        # jobs on their way in
        (lambda q: q.add("x", parent="1"), "parent '1' must be a Job, or Parent"),
        (lambda q: q.add("x", on_failure="fail"), "give parent, too"),
        (lambda q: q.add("x", parent=Job(queue="render", id="1", name=""), on_failure="explode"), "'explode' must be"),
        (lambda q: q.add_many([{"name": "x", "data_json": b"{bad"}]), "no option data_json"),
        (lambda q: q.add_many([{"name": "x", "prioty": 1}]), "no option prioty"),
        (lambda q: q.add_many([{"data": 1}]), "job name ''"),
        (lambda q: q.add_many(5), "jobs 5 must be a list"),
        # ids
        (lambda q: q.job(5), "an id is a text"),
        (lambda q: q.scheduler(HALF), "scheduler id"),
        (lambda q: q.remove_scheduler(5), "scheduler id 5"),
        (lambda q: q.remove_deduplication_key(HALF), "deduplication id"),
        (lambda q: q.deduplication_job_id(5), "deduplication id 5"),
        # texts
        (lambda q: q.log("1", 5), "the line 5 for the log of job 1 must be a text"),
        (lambda q: q.cancel("1", reason=5), "the reason 5 to cancel job 1 must be a text"),
        (lambda q: q.upsert_scheduler("a", cron=5), "cron pattern 5"),
        (lambda q: q.upsert_scheduler("a", cron="* * * * *", tz=5), "time zone 5"),
        (lambda q: q.publish(5), "event name 5"),
        # what is wanted, and how much of it
        (lambda q: q.jobs(5), "states 5 must be a list"),
        (lambda q: q.jobs([["failed"]]), "no state"),
        (lambda q: q.counts_per_priority(5), "priorities 5 must be a list"),
        (lambda q: q.schedulers(-1), "start -1"),
        (lambda q: q.schedulers("x"), "start 'x'"),
        (lambda q: q.schedulers(limit=-1), "limit -1"),
        (lambda q: q.children("1", limit=0), "limit 0"),
        (lambda q: q.children("1", after=5), "5 is nothing to go on after"),
        (lambda q: q.tree("1", depth=3000), "depth 3000 must be a whole number from 0 to 100"),
        (lambda q: q.tree("1", max_children=-1), "max_children -1"),
        (lambda q: q.metrics("completed", "x"), "start 'x'"),
        (lambda q: q.metrics("completed", end=1.5), "end 1.5"),
        (lambda q: q.rate_limit_ttl("x"), "max 'x'"),
        (lambda q: q.result("1", timeout=float("nan")), "nan is no time to wait"),
        (lambda q: list(q.events(since=5)), "5 is no event id"),
        (lambda q: list(q.events(names=5)), "names 5 must be a list"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(queue: Any, call: Callable[[Any], object], told: str) -> None:
    with pytest.raises(QueueError) as refusal:
        call(queue)
    assert told in str(refusal.value)


@pytest.mark.parametrize("option", ["data_json", "max_data", "prioty"])
def test_an_option_that_add_does_not_have_is_no_argument_of_it(queue: Any, option: str) -> None:
    with pytest.raises(TypeError, match=rf"^add\(\) has no option {option}; it takes attempts, backoff"):
        queue.add("x", **{option: 5})


@pytest.mark.parametrize("name", [5, "", HALF, "a:b"])
@pytest.mark.parametrize("kind", [Queue, QueueEvents])
def test_a_queue_is_called_by_a_readable_text(kind: Any, name: Any) -> None:
    with pytest.raises(QueueError, match="queue name"):
        kind(name, redis=NOBODY)


@pytest.mark.parametrize("prefix", [5, HALF])
def test_a_prefix_is_a_readable_text(prefix: Any) -> None:
    with pytest.raises(QueueError, match=r"key prefix .* of queue 'render' must be a text"):
        Queue("render", redis=NOBODY, prefix=prefix)


def test_flows_are_a_list() -> None:
    with Flow(redis=NOBODY) as flows, pytest.raises(QueueError, match="flows 5 must be a list"):
        flows.add_many(5)  # type: ignore[arg-type]


TAKES_A_JOB = {
    **dict.fromkeys(("job", "state", "logs", "log_count", "clear_logs", "cancel", "retry", "promote", "remove"), ()),
    **dict.fromkeys(("tree", "children", "child_counts", "child_values", "child_failures"), ()),
    **dict.fromkeys(("remove_child_dependency", "remove_unprocessed_children"), ()),
    **dict.fromkeys(("change_priority", "change_delay", "update_data", "update_progress"), (1,)),
    "log": ("line",),
}


@pytest.mark.parametrize("method", TAKES_A_JOB)
def test_a_job_of_another_queue_is_not_taken_for_the_one_of_this_id(queue: Any, method: str) -> None:
    of_another = Job(queue="mail", id="1", name="letter")
    with pytest.raises(QueueError, match="job 1 is of queue mail, not render"):
        getattr(queue, method)(of_another, *TAKES_A_JOB[method])
