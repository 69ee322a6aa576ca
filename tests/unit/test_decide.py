"""What becomes of a job after each outcome: the rows of the table, then what must hold for every row at once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandq.config import QueueSettings
from sandq.decide import LONGEST_POSTPONE_S, MAX_TEXT, MAX_TRACES, decide, overrule
from sandq.job import Job
from sandq.outcome import (
    Cancelled,
    Cause,
    Completed,
    Counter,
    Crashed,
    Death,
    Deferred,
    InitFailed,
    Interrupted,
    LockLost,
    Outcome,
    Place,
    Postponed,
    Raised,
    Settlement,
    TimedOut,
    TooLarge,
    UnknownName,
)

SETTINGS = QueueSettings(concurrency=1)
BACKOFF = {"type": "exponential", "delay": 1500}
SEGV = Death(cause=Cause.SIGNAL, detail="SIGSEGV", stderr="Fatal Python error")
DRAIN = Death(cause=Cause.DRAIN, detail="still running 25s after the drain began")


def a_job(**changes):
    return Job(queue="render", id="1", name="page", **changes)


def settled(outcome, job=None, limits=SETTINGS):
    settlement = decide(job or a_job(), outcome, limits, random.Random(1))
    assert settlement is not None
    return settlement


RETRY = a_job(opts={"attempts": 3})
BACKING_OFF = a_job(opts={"attempts": 3, "backoff": BACKOFF}, attempts_made=1)
LAST = a_job(opts={"attempts": 3, "backoff": BACKOFF}, attempts_made=2)
BOOM = Raised("ValueError: boom", "Traceback: boom")
SOFT = TimedOut(5.0, Death(cause=Cause.TIMEOUT_SOFT))

# job, outcome, (to, front, spends an attempt, counter, delay_s, limit_s)
TABLE = {
    "completed": (a_job(), Completed(b'{"n":1}'), ("completed", False, True, None, 0, 0)),
    "raised, no attempts option": (a_job(), BOOM, ("failed", False, True, None, 0, 0)),
    "raised, attempts 0": (a_job(opts={"attempts": 0}), BOOM, ("failed", False, True, None, 0, 0)),
    "raised, attempts left": (RETRY, BOOM, ("wait", False, True, None, 0, 0)),
    "raised, lifo": (a_job(opts={"attempts": 3, "lifo": True}), BOOM, ("wait", True, True, None, 0, 0)),
    "raised, lifo and priority": (
        a_job(opts={"attempts": 3, "lifo": True}, priority=4),
        BOOM,
        ("wait", False, True, None, 0, 0),
    ),
    "raised, backoff": (BACKING_OFF, BOOM, ("delayed", False, True, None, 3.0, 0)),
    "raised, unknown backoff type": (
        a_job(opts={"attempts": 3, "backoff": {"type": "custom"}}),
        BOOM,
        ("wait", False, True, None, 0, 0),
    ),
    "raised, last attempt": (LAST, BOOM, ("failed", False, True, None, 0, 0)),
    "raised for good": (RETRY, Raised("E", "", permanent=True), ("failed", False, True, None, 0, 0)),
    "timed out, attempts left": (RETRY, SOFT, ("wait", False, True, None, 0, 0)),
    "timed out, lifo": (a_job(opts={"attempts": 3, "lifo": True}), SOFT, ("wait", True, True, None, 0, 0)),
    "timed out, backoff": (BACKING_OFF, SOFT, ("delayed", False, True, None, 3.0, 0)),
    "timed out, last attempt": (LAST, SOFT, ("failed", False, True, None, 0, 0)),
    "crashed, first": (a_job(), Crashed(SEGV), ("wait", True, False, Counter.CRASHES, 0, 0)),
    "crashed, first, with backoff": (BACKING_OFF, Crashed(SEGV), ("wait", True, False, Counter.CRASHES, 0, 0)),
    "crashed, second": (a_job(crashes=1), Crashed(SEGV), ("delayed", False, False, Counter.CRASHES, 1.0, 0)),
    "crashed, second, with backoff": (
        msgspec.structs.replace(BACKING_OFF, crashes=1),
        Crashed(SEGV),
        ("delayed", False, False, Counter.CRASHES, 1.5, 0),
    ),
    "crashed, third": (a_job(crashes=2), Crashed(SEGV), ("failed", False, True, None, 0, 0)),
    "interrupted": (a_job(), Interrupted(DRAIN), ("wait", True, False, Counter.INTERRUPTIONS, 0, 0)),
    "interrupted, tenth": (
        a_job(interruptions=9),
        Interrupted(DRAIN),
        ("wait", True, False, Counter.INTERRUPTIONS, 0, 0),
    ),
    "interrupted, eleventh": (a_job(interruptions=10), Interrupted(DRAIN), ("failed", False, True, None, 0, 0)),
    "cancelled with attempts left": (RETRY, Cancelled("by Ann"), ("failed", False, True, None, 0, 0)),
    "postponed": (a_job(), Postponed("delay", 9.0), ("delayed", False, False, None, 9.0, 0)),
    "postponed by nothing": (a_job(), Postponed("delay"), ("wait", False, False, None, 0, 0)),
    "rate limited": (a_job(), Postponed("limit", 7.0), ("wait", True, False, None, 0, 7.0)),
    "waits for children": (a_job(), Postponed("children"), ("waiting-children", False, False, None, 0, 0)),
    "processor broken": (a_job(), InitFailed("SyntaxError"), ("wait", True, False, None, 0, 0)),
    "unknown name": (a_job(), UnknownName(("mail",)), ("delayed", False, False, Counter.UNKNOWN, 30.0, 0)),
    "unknown name, ninth": (
        a_job(unknown_names=8),
        UnknownName(()),
        ("delayed", False, False, Counter.UNKNOWN, 30.0, 0),
    ),
    "unknown name, tenth": (a_job(unknown_names=9), UnknownName(()), ("failed", False, True, None, 0, 0)),
    "too large": (RETRY, TooLarge("data", 9, 8), ("failed", False, True, None, 0, 0)),
    "deferred": (RETRY, Deferred("child x failed"), ("failed", False, True, None, 0, 0)),
}


@pytest.mark.parametrize(("job", "outcome", "expected"), TABLE.values(), ids=TABLE.keys())
def test_each_outcome_puts_the_job_where_the_table_says(job, outcome, expected):
    s = settled(outcome, job)
    assert (s.to, s.front, s.spends_attempt, s.counts, s.delay_s, s.limit_s) == expected


def test_the_table_has_a_row_for_every_outcome_that_is_written():
    assert {type(outcome) for _, outcome, _ in TABLE.values()} | {LockLost} == set(get_args(Outcome))


def test_the_state_machine_page_shows_this_table():
    page = (Path(__file__).parents[2] / "docs" / "state-machine.md").read_text(encoding="utf-8")
    shown = set()
    for line in page.splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.split("|")[1:-1]]
        if len(cells) == 5 and cells[3] in ("yes", "no"):
            shown |= {(name, *cells[2:]) for name in cells[0].split(", ")}
    decided = {
        (type(outcome).__name__, to + (", front" if front else ""), "yes" if spends else "no", str(counter or ""))
        for _, outcome, (to, front, spends, counter, _, _) in TABLE.values()
    }
    assert shown == decided


def test_nothing_is_written_about_a_job_whose_lock_is_lost():
    assert decide(a_job(), LockLost("renewal says lost"), SETTINGS, random.Random(1)) is None


@pytest.mark.parametrize(
    ("outcome", "job", "reason"),
    [
        (BOOM, RETRY, "ValueError: boom"),
        (SOFT, a_job(), "timed out after 5s (soft stop worked)"),
        (
            TimedOut(0.5, Death(cause=Cause.TIMEOUT_HARD)),
            a_job(),
            "timed out after 500ms (soft stop did not work, killed)",
        ),
        (Crashed(SEGV), a_job(), "crashed: SIGSEGV (crash 1, 2 allowed: runs again at once)"),
        (Crashed(SEGV), a_job(crashes=1), "crashed: SIGSEGV (crash 2, 2 allowed: runs again in 1s)"),
        (Crashed(SEGV), a_job(crashes=2), "crashed: SIGSEGV (crash 3, 2 allowed: failed)"),
        (Crashed(Death(cause=Cause.OOM_KERNEL)), a_job(crashes=2), "crashed: oom-kernel (crash 3, 2 allowed: failed)"),
        (Cancelled("wrong file"), a_job(), "cancelled: wrong file"),
        (Cancelled(""), a_job(), "cancelled"),
        (Deferred("child bull:a:1 failed"), a_job(), "child bull:a:1 failed"),
        (
            Interrupted(DRAIN),
            a_job(interruptions=10),
            "interrupted: still running 25s after the drain began (interruption 11, 10 allowed: failed)",
        ),
        (
            TooLarge("result", 16777217, 16777216),
            a_job(),
            "result is 16777217 bytes, over the limit of 16777216 (16MiB); "
            "raise max_result or pass a reference to where it is stored",
        ),
        (
            UnknownName(("mail", "sms")),
            a_job(unknown_names=9),
            "no handler for job name 'page' (known: mail, sms; try 10 of 10: failed)",
        ),
    ],
)
def test_the_reason_says_what_happened_and_names_the_limit(outcome, job, reason):
    assert settled(outcome, job).reason == reason


@pytest.mark.parametrize("outcome", [Interrupted(DRAIN), InitFailed("x"), Postponed("delay", 1.0)])
def test_a_job_that_is_not_to_blame_gets_no_reason_and_no_trace(outcome):
    assert settled(outcome).reason is None
    assert settled(outcome).stacktrace is None


def test_max_crashes_0_forbids_any_second_run():
    limits = QueueSettings(concurrency=1, max_crashes=0)
    assert settled(Crashed(SEGV), a_job(opts={"attempts": 9}), limits).to == Place.FAILED


def test_a_job_without_attempts_still_runs_again_after_a_crash():
    assert settled(Crashed(SEGV), a_job(opts={"attempts": 0})).to == Place.WAIT


def test_the_certificate_keeps_the_counters_that_the_end_clears():
    death = settled(Crashed(SEGV), a_job(crashes=2, interruptions=4)).death
    assert death is not None
    assert (death.crashes, death.interruptions, death.detail) == (3, 4, "SIGSEGV")
    death = settled(Interrupted(DRAIN), a_job(crashes=1, interruptions=10)).death
    assert death is not None
    assert (death.crashes, death.interruptions) == (1, 11)


def test_a_crash_leaves_its_stack_or_its_last_words_in_the_stacktrace():
    assert settled(Crashed(SEGV)).stacktrace == (
        "crashed: SIGSEGV (crash 1, 2 allowed: runs again at once)\nFatal Python error",
    )
    with_stack = Crashed(Death(cause=Cause.SIGNAL, detail="SIGABRT", stderr="noise", stack="File a.py, line 3"))
    assert settled(with_stack).stacktrace == (
        "crashed: SIGABRT (crash 1, 2 allowed: runs again at once)\nFile a.py, line 3",
    )


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        ({}, ("a", "b", "Traceback: boom")),
        ({"stackTraceLimit": 2}, ("b", "Traceback: boom")),
        ({"stackTraceLimit": 0}, ()),
        ({"stackTraceLimit": -1}, ("a", "b", "Traceback: boom")),
        ({"stackTraceLimit": "two"}, ("a", "b", "Traceback: boom")),
    ],
)
def test_the_stacktrace_grows_by_one_and_keeps_the_newest(limit, kept):
    job = a_job(opts={"attempts": 9, **limit}, attempts_made=2, stacktrace=("a", "b"))
    assert settled(BOOM, job).stacktrace == kept


def test_without_a_limit_the_newest_hundred_traces_stay():
    job = a_job(stacktrace=tuple(str(n) for n in range(250)))
    stacktrace = settled(BOOM, job).stacktrace
    assert stacktrace is not None
    assert len(stacktrace) == MAX_TRACES
    assert stacktrace[-1] == "Traceback: boom"


def test_a_long_error_keeps_its_beginning_and_a_long_traceback_its_end():
    s = settled(Raised("é" * MAX_TEXT, "é" * MAX_TEXT + "the error"))
    assert s.reason is not None
    assert s.stacktrace is not None
    assert len(s.reason.encode()) == MAX_TEXT
    assert len(s.stacktrace[0].encode()) in (MAX_TEXT, MAX_TEXT - 1)  # a cut character is dropped whole
    assert s.stacktrace[0].endswith("the error")


def test_an_error_text_with_lone_surrogates_becomes_text_redis_takes():
    assert settled(Raised("bad \ud800 name", "")).reason == "bad ? name"


numbers = st.integers(0, 30)
any_opts = st.fixed_dictionaries(
    {},
    optional={
        "attempts": st.integers(-2, 6) | st.text(max_size=3) | st.none() | st.floats(),
        "backoff": st.fixed_dictionaries(
            {"type": st.sampled_from(["fixed", "exponential", "custom", 3]), "delay": st.integers() | st.floats()}
        )
        | st.none()
        | st.integers(),
        "stackTraceLimit": st.integers(-3, 5) | st.none() | st.text(max_size=2),
        "lifo": st.booleans() | st.none(),
    },
)
jobs = st.builds(
    a_job,
    opts=any_opts,
    priority=numbers,
    attempts_made=numbers,
    crashes=numbers,
    interruptions=numbers,
    unknown_names=numbers,
    stacktrace=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
any_text = st.text(alphabet=st.characters(exclude_categories=()), max_size=20)  # lone surrogates too
deaths = st.builds(Death, cause=st.sampled_from(Cause), detail=any_text, stack=any_text, stderr=any_text)
outcomes = st.one_of(
    st.builds(Completed, st.just(b"1")),
    st.builds(Raised, any_text, any_text, st.booleans()),
    st.builds(TimedOut, st.floats(0.001, 1e6), deaths),
    st.builds(Crashed, deaths),
    st.builds(Interrupted, deaths),
    st.builds(Cancelled, any_text, st.none() | deaths),
    st.builds(LockLost, any_text),
    st.builds(Postponed, st.sampled_from(["delay", "limit", "children"]), st.floats()),
    st.builds(InitFailed, any_text),
    st.builds(UnknownName, st.lists(any_text, max_size=2).map(tuple)),
    st.builds(TooLarge, st.sampled_from(["data", "result"]), numbers, numbers),
    st.builds(Deferred, any_text),
)
limits = st.builds(
    QueueSettings,
    concurrency=st.just(1),
    max_crashes=st.integers(0, 3),
    max_interruptions=st.integers(0, 3),
    max_unknown_names=st.integers(0, 3),
)


@given(jobs, outcomes, limits, st.integers())
def test_any_job_and_any_outcome_give_something_that_can_be_written(job, outcome, budgets, seed):
    s = decide(job, outcome, budgets, random.Random(seed))
    assert (s is None) == isinstance(outcome, LockLost)
    if s is None:
        return
    assert 0 <= s.delay_s <= LONGEST_POSTPONE_S
    assert 0 <= s.limit_s <= LONGEST_POSTPONE_S
    assert (s.delay_s > 0) == (s.to == Place.DELAYED)
    assert not s.front or s.to == Place.WAIT
    "".join([s.reason or "", *(s.stacktrace or ())[-1:]]).encode("utf-8")
    if s.to in (Place.COMPLETED, Place.FAILED):
        assert s.spends_attempt
        assert s.counts is None
        assert (s.reason is not None) == (s.to == Place.FAILED)


def after(job: Job, s: Settlement) -> Job:
    """The job as the next claim reads it: what settling writes into the counters, and nothing else."""
    return msgspec.structs.replace(
        job,
        attempts_made=job.attempts_made + s.spends_attempt,
        crashes=job.crashes + (s.counts == Counter.CRASHES),
        interruptions=job.interruptions + (s.counts == Counter.INTERRUPTIONS),
        unknown_names=job.unknown_names + (s.counts == Counter.UNKNOWN),
    )


charged = st.lists(
    st.sampled_from([BOOM, SOFT, Crashed(SEGV), Interrupted(DRAIN), UnknownName(()), InitFailed("x")]), max_size=60
)


@settings(max_examples=300)
@given(st.integers(0, 6), limits, charged)
def test_a_job_ends_exactly_when_one_of_its_budgets_is_used_up(attempts, budgets, history):
    job = a_job(opts={"attempts": attempts, "backoff": BACKOFF})
    spent = {"attempts": 0, "crashes": 0, "interruptions": 0, "unknown": 0, "": 0}
    for outcome in history:
        kind = {Raised: "attempts", TimedOut: "attempts", Crashed: "crashes", Interrupted: "interruptions"}.get(
            type(outcome), "unknown" if isinstance(outcome, UnknownName) else ""
        )
        spent[kind] += 1
        used_up = (
            spent["attempts"] >= max(1, attempts)
            or spent["crashes"] > budgets.max_crashes
            or spent["interruptions"] > budgets.max_interruptions
            or (kind == "unknown" and spent["unknown"] >= budgets.max_unknown_names)
        )
        s = settled(outcome, job, budgets)
        assert (s.to == Place.FAILED) == used_up
        if used_up:
            return
        job = after(job, s)


@given(jobs, outcomes, st.integers())
def test_the_same_job_outcome_and_seed_always_give_the_same_settlement(job, outcome, seed):
    assert decide(job, outcome, SETTINGS, random.Random(seed)) == decide(job, outcome, SETTINGS, random.Random(seed))


def test_what_redis_knows_of_the_children_overrules_what_the_handler_reported() -> None:
    again = overrule("nothing-to-wait-for")
    assert again == Settlement(to=Place.WAIT, front=True, spends_attempt=False)
    for word, why in (("failed-children", "children failed"), ("pending-children", "children have not ended")):
        ended = overrule(word)
        assert isinstance(ended, Raised)
        assert ended.permanent
        assert why in ended.error
    for word in ("ok", "lost", "missing", "cancel-requested"):
        assert overrule(word) is None
