"""What a producer may ask for: the stored form of each option, and the message for each mistake."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandq.backoff import Backoff
from sandq.errors import JobNotFound, QueueError
from sandq.store import produce, reads
from sandq.store.keys import RESERVED_IDS, QueueKeys
from sandq.store.newjob import MAX_PRIORITY, NewJob, Parent, check_id, encode_opts, new_job

KEYS = QueueKeys("render")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_a_plain_job_stores_its_attempts_and_nothing_it_was_not_given() -> None:
    assert new_job("page").opts == {"attempts": 0}


def test_no_data_is_an_empty_object_as_bullmq_stores_it() -> None:
    assert new_job("page").data_json == b"{}"


def test_data_is_the_text_a_javascript_producer_would_write() -> None:
    assert new_job("page", {"a": 1, "s": "é"}).data_json == '{"a":1,"s":"é"}'.encode()


def test_every_option_has_the_name_bullmq_stores() -> None:
    new = new_job(
        "page",
        attempts=3,
        backoff="exponential:1s",
        delay="5s",
        priority=7,
        job_id="page-1",
        lifo=True,
        timeout="2m",
        memory="1MiB",
        remove_on_complete=True,
        remove_on_fail={"age": 3600, "count": 10},
        keep_logs=5,
        stacktrace_limit=2,
        timestamp=1700000000000,
        deduplication={"id": "d", "ttl": "1s", "extend": True, "replace": True, "keep_last_if_active": False},
    )
    assert new.opts == {
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 1000},
        "delay": 5000,
        "priority": 7,
        "jobId": "page-1",
        "lifo": True,
        "timestamp": 1700000000000,
        "removeOnComplete": True,
        "removeOnFail": {"age": 3600, "count": 10},
        "kl": 5,
        "stackTraceLimit": 2,
        "sq": {"timeout": 120000, "memory": 1 << 20},
        "de": {"id": "d", "ttl": 1000, "extend": True, "replace": True},
    }
    assert (new.delay_ms, new.priority, new.job_id, new.lifo, new.timestamp) == (5000, 7, "page-1", True, 1700000000000)


def test_a_parent_stands_in_opts_under_queue_and_in_the_hash_under_queue_key() -> None:
    parent = Parent(id="P", queue="bull:parent", on_failure="fail")
    assert new_job("page", parent=parent).opts == {
        "attempts": 0,
        "parent": {"id": "P", "queue": "bull:parent"},
        "fpof": True,
    }
    assert json.loads(parent.to_field()) == {"id": "P", "queueKey": "bull:parent", "fpof": True}


@pytest.mark.parametrize(
    ("policy", "flag"),
    [("wait", {}), ("continue", {"cpof": True}), ("ignore", {"idof": True}), ("remove", {"rdof": True})],
)
def test_each_failure_rule_is_one_flag(policy: Any, flag: dict[str, bool]) -> None:
    assert Parent(id="P", queue="bull:parent", on_failure=policy).flag == flag


@pytest.mark.parametrize("given_delay", [5, 5.0, "5s", "5000ms", timedelta(seconds=5)])
def test_a_delay_is_seconds_a_timedelta_or_a_text(given_delay: Any) -> None:
    assert new_job("page", delay=given_delay).delay_ms == 5000


@given(json_values)
def test_data_comes_back_as_it_was_given(data: Any) -> None:
    expected = {} if data is None else data
    assert json.loads(new_job("page", data).data_json) == expected


@given(st.text(alphabet=st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF), min_size=1, max_size=1))
def test_half_a_surrogate_pair_is_stored_as_its_escape(half: str) -> None:
    encoded = new_job("page", {"k": half}).data_json
    assert json.loads(encoded.decode("utf-8")) == {"k": half}


@given(
    attempts=st.integers(0, 1000),
    backoff=st.none() | st.builds(Backoff, st.sampled_from(["fixed", "exponential"]), st.integers(0, 10**6)),
    delay=st.none() | st.integers(0, 10**6),
    priority=st.integers(0, MAX_PRIORITY),
    lifo=st.booleans(),
    timeout=st.none() | st.integers(1, 10**6),
    memory=st.none() | st.integers(1, 2**40),
    remove_on_fail=st.none() | st.booleans() | st.integers(0, 10**6),
    timestamp=st.none() | st.integers(0, 2**52),
)
def test_opts_come_back_from_their_json_unchanged(**options: Any) -> None:
    new = new_job("page", **options)
    stored = json.loads(encode_opts(new.opts))
    assert stored == new.opts
    again = NewJob(name="page", opts=stored)
    assert (again.delay_ms, again.priority, again.lifo, again.timestamp) == (
        new.delay_ms,
        new.priority,
        new.lifo,
        new.timestamp,
    )
    assert None not in stored.values()


@pytest.mark.parametrize("job_id", ["a", "page-1", "007", "1.5", "-0", "+5", "x:y:z", "ключ", "wait-1", "id2"])
def test_an_id_that_can_be_told_from_a_counter_and_a_key_is_accepted(job_id: str) -> None:
    assert check_id(job_id) == job_id


@pytest.mark.parametrize(
    "job_id", [*sorted(RESERVED_IDS), "de:a:b", "dn:a:b", "repeat:a:1", "sq:a:b", "0:a:b", "a:b:lock"]
)
def test_an_id_that_names_a_key_of_the_queue_is_refused(job_id: str) -> None:
    with pytest.raises(QueueError, match="own keys"):
        check_id(job_id)


@pytest.mark.parametrize("job_id", ["0", "12", "-5", "123456789012345678901234567890"])
def test_an_id_that_reads_as_an_integer_is_refused(job_id: str) -> None:
    with pytest.raises(QueueError, match="integer"):
        check_id(job_id)


@pytest.mark.parametrize("job_id", ["a:b", ":", "a:b:c:d"])
def test_an_id_with_a_colon_is_refused_unless_it_has_three_parts(job_id: str) -> None:
    with pytest.raises(QueueError, match="':'"):
        check_id(job_id)


@pytest.mark.parametrize("job_id", ["", 5, None, b"a"])
def test_an_id_that_is_no_text_is_refused(job_id: Any) -> None:
    with pytest.raises(QueueError, match="text"):
        check_id(job_id)


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ({"priority": -1}, "priority -1"),
        ({"priority": MAX_PRIORITY + 1}, "2097151"),
        ({"priority": 1.5}, "priority 1.5"),
        ({"priority": True}, "priority True"),
        ({"attempts": -1}, "attempts -1"),
        ({"attempts": "3"}, "attempts '3'"),
        ({"delay": -1}, "delay -1"),
        ({"delay": "soon"}, "delay: 'soon' is not a duration"),
        ({"delay": float("inf")}, "not finite"),
        ({"timeout": 0}, "timeout 0"),
        ({"memory": 0}, "memory 0"),
        ({"memory": "lots"}, "memory: 'lots'"),
        ({"keep_logs": -1}, "keep_logs -1"),
        ({"stacktrace_limit": -1}, "stacktrace_limit -1"),
        ({"timestamp": 1.5}, "timestamp 1.5"),
        ({"backoff": "sometimes:1s"}, "sometimes"),
        ({"remove_on_complete": -2}, "remove_on_complete -2"),
        ({"remove_on_fail": {"days": 1}}, "count or age"),
        ({"remove_on_fail": {"limit": 1}}, "count or age"),
        ({"deduplication": ""}, "deduplication id"),
        ({"deduplication": {"ttl": 5}}, "deduplication id"),
        ({"deduplication": {"id": "a", "mode": "b"}}, "unknown keys mode"),
        ({"deduplication": {"id": "a", "ttl": 0}}, "ttl"),
        ({"deduplication": "a", "parent": Parent(id="P", queue="bull:parent")}, "parent and deduplication"),
        ({"job_id": "\ud800x"}, "surrogate"),
        ({"deduplication": 5}, "deduplication 5 must be an id, or a mapping"),
        ({"deduplication": ["a"]}, "deduplication ['a'] must be"),
        ({"deduplication": {"id": "a", "ttl": "40000d"}}, "deduplication ttl"),
        ({"remove_on_complete": {"age": "soon"}}, "remove_on_complete.age: 'soon' is not a duration"),
        ({"remove_on_fail": {"age": -1}}, "remove_on_fail.age"),
        ({"timeout": "40000d"}, "at most a hundred years"),
        ({"timeout": 10**400}, "timeout"),
        ({"memory": 10**400}, "memory"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(mistake: dict[str, Any], says: str) -> None:
    with pytest.raises(QueueError) as refusal:
        new_job("page", **mistake)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ({"id": "meta", "queue": "bull:parent"}, "own keys"),
        ({"id": 5, "queue": "bull:parent"}, "an id is a text"),
        ({"id": "P", "queue": ""}, "parent queue"),
        ({"id": "P", "queue": 5}, "parent queue"),
    ],
)
def test_a_parent_that_no_job_can_be_is_refused(mistake: dict[str, Any], says: str) -> None:
    with pytest.raises(QueueError, match=says):
        Parent(**mistake)


@pytest.mark.parametrize(("age", "stored"), [(3600, 3600), ("7d", 604_800), (timedelta(minutes=1), 60), ("500ms", 1)])
def test_how_old_finished_jobs_may_get_reads_like_any_duration_and_is_stored_in_seconds(age: Any, stored: int) -> None:
    assert new_job("page", remove_on_complete={"count": 5, "age": age}).opts["removeOnComplete"] == {
        "count": 5,
        "age": stored,
    }


def test_a_deduplication_window_may_last_months() -> None:
    assert new_job("page", deduplication={"id": "a", "ttl": "90d"}).opts["de"]["ttl"] == 90 * 24 * 3600 * 1000


@pytest.mark.parametrize("name", ["", None, 5, "\udcff"])
def test_a_name_that_is_no_readable_text_is_refused(name: Any) -> None:
    with pytest.raises(QueueError, match="job name"):
        new_job(name)


def circle() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize("data", [float("nan"), float("-inf"), {1, 2}, b"raw", object(), circle()])
def test_data_that_is_not_json_is_refused_under_the_jobs_name(data: Any) -> None:
    with pytest.raises(QueueError, match="data of job 'page' is not JSON"):
        new_job("page", {"k": data})


def test_data_over_the_limit_is_refused_with_both_sizes_and_the_way_out() -> None:
    assert len(new_job("page", "x" * ((1 << 20) - 2)).data_json) == 1 << 20
    with pytest.raises(QueueError, match="over the limit of 1MiB; store it elsewhere"):
        new_job("page", "x" * ((1 << 20) - 1))


def test_the_size_of_data_is_its_utf_8_not_its_characters() -> None:
    with pytest.raises(QueueError, match="over the limit"):
        new_job("page", "é" * ((1 << 19) + 1))


def test_data_already_encoded_is_taken_as_it_is() -> None:
    assert new_job("page", data_json=b'{"a": 1e2}').data_json == b'{"a": 1e2}'


@pytest.mark.parametrize("job_id", ["meta", "wait", "dn:x", "repeat:nightly", "5:logs", "sq"])
def test_no_operation_mistakes_a_key_of_the_queue_for_a_job(job_id: str) -> None:
    for operation in (
        produce.remove,
        produce.cancel,
        produce.retry,
        produce.promote,
        reads.job,
        reads.state,
        reads.logs,
    ):
        with pytest.raises(JobNotFound, match="own keys"):
            operation(KEYS, job_id)


@pytest.mark.parametrize("job_id", ["", 5, None, "\ud800"])
def test_an_id_that_no_job_can_have_is_a_job_not_found(job_id: Any) -> None:
    with pytest.raises(JobNotFound, match="an id is a text"):
        reads.job(KEYS, job_id)


def test_a_schedulers_run_is_a_job_though_its_id_begins_like_a_key() -> None:
    assert produce.promote(KEYS, "repeat:nightly:1700000000000").args == ("repeat:nightly:1700000000000",)


def test_jobs_are_split_by_number_and_by_size_without_losing_their_order() -> None:
    jobs = [new_job("page", n) for n in range(1203)]
    pieces = list(produce.chunks(jobs))
    assert [len(piece) for piece in pieces] == [500, 500, 203]
    assert [new for piece in pieces for new in piece] == jobs
    big = [new_job("page", "x" * 1_000_000) for _ in range(20)]
    assert [len(piece) for piece in produce.chunks(big)] == [8, 8, 4]
    assert list(produce.chunks([])) == []


def test_one_call_does_not_take_more_jobs_than_redis_should_be_held_up_for() -> None:
    with pytest.raises(QueueError, match="chunks"):
        produce.add(KEYS, [new_job("page")] * 501)
