"""What becomes of a job after an attempt: the only place that knows. Pure: no clock, no I/O, no global state."""

from __future__ import annotations

import random
from typing import assert_never

import msgspec

from sandq.backoff import Backoff
from sandq.config import QueueSettings
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
from sandq.units import show_duration, show_size

MAX_TEXT = 64 << 10  # bytes of one failedReason or one stacktrace entry
# Jobs without stackTraceLimit: BullMQ keeps every trace, and a job with 10000 attempts would grow a hash of 600 MB
# that each claim reads again. The newest hundred tell as much.
MAX_TRACES = 100
UNKNOWN_NAME_DELAY_S = 30.0  # long enough for a rolling deploy to reach a supervisor that knows the name
LONGEST_POSTPONE_S = 100 * 365 * 86400.0  # what a producer may ask for as a delay, too

_CRASH_BACKOFF = Backoff("exponential", 1000)


def decide(  # noqa: PLR0912  # one branch for each outcome there is
    job: Job, outcome: Outcome, settings: QueueSettings, rng: random.Random
) -> Settlement | None:
    """The settlement for one attempt, `job` being as it was claimed; None when nothing may be written."""
    match outcome:
        case Completed():
            return Settlement(to=Place.COMPLETED, result=outcome.result)
        case Raised():
            return _raised(job, outcome, rng)
        case TimedOut():
            return _timed_out(job, outcome, rng)
        case Crashed():
            return _crashed(job, outcome.death, settings, rng)
        case Interrupted():
            return _interrupted(job, outcome.death, settings)
        case Cancelled():
            return _cancelled(job, outcome)
        case LockLost():
            return None  # somebody else may hold the job by now; whatever we wrote would be about their attempt
        case Postponed():
            return _postponed(outcome)
        case InitFailed():
            # No reason is written: the fault is the processor's, and the supervisor shows it as broken.
            return _put_back()
        case UnknownName():
            return _unknown_name(job, outcome, settings)
        case TooLarge():
            return _failed(_too_large(outcome))
        case Deferred():
            return _failed(outcome.reason)
        case _:
            assert_never(outcome)


def overrule(word: str) -> Settlement | Raised | None:
    """What stands instead where Redis, which knows more of the children than the handler did, refused a settlement.

    None: the word is about something else.
    """
    match word:
        case "nothing-to-wait-for":  # the last child ended meanwhile: run again at once
            return Settlement(to=Place.WAIT, front=True, spends_attempt=False)
        case "failed-children":
            why = "some of its children failed"
        case "pending-children":
            why = "some of its children have not ended"
        case _:
            return None
    return Raised(f"the handler returned, but {why}; call job.wait_for_children() before the end", "", permanent=True)


def _raised(job: Job, raised: Raised, rng: random.Random) -> Settlement:
    traces = _traces(job, raised.traceback or raised.error)
    if raised.permanent:
        return _failed(raised.error, traces)
    return _retry_or_fail(job, raised.error, traces, None, rng)


def _timed_out(job: Job, timed_out: TimedOut, rng: random.Random) -> Settlement:
    death = timed_out.death
    how = "soft stop worked" if death.cause == Cause.TIMEOUT_SOFT else "soft stop did not work, killed"
    reason = f"timed out after {show_duration(timed_out.limit_s)} ({how})"
    death = _certified(death, job.crashes, job.interruptions)
    return _retry_or_fail(job, reason, _traces(job, _with_evidence(reason, death)), death, rng)


def _retry_or_fail(
    job: Job, reason: str, traces: tuple[str, ...], death: Death | None, rng: random.Random
) -> Settlement:
    """The attempts budget: it counts what the handler did, never what happened to its child or its supervisor."""
    made = job.attempts_made + 1
    if made >= job.attempts:
        return _failed(reason, traces, death)
    backoff = Backoff.from_opts(job.opts)
    delay_ms = backoff.delay_ms(made, rng) if backoff else 0
    if delay_ms:
        return Settlement(
            to=Place.DELAYED, delay_s=delay_ms / 1000, reason=_head(reason), stacktrace=traces, death=death
        )
    # A lifo job retries at the front, as in BullMQ; with a priority it keeps to its turn, as there too.
    front = job.opts.get("lifo") is True and job.priority == 0
    return Settlement(to=Place.WAIT, front=front, reason=_head(reason), stacktrace=traces, death=death)


def _crashed(job: Job, death: Death, settings: QueueSettings, rng: random.Random) -> Settlement:
    count = job.crashes + 1
    allowed = settings.max_crashes
    death = _certified(death, count, job.interruptions)
    what = f"crashed: {death.detail or death.cause} (crash {count}, {allowed} allowed"
    if count > allowed:
        reason = f"{what}: failed)"
        return _failed(reason, _traces(job, _with_evidence(reason, death)), death)
    # The first crash may be the machine's: at once, and first in line. From the second on the job is suspect and waits.
    delay_ms = (Backoff.from_opts(job.opts) or _CRASH_BACKOFF).delay_ms(count - 1, rng) if job.crashes > 0 else 0
    again = f"in {show_duration(delay_ms / 1000)}" if delay_ms else "at once"
    reason = f"{what}: runs again {again})"
    return Settlement(
        to=Place.DELAYED if delay_ms else Place.WAIT,
        front=count == 1,
        spends_attempt=False,
        counts=Counter.CRASHES,
        reason=_head(reason),
        stacktrace=_traces(job, _with_evidence(reason, death)),
        delay_s=delay_ms / 1000,
        death=death,
    )


def _interrupted(job: Job, death: Death, settings: QueueSettings) -> Settlement:
    count = job.interruptions + 1
    allowed = settings.max_interruptions
    death = _certified(death, job.crashes, count)
    if count <= allowed:
        # No failedReason: nothing failed. The certificate still says what happened.
        return _put_back(Counter.INTERRUPTIONS, death)
    return _failed(
        f"interrupted: {death.detail or death.cause} (interruption {count}, {allowed} allowed: failed)", death=death
    )


def _cancelled(job: Job, cancelled: Cancelled) -> Settlement:
    reason = f"cancelled: {cancelled.reason}" if cancelled.reason else "cancelled"
    death = cancelled.death and _certified(cancelled.death, job.crashes, job.interruptions)
    return _failed(reason, death=death)


def _postponed(postponed: Postponed) -> Settlement:
    delay_s = _bounded(postponed.delay_s)
    match postponed.until:
        case "delay":
            return Settlement(to=Place.DELAYED if delay_s else Place.WAIT, spends_attempt=False, delay_s=delay_s)
        case "limit":
            return Settlement(to=Place.WAIT, front=True, spends_attempt=False, limit_s=delay_s)
        case "children":
            return Settlement(to=Place.CHILDREN, spends_attempt=False)
        case _:
            assert_never(postponed.until)


def _unknown_name(job: Job, unknown: UnknownName, settings: QueueSettings) -> Settlement:
    count = job.unknown_names + 1
    allowed = settings.max_unknown_names
    known = ", ".join(unknown.known) or "none"
    what = f"no handler for job name {job.name!r} (known: {known}; try {count} of {allowed}"
    if count >= allowed:
        return _failed(f"{what}: failed)")
    return Settlement(
        to=Place.DELAYED,
        spends_attempt=False,
        counts=Counter.UNKNOWN,
        reason=_head(f"{what}: looked at again in {show_duration(UNKNOWN_NAME_DELAY_S)})"),
        delay_s=UNKNOWN_NAME_DELAY_S,
    )


def _too_large(large: TooLarge) -> str:
    return (
        f"{large.what} is {large.size} bytes, over the limit of {large.limit} ({show_size(large.limit)}); "
        f"raise max_{large.what} or pass a reference to where it is stored"
    )


def _failed(reason: str, traces: tuple[str, ...] | None = None, death: Death | None = None) -> Settlement:
    """The end. It spends an attempt, as in BullMQ, and needs no counter: settle clears them all."""
    return Settlement(to=Place.FAILED, reason=_head(reason), stacktrace=traces, death=death)


def _put_back(counts: Counter | None = None, death: Death | None = None) -> Settlement:
    """Next in line again, and no attempt spent: the job is not to blame."""
    return Settlement(to=Place.WAIT, front=True, spends_attempt=False, counts=counts, death=death)


def _certified(death: Death, crashes: int, interruptions: int) -> Death:
    return msgspec.structs.replace(death, crashes=crashes, interruptions=interruptions)


def _with_evidence(reason: str, death: Death) -> str:
    """The reason with the Python stack, else with the last words on stderr."""
    evidence = death.stack or death.stderr
    return f"{reason}\n{evidence}" if evidence else reason


def _traces(job: Job, text: str) -> tuple[str, ...]:
    """The job's stacktrace with one entry more, cut to the newest `stackTraceLimit` as BullMQ does."""
    limit = job.opts.get("stackTraceLimit")
    keep = limit if type(limit) is int and limit >= 0 else MAX_TRACES
    return (*job.stacktrace, _tail(text))[-keep:] if keep else ()


def _head(text: str) -> str:
    """At most MAX_TEXT bytes from the start, where a message says what it is about; always valid UTF-8."""
    raw = text.encode("utf-8", "replace")  # a child may send lone surrogates, which no Redis client takes
    return raw[:MAX_TEXT].decode("utf-8", "ignore")


def _tail(text: str) -> str:
    """At most MAX_TEXT bytes from the end, where a traceback names the error; always valid UTF-8."""
    return text.encode("utf-8", "replace")[-MAX_TEXT:].decode("utf-8", "ignore")


def _bounded(delay_s: float) -> float:
    """A child's wish as a number that Redis can take: not negative, not NaN, not endless."""
    return min(delay_s, LONGEST_POSTPONE_S) if delay_s > 0 else 0.0
