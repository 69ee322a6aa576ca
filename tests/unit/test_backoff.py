"""How long a retry waits: what people may write, what other clients may have stored, and the arithmetic."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandq.backoff import LONGEST_MS, Backoff
from sandq.errors import QueueError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("exponential:1s", Backoff("exponential", 1000)),
        ("fixed:500ms", Backoff("fixed", 500)),
        ("5s", Backoff("fixed", 5000)),
        (2.5, Backoff("fixed", 2500)),
        (0, Backoff("fixed", 0)),
        (timedelta(minutes=1), Backoff("fixed", 60_000)),
        ({"type": "exponential", "delay": 250, "jitter": 0.5}, Backoff("exponential", 250, 0.5)),
        ({"type": "fixed"}, Backoff("fixed", 0)),
        (Backoff("fixed", 7), Backoff("fixed", 7)),
    ],
)
def test_every_documented_spelling_is_understood(written, meant):
    assert Backoff.parse(written) == meant


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("exponentail:1s", "unknown type 'exponentail'"),
        ("exponential:", "write it like exponential:1s"),
        ("soon", "write it like exponential:1s"),
        (-1, "out of range"),
        (float("nan"), "not finite"),
        (10**400, "is not a backoff"),
        (True, "is not a backoff"),
        ("fixed:366d", "out of range"),
        ({"delay": 5}, "has no type"),
        ({"type": "fixed", "dealy": 5}, "unknown keys dealy"),
        ({"type": "fixed", "delay": "5s"}, "delay '5s' is not a number"),
        ({"type": "custom", "delay": 5}, "type 'custom' is not known"),
        ({"type": "fixed", "delay": 5, "jitter": 2}, "jitter 2.0 is out of range"),
    ],
)
def test_a_mistake_is_refused_with_what_to_write_instead(written, complaint):
    with pytest.raises(QueueError, match=complaint):
        Backoff.parse(written)


@pytest.mark.parametrize(
    ("stored", "meant"),
    [
        ({}, None),
        ({"backoff": None}, None),
        ({"backoff": 3000}, Backoff("fixed", 3000)),
        ({"backoff": {"type": "exponential", "delay": 1000, "jitter": 0.25}}, Backoff("exponential", 1000, 0.25)),
        ({"backoff": {"type": "custom"}}, None),
        ({"backoff": {"type": "custom", "delay": 700}}, Backoff("fixed", 700)),
        ({"backoff": {"type": ["?"], "delay": 700, "jitter": 9}}, Backoff("fixed", 700, 1.0)),
        ({"backoff": {"type": "fixed", "delay": -1}}, None),
        ({"backoff": {"type": "fixed", "delay": 1e300}}, Backoff("fixed", LONGEST_MS)),
        ({"backoff": "nonsense"}, None),
        ({"backoff": []}, None),
    ],
)
def test_whatever_another_client_stored_is_read_without_an_error(stored, meant):
    assert Backoff.from_opts(stored) == meant


def test_the_stored_form_is_bullmqs():
    assert Backoff.parse("exponential:1s").to_opts() == {"type": "exponential", "delay": 1000}
    assert Backoff("fixed", 20, 0.5).to_opts() == {"type": "fixed", "delay": 20, "jitter": 0.5}


def test_fixed_waits_the_same_each_time_and_exponential_doubles():
    rng = random.Random(1)
    assert [Backoff("fixed", 300).delay_ms(n, rng) for n in (1, 2, 9)] == [300, 300, 300]
    assert [Backoff("exponential", 300).delay_ms(n, rng) for n in (1, 2, 3, 4)] == [300, 600, 1200, 2400]


def test_jitter_draws_only_its_part_of_the_delay():
    rng = random.Random(7)
    drawn = [Backoff("fixed", 1000, 0.25).delay_ms(1, rng) for _ in range(2000)]
    assert 750 <= min(drawn) < 760
    assert 990 < max(drawn) < 1000
    assert len(set(drawn)) > 200


def test_doubling_ends_at_a_year():
    assert Backoff("exponential", 1000).delay_ms(10**9, random.Random(1)) == LONGEST_MS


backoffs = st.builds(
    Backoff, st.sampled_from(["fixed", "exponential"]), st.integers(0, LONGEST_MS), st.floats(0, 1, allow_nan=False)
)


@given(backoffs, st.integers(-5, 10**12), st.integers())
def test_every_delay_lies_between_nothing_and_a_year(backoff, attempts, seed):
    assert 0 <= backoff.delay_ms(attempts, random.Random(seed)) <= LONGEST_MS


@given(backoffs.filter(lambda backoff: backoff.base_ms > 0))
def test_what_is_stored_reads_back_as_it_was(backoff):
    assert Backoff.from_opts({"backoff": backoff.to_opts()}) == backoff
    assert Backoff.parse(backoff.to_opts()) == backoff


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "delay", "jitter", "x"]), inner),
    max_leaves=8,
)


@given(json_values)
def test_no_json_in_the_backoff_option_makes_reading_fail(value):
    backoff = Backoff.from_opts({"backoff": value})
    assert backoff is None or 0 <= backoff.delay_ms(3, random.Random(0)) <= LONGEST_MS


@given(json_values)
def test_parsing_anything_gives_a_backoff_or_a_queue_error(value):
    try:
        assert isinstance(Backoff.parse(value), Backoff)
    except QueueError as error:
        assert "backoff" in str(error)
