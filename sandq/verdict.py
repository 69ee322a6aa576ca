"""From evidence to verdict, pure: what one attempt ended as. Exit codes explain; they never decide.

The order of the questions is the order of what is certain. A lock that was lost outranks everything, since nothing may
be written then. A final frame outranks an exit: a child that ended just after its result has completed its job.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

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

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class Stop(msgspec.Struct, frozen=True):
    """Why we asked an attempt to end. `text` is what the handler and people are told."""

    kind: Literal["timeout", "cancel", "drain", "memory", "lock-lost", "protocol"]
    text: str
    limit_s: float = 0.0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known when an attempt has ended: at least one of `final` and `death` is there."""

    final: Frame | None = None
    death: Death | None = None  # what is known of the child; its cause is still to be found
    exit_code: int | None = None
    signal: str | None = None
    killed_by: str = ""  # why our launcher killed it: "lease", or what we asked for
    unseen: str = ""  # why nobody saw how the child ended
    begun: bool = True  # whether the child read the job at all
    oom_kills: int = 0  # of the kernel, in our cgroup, lately
    stop: Stop | None = None
    max_result: int = 0


def judge(evidence: Evidence) -> Outcome:
    """The outcome of an attempt."""
    stop, final = evidence.stop, evidence.final
    if stop is not None and stop.kind == "lock-lost":
        return LockLost(stop.text)
    if evidence.killed_by == "lease":
        return LockLost("its lease passed and the launcher killed it")
    if final is not None:
        return _answered(final, stop, evidence)
    death = _certify(evidence)
    if stop is not None and stop.kind == "cancel":
        return Cancelled(stop.text, death)
    if stop is not None and stop.kind == "timeout":
        return TimedOut(stop.limit_s, death)
    if (stop is not None and stop.kind == "drain") or evidence.unseen:
        return Interrupted(death)
    if stop is None and evidence.killed_by:  # it followed a job that broke the rules, and ends with their child
        return Interrupted(
            msgspec.structs.replace(death, detail=f"its child was ended ({evidence.killed_by}) for the job before it")
        )
    if not evidence.begun:  # what its child died of came before it; counted, since it may be its own size after all
        return Interrupted(
            msgspec.structs.replace(death, detail=f"its child ended before it read the job: {death.detail}")
        )
    return Crashed(death)


def _answered(final: Frame, stop: Stop | None, evidence: Evidence) -> Outcome:
    # A handler that was asked to end for a cancel has not completed, whatever it returns.
    if stop is not None and stop.kind == "cancel":
        return Cancelled(stop.text)
    match final.kind:
        case Kind.DONE:
            return _result(final.body, evidence)
        case Kind.RAISED if stop is not None and final.head["stopped"]:
            death = msgspec.structs.replace(_certify(evidence), stack=final.head["traceback"])
            return TimedOut(stop.limit_s, death) if stop.kind == "timeout" else Interrupted(death)
        case Kind.RAISED:
            return Raised(final.head["error"], final.head["traceback"], final.head["permanent"])
        case Kind.POSTPONED:
            return _postponed(final, evidence)
        case Kind.UNKNOWN:
            return UnknownName(tuple(str(name) for name in final.head["known"]))
        case Kind.OVERSIZE:
            return TooLarge("result", final.head["size"], evidence.max_result)
    raise AssertionError(f"{final.kind.name} is not a final frame")


def _result(body: bytes, evidence: Evidence) -> Outcome:
    """A result reaches Redis only after it is proven to be one JSON text: one bad event stops every Node listener."""
    if len(body) > evidence.max_result:
        return TooLarge("result", len(body), evidence.max_result)
    if not is_json(body):
        return Crashed(_protocol(evidence, "its result is not one JSON text in UTF-8"))
    return Completed(body)


def _postponed(final: Frame, evidence: Evidence) -> Outcome:
    until, delay = final.head["until"], final.head["delay_s"]
    if until not in ("delay", "limit", "children") or not 0 <= delay < 1e10:
        return Crashed(_protocol(evidence, f"it postponed its job until {until!r}, by {delay} s"))
    return Postponed(until, float(delay))


def is_json(raw: bytes) -> bool:
    """Whether these bytes are exactly one JSON text in UTF-8. Builds no objects: 14 MiB take some 30 ms."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    # A lone surrogate's escape is JSON, and JavaScript reads it; only msgspec does not. Any other escape of the same
    # length stands in for it, which changes nothing about the text being JSON or not.
    return _decodes(raw) or (b"\\u" in raw and _decodes(_SURROGATE.sub(rb"\\u0020", raw)))


def _decodes(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _protocol(evidence: Evidence, detail: str) -> Death:
    return msgspec.structs.replace(evidence.death or Death(cause=Cause.PROTOCOL), cause=Cause.PROTOCOL, detail=detail)


def _certify(evidence: Evidence) -> Death:
    cause, detail = _cause(evidence)
    death = evidence.death or Death(cause=cause)
    return msgspec.structs.replace(
        death, cause=cause, detail=detail, exit_code=evidence.exit_code, signal=evidence.signal
    )


def _cause(evidence: Evidence) -> tuple[Cause, str]:
    stop = evidence.stop
    if stop is not None:
        match stop.kind:
            case "timeout":
                soft = evidence.final is not None
                return (Cause.TIMEOUT_SOFT, stop.text) if soft else (Cause.TIMEOUT_HARD, f"{stop.text}; killed")
            case "cancel":
                return Cause.CANCELLED, stop.text
            case "drain":
                return Cause.DRAIN, stop.text
            case "memory":
                return Cause.OOM_LIMIT, stop.text
            case "protocol":
                return Cause.PROTOCOL, stop.text
            case "lock-lost":
                return Cause.LOCK_LOST, stop.text
    if evidence.unseen:
        return Cause.LAUNCHER, evidence.unseen
    if evidence.signal is not None:
        return _by_signal(evidence)
    return Cause.EXIT, f"exit {evidence.exit_code} before a result"


def _by_signal(evidence: Evidence) -> tuple[Cause, str]:
    if evidence.signal == "SIGKILL" and evidence.oom_kills:
        return Cause.OOM_KERNEL, "killed by the kernel, which was out of memory"
    if evidence.signal == "SIGKILL":
        return Cause.SIGNAL, "SIGKILL from outside (likely the kernel's OOM killer if nobody sent it)"
    if evidence.signal == "SIGXCPU":
        return Cause.SIGNAL, "SIGXCPU: it used up the CPU seconds that rlimits.cpu allows a job"
    return Cause.SIGNAL, str(evidence.signal)
