"""A job hash, read as forgivingly as other clients read it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandq.job import Job

FULL = {
    b"name": b"page",
    b"data": b'{"n":1}',
    b"opts": b'{"attempts":3,"backoff":{"type":"fixed","delay":9}}',
    b"timestamp": b"1700000000000",
    b"delay": b"60000",
    b"priority": b"5",
    b"atm": b"1",
    b"ats": b"2",
    b"stc": b"3",
    b"sq_crashes": b"4",
    b"sq_interruptions": b"5",
    b"sq_unknown": b"6",
    b"sq_fence": b"1795288699525000",
    b"sq_death": b'{"cause":"signal"}',
    b"defa": b"child x failed",
    b"parentKey": b"bull:parent:P",
    b"rjk": b"nightly",
    b"deid": b"D",
    b"processedOn": b"1700000000001",
    b"finishedOn": b"1700000000002",
    b"pb": b"wk1",
    b"progress": b"50",
    b"returnvalue": b'{"ok":true}',
    b"failedReason": "schön".encode(),
    b"stacktrace": b'["a","b"]',
}


def test_every_field_of_a_stored_job_is_read():
    assert Job.from_hash("render", "7", FULL) == Job(
        queue="render",
        id="7",
        name="page",
        data_json=b'{"n":1}',
        opts={"attempts": 3, "backoff": {"type": "fixed", "delay": 9}},
        timestamp=1700000000000,
        delay=60000,
        priority=5,
        attempts_made=1,
        attempts_started=2,
        stalled_count=3,
        crashes=4,
        interruptions=5,
        unknown_names=6,
        fence=1795288699525000,
        death={"cause": "signal"},
        deferred_failure="child x failed",
        parent_key="bull:parent:P",
        scheduler_id="nightly",
        deduplication_id="D",
        processed_on=1700000000001,
        finished_on=1700000000002,
        processed_by="wk1",
        progress_json=b"50",
        returnvalue_json=b'{"ok":true}',
        failed_reason="schön",
        stacktrace=("a", "b"),
    )


def test_a_hash_with_only_a_name_is_a_job():
    job = Job.from_hash("render", "7", {b"name": b"page"})
    assert (job.name, job.data, job.returnvalue, job.progress, job.attempts) == ("page", {}, None, None, 1)


def test_values_are_parsed_only_when_asked_for():
    job = Job.from_hash("render", "7", FULL)
    assert (job.data, job.progress, job.returnvalue) == ({"n": 1}, 50, {"ok": True})
    broken = Job.from_hash("render", "7", {b"data": b"not json"})
    assert broken.data_json == b"not json"
    with pytest.raises(ValueError, match="Expecting value"):
        _ = broken.data


@pytest.mark.parametrize(
    ("opts", "attempts"),
    [
        (b"{}", 1),
        (b'{"attempts":0}', 1),
        (b'{"attempts":-4}', 1),
        (b'{"attempts":3}', 3),
        (b'{"attempts":"3"}', 3),
        (b'{"attempts":null}', 1),
        (b'{"attempts":[]}', 1),
        (b'{"attempts":1e400}', 1),
        (b"not json", 1),
        (b"[]", 1),
    ],
)
def test_attempts_is_at_least_one_whatever_is_stored(opts, attempts):
    assert Job.from_hash("render", "7", {b"opts": opts}).attempts == attempts


def test_the_attempts_field_of_an_old_hash_wins():
    assert Job.from_hash("render", "7", {b"attemptsMade": b"4", b"atm": b"1"}).attempts_made == 4


def test_a_fractional_timestamp_is_truncated():
    assert Job.from_hash("render", "7", {b"timestamp": b"1700000000000.9"}).timestamp == 1700000000000


def test_a_job_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        Job(queue="render", id="1", name="page").name = "other"  # type: ignore[misc]


@given(st.dictionaries(st.sampled_from(list(FULL)), st.binary(max_size=40) | st.sampled_from(list(FULL.values()))))
def test_no_hash_content_makes_reading_fail(fields):
    job = Job.from_hash("render", "7", fields)
    assert job.id == "7"
    assert job.attempts >= 1
    assert all(isinstance(entry, str) for entry in job.stacktrace)


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        ({"sq": {"timeout": 1500}}, 1500),
        ({"sq": {"timeout": 0.5}}, 0.5),
        ({"sq": {"timeout": 10**400}}, 2**53),
        ({"sq": {"timeout": float("inf")}}, 2**53),
        ({"sq": {"timeout": float("nan")}}, None),
        ({"sq": {"timeout": 0}}, None),
        ({"sq": {"timeout": True}}, None),
        ({"sq": {"timeout": "5s"}}, None),
        ({"sq": [1]}, None),
        ({}, None),
    ],
)
def test_a_limit_in_the_options_is_a_positive_bounded_number_or_none(asked: dict[str, object], limit: object) -> None:
    assert Job(queue="render", id="1", name="page", opts=asked).limit("timeout") == limit
