"""What an operator does to a queue as a whole or changes about its jobs, before any I/O: one call is one piece."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sandq.job import JobState
from sandq.store.call import Arg, Call, Read, call
from sandq.store.keys import QueueKeys
from sandq.store.newjob import existing_id

MAX_LOOKED_AT = 500  # jobs in one call: deleting them takes Redis a few milliseconds

# Where the jobs of a state are kept. `paused` is where BullMQ 5 put the waiting jobs of a paused queue.
PLACES: Mapping[JobState, tuple[str, ...]] = {
    JobState.WAITING: ("wait", "paused"),
    JobState.PRIORITIZED: ("prioritized",),
    JobState.DELAYED: ("delayed",),
    JobState.ACTIVE: ("active",),
    JobState.COMPLETED: ("completed",),
    JobState.FAILED: ("failed",),
}

ChangeWord = Literal["ok", "missing"]
DelayWord = Literal["ok", "not-delayed", "missing"]
ObliterateWord = Literal["ok", "empty", "more", "active"]


@dataclass(frozen=True, slots=True)
class Drained:
    """One round of draining a place; `after` goes to the next round and is None when nothing is left."""

    count: int
    after: str | None


@dataclass(frozen=True, slots=True)
class Cleaned:
    """One round of cleaning a place: the ids deleted, and what the next round is given, None when there is none."""

    ids: tuple[str, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class Moved:
    """One round of promoting all; `left` goes to the next round and is 0 when nothing is left."""

    count: int
    left: int


@dataclass(frozen=True, slots=True)
class Windows:
    """One round of looking for deduplication windows: keys without the base; the cursor "0" was the last."""

    found: tuple[str, ...]
    cursor: str


@dataclass(frozen=True, slots=True)
class Trimmed:
    """One round of trimming the events."""

    count: int
    done: bool


def drain(keys: QueueKeys, place: str, after: str = "", limit: int = MAX_LOOKED_AT) -> Call[Drained]:
    """Delete jobs that wait in this place, next in line first; the next run of a schedule stays."""

    def parse(reply: Sequence[Any]) -> Drained:
        return Drained(int(reply[1]), None if reply[0] == b"ok" else _text(reply[2]))

    return call("drain", keys.base, parse, {"place": place, "after": after, "limit": limit})


def clean(
    keys: QueueKeys,
    place: str,
    grace_ms: int,
    most: int | None = None,
    *,
    after: str | None = None,
    limit: int = MAX_LOOKED_AT,
) -> Call[Cleaned]:
    """Delete jobs of this place that are at least `grace_ms` old, oldest first, `most` at most.

    One call looks at `limit` jobs. `after` None: the first round.
    """

    def parse(reply: Sequence[Any]) -> Cleaned:
        return Cleaned(tuple(map(_text, reply[2:])), None if reply[0] == b"ok" else _text(reply[1]))

    named: dict[str, Arg] = {"place": place, "grace_ms": grace_ms, "after": after or "", "limit": limit}
    named |= {"again": "" if after is None else "1", "most": limit if most is None else most}
    return call("clean", keys.base, parse, named)


def obliterate(
    keys: QueueKeys, *, force: bool = False, last: bool = True, limit: int = MAX_LOOKED_AT
) -> Call[ObliterateWord]:
    """Delete the queue with all its jobs; "active": jobs run, `force` was not given, and nothing was changed.

    Without `last` it remains, paused and "empty", until what only a scan can find is deleted as well.
    """
    return call("obliterate", keys.base, _text, {"force": _flag(force), "limit": limit, "last": _flag(last)})


def find_windows(keys: QueueKeys, cursor: str = "0") -> Read[Windows]:
    """The queue's deduplication windows, also those that outlive their jobs; the whole Redis is looked through."""
    base = re.sub(r"([*?\[\]\\])", r"\\\1", keys.base)

    def parse(replies: list[Any]) -> Windows:
        following, found = replies[1]
        return Windows(tuple(_text(raw)[len(keys.base) :] for raw in found), _text(following))

    # The first command says which node of a cluster to ask.
    scan = ("SCAN", cursor, "MATCH", f"{base}d[en]:*", "COUNT", 1000)
    return Read((("EXISTS", keys.key("meta")), scan), parse)


def forget_windows(keys: QueueKeys, windows: Sequence[str]) -> Call[int]:
    """The next job with one of these deduplication ids is added; how many windows there were."""
    return call("forget_dedup", keys.base, int, {}, windows)


def promote_all(keys: QueueKeys, left: int | None = None, limit: int = MAX_LOOKED_AT) -> Call[Moved]:
    """Delayed jobs may run now, soonest due first, each where its priority puts it."""

    def parse(reply: Sequence[Any]) -> Moved:
        return Moved(int(reply[0]), int(reply[1]))

    return call("promote_all", keys.base, parse, {"left": "" if left is None else left, "limit": limit})


def change_priority(keys: QueueKeys, job_id: str, priority: int, *, lifo: bool = False) -> Call[ChangeWord]:
    """A job has another priority from now on; with `lifo` it stands before all that have the same."""
    named: dict[str, Arg] = {"id": existing_id(job_id), "priority": priority, "lifo": _flag(lifo)}
    return call("change_priority", keys.base, _text, named)


def change_delay(keys: QueueKeys, job_id: str, delay_ms: int) -> Call[DelayWord]:
    """A delayed job may run `delay_ms` from now."""
    return call("change_delay", keys.base, _text, {"id": existing_id(job_id), "delay_ms": delay_ms})


def clear_logs(keys: QueueKeys, job_id: str, keep: int = 0) -> Call[ChangeWord]:
    """A job's log has its newest `keep` lines, no more."""
    return call("clear_logs", keys.base, _text, {"id": existing_id(job_id), "keep": keep})


def forget_deduplication(keys: QueueKeys, deduplication_id: str) -> Call[bool]:
    """The next job with this deduplication id is added; whether there was anything to forget."""
    return call("forget_dedup", keys.base, lambda count: int(count) > 0, {}, (f"de:{deduplication_id}",))


def set_concurrency(keys: QueueKeys, most: int | None) -> Call[str]:
    """At most this many jobs of the queue run at a time, over all workers; None: no such limit."""
    return call("configure", keys.base, _text, {}, ("concurrency", "" if most is None else most))


def set_rate_limit(keys: QueueKeys, most: int | None, duration_ms: int | None) -> Call[str]:
    """At most this many jobs of the queue start per duration, over all workers; None: no such limit."""
    settings: tuple[Arg, ...] = ("max", "", "duration", "")
    if most is not None and duration_ms is not None:
        settings = ("max", most, "duration", duration_ms)
    return call("configure", keys.base, _text, {}, settings)


def limit_for(keys: QueueKeys, limit_ms: int) -> Call[bool]:
    """No job of the queue starts for this long."""
    return call("limit", keys.base, _is_ok, {"limit_ms": max(1, limit_ms)})


def lift_limit(keys: QueueKeys) -> Call[bool]:
    """What a rate limit holds back may start now; whether there was a limit."""
    return call("limit", keys.base, _is_ok, {"limit_ms": 0})


def trim_events(keys: QueueKeys, most: int) -> Call[Trimmed]:
    """The event stream keeps its newest `most` entries."""
    return call("trim_events", keys.base, lambda reply: Trimmed(int(reply[1]), done=reply[0] == b"ok"), {"most": most})


def _flag(on: bool) -> str:
    return "1" if on else ""


def _is_ok(reply: bytes) -> bool:
    return reply == b"ok"


def _text(raw: bytes) -> Any:
    return raw.decode("utf-8", "replace")
