"""What an attempt ended as: every combination of answer, death and stop that can be seen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandq.outcome import (
    Cancelled,
    Cause,
    Completed,
    Crashed,
    Death,
    Interrupted,
    LockLost,
    Outcome,
    Postponed,
    Raised,
    TimedOut,
    TooLarge,
    UnknownName,
)
from sandq.protocol import Frame, Kind
from sandq.verdict import Evidence, Stop, is_json, judge

DONE = Frame(Kind.DONE, body=b'{"pages":3}')


def raised(*, permanent: bool = False, stopped: bool = False) -> Frame:
    head = {"error": "ValueError: no", "traceback": "trace", "permanent": permanent, "stopped": stopped}
    return Frame(Kind.RAISED, head=head)


def postponed(until: str, delay_s: float) -> Frame:
    return Frame(Kind.POSTPONED, head={"until": until, "delay_s": delay_s})


TIMEOUT = Stop("timeout", "timed out after 5s", 5.0)
CANCEL = Stop("cancel", "enough")
DRAIN = Stop("drain", "the supervisor is draining")
LOST = Stop("lock-lost", "Redis says so")
MEMORY = Stop("memory", "over 1GiB")
PROTOCOL = Stop("protocol", "protocol violation: garbage")


def verdict(**seen: Any) -> Outcome:
    return judge(Evidence(**{"max_result": 100, **seen}))


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        ({"final": DONE}, Completed(DONE.body)),
        ({"final": DONE, "exit_code": 0}, Completed(DONE.body)),
        ({"final": DONE, "stop": TIMEOUT}, Completed(DONE.body)),
        ({"final": DONE, "stop": DRAIN}, Completed(DONE.body)),
        ({"final": DONE, "stop": CANCEL}, Cancelled("enough")),
        ({"final": DONE, "stop": LOST}, LockLost("Redis says so")),
        ({"final": DONE, "killed_by": "lease"}, LockLost("its lease passed and the launcher killed it")),
        ({"final": Frame(Kind.DONE, body=b"1" * 101)}, TooLarge("result", 101, 100)),
        ({"final": Frame(Kind.OVERSIZE, head={"size": 500})}, TooLarge("result", 500, 100)),
        ({"final": raised()}, Raised("ValueError: no", "trace")),
        ({"final": raised(permanent=True)}, Raised("ValueError: no", "trace", permanent=True)),
        ({"final": raised(), "stop": TIMEOUT}, Raised("ValueError: no", "trace")),
        ({"final": raised(), "stop": CANCEL}, Cancelled("enough")),
        ({"final": raised(stopped=True)}, Raised("ValueError: no", "trace")),
        ({"final": postponed("delay", 2.0)}, Postponed("delay", 2.0)),
        ({"final": postponed("limit", 0)}, Postponed("limit", 0.0)),
        ({"final": postponed("children", 0)}, Postponed("children", 0.0)),
        ({"final": Frame(Kind.UNKNOWN, head={"known": ["a", 1]})}, UnknownName(("a", "1"))),
        ({"exit_code": 0, "stop": LOST}, LockLost("Redis says so")),
        ({"signal": "SIGKILL", "killed_by": "lease"}, LockLost("its lease passed and the launcher killed it")),
        (
            {"signal": "SIGKILL", "killed_by": "protocol", "begun": True},  # it followed the job that broke it
            Interrupted(
                Death(
                    cause=Cause.SIGNAL,
                    detail="its child was ended (protocol) for the job before it",
                    signal="SIGKILL",
                )
            ),
        ),
    ],
)
def test_what_an_answer_means(seen: dict[str, Any], outcome: Outcome) -> None:
    assert verdict(**seen) == outcome


@pytest.mark.parametrize(
    ("seen", "outcome", "cause", "detail"),
    [
        ({"exit_code": 0}, Crashed, Cause.EXIT, "exit 0 before a result"),
        ({"exit_code": 3}, Crashed, Cause.EXIT, "exit 3 before a result"),
        ({"signal": "SIGSEGV"}, Crashed, Cause.SIGNAL, "SIGSEGV"),
        ({"signal": "SIGKILL"}, Crashed, Cause.SIGNAL, "SIGKILL from outside"),
        ({"signal": "SIGKILL", "oom_kills": 1}, Crashed, Cause.OOM_KERNEL, "out of memory"),
        ({"signal": "SIGTERM", "oom_kills": 1}, Crashed, Cause.SIGNAL, "SIGTERM"),
        ({"signal": "SIGKILL", "stop": MEMORY}, Crashed, Cause.OOM_LIMIT, "over 1GiB"),
        ({"signal": "SIGKILL", "stop": PROTOCOL}, Crashed, Cause.PROTOCOL, "garbage"),
        ({"signal": "SIGKILL", "stop": TIMEOUT}, TimedOut, Cause.TIMEOUT_HARD, "timed out after 5s; killed"),
        ({"exit_code": 0, "stop": TIMEOUT}, TimedOut, Cause.TIMEOUT_HARD, "timed out after 5s; killed"),
        ({"final": raised(stopped=True), "stop": TIMEOUT}, TimedOut, Cause.TIMEOUT_SOFT, "timed out after 5s"),
        ({"final": raised(stopped=True), "stop": DRAIN}, Interrupted, Cause.DRAIN, "draining"),
        ({"signal": "SIGKILL", "stop": DRAIN}, Interrupted, Cause.DRAIN, "draining"),
        ({"signal": "SIGSEGV", "begun": False}, Interrupted, Cause.SIGNAL, "ended before it read the job: SIGSEGV"),
        ({"unseen": "launcher died"}, Interrupted, Cause.LAUNCHER, "launcher died"),
        ({"unseen": "launcher died", "stop": TIMEOUT}, TimedOut, Cause.TIMEOUT_HARD, "timed out after 5s; killed"),
        ({"unseen": "launcher died", "stop": CANCEL}, Cancelled, Cause.CANCELLED, "enough"),
        ({"signal": "SIGTERM", "stop": CANCEL}, Cancelled, Cause.CANCELLED, "enough"),
        ({"final": Frame(Kind.DONE, body=b"{")}, Crashed, Cause.PROTOCOL, "not one JSON text"),
        ({"final": Frame(Kind.DONE, body=b"")}, Crashed, Cause.PROTOCOL, "not one JSON text"),
        ({"final": postponed("never", 1)}, Crashed, Cause.PROTOCOL, "postponed its job until 'never'"),
        ({"final": postponed("delay", -1)}, Crashed, Cause.PROTOCOL, "by -1"),
        ({"final": postponed("delay", float("nan"))}, Crashed, Cause.PROTOCOL, "by nan s"),
        ({"final": postponed("delay", float("inf"))}, Crashed, Cause.PROTOCOL, "by inf s"),
    ],
)
def test_what_a_death_means(seen: dict[str, Any], outcome: type[Any], cause: Cause, detail: str) -> None:
    judged = verdict(**seen)
    assert isinstance(judged, outcome)
    assert judged.death.cause == cause
    assert detail in judged.death.detail


def test_a_soft_stop_leaves_the_stack_of_where_the_handler_stood() -> None:
    judged = verdict(final=raised(stopped=True), stop=TIMEOUT)
    assert isinstance(judged, TimedOut)
    assert (judged.limit_s, judged.death.stack) == (5.0, "trace")


def test_a_lost_lock_outranks_everything_that_was_seen() -> None:
    for seen in ({"final": DONE}, {"final": raised()}, {"exit_code": 1}, {"unseen": "launcher died"}):
        assert isinstance(verdict(**seen, stop=LOST), LockLost)


# -- one JSON text -----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def reads_as_json(raw: bytes) -> bool:
    """The standard library's opinion, with the words refused that are not JSON."""

    def no_word(word: str) -> None:
        raise ValueError(word)

    try:
        json.loads(raw.decode("utf-8"), parse_constant=no_word)
    except ValueError:
        return False
    return True


@given(JSON, st.booleans())
def test_whatever_json_writes_is_json(value: object, escaped: bool) -> None:
    assert is_json(json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass"))


@given(st.text(alphabet='{}[]",:\\u0123dDbBfF8cC \t\n-+.eEtrue', max_size=24))
def test_it_agrees_with_the_standard_library_on_what_almost_is_json(text: str) -> None:
    assert is_json(text.encode()) == reads_as_json(text.encode())


@given(st.binary(max_size=24))
def test_it_agrees_with_the_standard_library_on_bytes(raw: bytes) -> None:
    assert is_json(raw) == reads_as_json(raw)


@pytest.mark.parametrize(
    "raw",
    [b'"\\ud800"', b'"\\udc00\\ud800"', b'"a\\uD83Db"', b'["\\ud83d\\ude00", "\\ud83d"]', b" 1 ", b'"\\\\ud800"'],
)
def test_a_lone_surrogate_may_stand_as_an_escape(raw: bytes) -> None:
    assert reads_as_json(raw)
    assert is_json(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"{} {}",
        b"[1,]",
        b"'a'",
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b"\xef\xbb\xbf1",
    ],
)
def test_what_is_not_one_json_text_is_refused(raw: bytes) -> None:
    assert not is_json(raw)
