"""Whatever a job is given, returns, raises, reports or logs: a Node QueueEvents on its queue goes on listening.

BullMQ parses `returnvalue` and `data` of events as JSON, and one that is not ends the listener for good.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import serving
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from peer import Peer, PeerQueue

from sandq import JobFailed, Queue, QueueError
from sandq.config import QueueSettings
from sandq.verdict import is_json

LIMIT_S = 10.0
BY_HANDLER = ("returns", "raises", "raises-unprintable", "reports", "logs", "prints", "replaces", "adds")
FORGERIES = ("forges-result", "forges-progress", "forges-data")

# The same examples at every run, and only so many: each runs a job in a child.
FIXED = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Nested:
    """So many lists in one another; they are made where they are unpickled, as pickle cannot write that many."""

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('functools').reduce(lambda inner, _: [inner], range({self.levels}), [])",)


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


VALUES: dict[str, Any] = {
    "NaN": math.nan,
    "an infinity": {"a": [-math.inf]},
    "NaN as a key": {math.nan: 1},
    "half a surrogate pair": "\ud83d",
    "halves in the wrong order": {"\udfff\ud800": ["\udc80"]},
    "bytes": b"\xff\xfe\x00",
    "text of undecodable bytes": b"caf\xe9".decode("utf-8", "surrogateescape"),
    "1 MiB of text": "x" * (1 << 20),
    "1 MiB of NUL": "\0" * (1 << 20),
    "1 MiB of half pairs": "\ud800" * (1 << 20),
    "200 levels": Nested(200),
    "900 levels": Nested(900),
    "100000 levels": Nested(100_000),
    "a circle": circle(),
    "an int that JavaScript rounds": 2**64,
    "an int that JavaScript calls infinite": 10**400,
    "an int too long for text": 10**5000,
    "line ends": "\r\n\u2028\u2029\x85\0",
    "a set": {1, 2},
}
FORGED = {
    "nothing": b"",
    "half an object": b'{"a":',
    "NaN": b"NaN",
    "an infinity": b"[-Infinity]",
    "two texts": b"1 2",
    "a byte order mark": b"\xef\xbb\xbf1",
    "a bare control character": b'"\x01"',
    "an unknown escape": b'"\\x41"',
    "a leading zero": b"[01]",
    "a trailing comma": b"[1,]",
    "invalid UTF-8": b'"\xff"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "JavaScript": b"{a:1}",
    "20000 levels": b"[" * 20_000 + b"]" * 20_000,
}

texts = st.text(st.characters(exclude_categories=()), max_size=20)  # with half surrogate pairs
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=20)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.floats(), inner, max_size=4)
)


@pytest.fixture(scope="module")
def poisoned(redis_url: str) -> Iterator[tuple[Queue, str]]:
    """A queue served by the handlers of `poison.py`, and its prefix."""
    prefix = f"poison-{os.getpid()}"
    processor = str(Path(__file__).with_name("poison.py"))
    served = QueueSettings(processor=processor, concurrency=1, max_crashes=0, spares=2, max_data=4 << 20)
    with serving({"render": served}, redis_url, prefix), Queue("render", redis=redis_url, prefix=prefix) as queue:
        yield queue, prefix


@pytest.fixture
def listener(node_process: Peer, poisoned: tuple[Queue, str]) -> Iterator[PeerQueue]:
    """BullMQ on that queue; a QueueEvents of it hears all of this test's events, and may report no error."""
    poisoned[0].trim_events(0)
    yield PeerQueue(node_process, poisoned[1], "render")
    assert node_process.ask("close", prefix=poisoned[1]) == []


@pytest.fixture
def still_listens(listener: PeerQueue, poisoned: tuple[Queue, str]) -> Callable[[], None]:
    """Prove that a listener which has heard all that there was also hears of a good job."""
    queue, _ = poisoned

    def prove() -> None:
        sentinel = queue.add("echo", {"return": "heard"})
        assert listener.result(sentinel.id) == "heard"

    return prove


def run(queue: Queue, name: str, value: Any) -> None:
    """One job to its end, whatever that is."""
    job = queue.add(name, {"value": base64.b64encode(zlib.compress(pickle.dumps(value))).decode()})
    with contextlib.suppress(JobFailed):
        queue.result(job, LIMIT_S)


@pytest.mark.parametrize("name", BY_HANDLER)
def test_a_listener_survives_what_handlers_do_with_values_of_every_kind(
    poisoned: tuple[Queue, str], listener: PeerQueue, still_listens: Callable[[], None], name: str
) -> None:
    for value in VALUES.values():
        run(poisoned[0], name, value)
        still_listens()
    # One job that BullMQ cannot parse would fail the whole page.
    assert len(listener.call("getJobs", ["completed", "failed"], 0, 2 * len(VALUES))) >= 2 * len(VALUES)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_listener_survives_a_child_that_lies_about_json(
    poisoned: tuple[Queue, str], still_listens: Callable[[], None], name: str
) -> None:
    for body in FORGED.values():
        run(poisoned[0], name, body)
    still_listens()


@settings(FIXED, max_examples=80)
@given(name=st.sampled_from(BY_HANDLER), value=values)
def test_a_listener_survives_what_handlers_do_with_any_value(
    poisoned: tuple[Queue, str], still_listens: Callable[[], None], name: str, value: Any
) -> None:
    run(poisoned[0], name, value)
    still_listens()


@settings(FIXED, max_examples=80)
@given(name=texts, value=values, job_id=texts, window=texts, reason=texts)
def test_a_listener_survives_what_producers_add_and_cancel(
    poisoned: tuple[Queue, str], still_listens: Callable[[], None], name: str, value: Any, job_id: str, window: str,
    reason: str,
) -> None:  # fmt: skip
    queue, _ = poisoned
    for options in ({}, {"job_id": job_id}, {"deduplication": window}):
        with contextlib.suppress(QueueError):  # refused before Redis was told
            queue.cancel(queue.add(name, {"value": value}, delay="1h", **options), reason)
    still_listens()


@settings(FIXED, max_examples=80)
@given(name=texts, value=values, line=texts)
def test_a_listener_survives_what_operators_write_and_publish(
    poisoned: tuple[Queue, str], still_listens: Callable[[], None], name: str, value: Any, line: str
) -> None:
    queue, _ = poisoned
    job = queue.add("echo", delay="1h")
    for write in (queue.update_progress, queue.update_data):
        with contextlib.suppress(QueueError):
            write(job, value)
    queue.log(job, line)
    with contextlib.suppress(QueueError):
        queue.publish(name, value=value, line=line)
    queue.remove(job)
    still_listens()


@settings(FIXED, max_examples=200)
@given(st.binary(max_size=8) | values.map(lambda value: json.dumps(repr(value)).encode()) | st.from_regex(
    rb"[\[{]?(\"(\\u[dD][89a-fA-F]00|\\.|.)*\"|-?[0-9.eE+-]+|null|true|[:,\s])*[\]}]?", fullmatch=True))  # fmt: skip
@example(b'"\\ud800"')
@example(b"1e999")
@example(b"-0")
@example(b" \t\r\n1 ")
def test_what_is_let_into_events_as_json_is_json_to_node(node_process: Peer, raw: bytes) -> None:
    if is_json(raw):
        assert node_process.ask("parses", text=raw.decode())


@pytest.mark.parametrize("raw", FORGED.values(), ids=FORGED)
def test_a_forgery_is_taken_for_json_only_where_node_takes_it(node_process: Peer, raw: bytes) -> None:
    assert not is_json(raw) or node_process.ask("parses", text=raw.decode())
