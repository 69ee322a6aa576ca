"""One job as Redis holds it, and the claim that proves we may run it. Frozen: a change makes a new value."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

_from_json = msgspec.json.Decoder().decode  # made once: `msgspec.json.decode` makes one for each call
LARGEST_LIMIT = 2**53  # as milliseconds or as bytes more than anybody has, and still exact in any type of number


class JobState(StrEnum):
    """The one place a job is in; the words are BullMQ's."""

    WAITING = "waiting"
    PRIORITIZED = "prioritized"
    ACTIVE = "active"
    DELAYED = "delayed"
    WAITING_CHILDREN = "waiting-children"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"  # it is there, and nothing lists it: no worker will take it


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job hash, read once. JSON texts stay bytes until somebody asks for the value: a supervisor never does."""

    queue: str
    id: str
    name: str
    data_json: bytes = b"{}"
    opts: Mapping[str, Any] = msgspec.field(default_factory=dict)
    timestamp: int = 0
    delay: int = 0
    priority: int = 0
    attempts_made: int = 0
    attempts_started: int = 0
    stalled_count: int = 0
    crashes: int = 0
    interruptions: int = 0
    unknown_names: int = 0
    fence: int = 0
    deferred_failure: str | None = None
    parent_key: str | None = None
    scheduler_id: str | None = None
    deduplication_id: str | None = None
    processed_on: int | None = None
    finished_on: int | None = None
    processed_by: str | None = None
    progress_json: bytes | None = None
    returnvalue_json: bytes | None = None
    failed_reason: str | None = None
    stacktrace: tuple[str, ...] = ()
    death: Mapping[str, Any] | None = None

    @property
    def data(self) -> Any:
        """What the producer handed over; parsed anew on each use."""
        return json.loads(self.data_json)

    @property
    def returnvalue(self) -> Any:
        """What the handler returned; None until the job completed."""
        return None if self.returnvalue_json is None else json.loads(self.returnvalue_json)

    @property
    def progress(self) -> Any:
        """The last progress reported; None when none was."""
        return None if self.progress_json is None else json.loads(self.progress_json)

    @property
    def attempts(self) -> int:
        """How often the handler may raise before the job fails; BullMQ's 0 means once."""
        return max(1, _int(self.opts.get("attempts"), 1))

    def limit(self, name: str) -> int | float | None:
        """What the producer asked for in `opts.sq` (`timeout` in ms, `memory` in bytes); None if it makes no sense.

        Any client may have written anything there, so it is bounded before anybody computes with it.
        """
        asked = self.opts.get("sq")
        own = asked.get(name) if isinstance(asked, dict) else None
        if isinstance(own, bool) or not isinstance(own, (int, float)) or not own > 0:
            return None
        return min(own, LARGEST_LIMIT)

    @classmethod
    def from_hash(cls, queue: str, job_id: str, fields: Mapping[bytes, bytes]) -> Job:
        """Read a job hash as forgivingly as BullMQ does: an absent or malformed field is its default."""
        return cls.from_pairs(queue, job_id, fields.items())

    @classmethod
    def from_pairs(cls, queue: str, job_id: str, pairs: Iterable[tuple[bytes, bytes]]) -> Job:
        """The same of names with values; of a name that is there twice the later value counts."""
        read: dict[str, Any] = {"name": ""}
        for name, value in pairs:
            known = _FIELDS.get(name)
            if known is not None:
                field_name, parse = known
                read[field_name] = parse(value)
        # A hash written by BullMQ 4 carries attemptsMade, and it wins (wire-format 2.1).
        if older := read.pop("attempts_made_before", 0):
            read["attempts_made"] = older
        return cls(queue=queue, id=job_id, **read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job together with the lock token that proves we hold it."""

    job: Job
    token: str
    sent_at: float  # boottime in seconds when the claim was SENT: the first lease counts from here


def _int(value: Any, default: int) -> int:
    if value is None:
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return _truncated(value, default)


def _truncated(value: Any, default: int) -> int:
    try:
        return int(float(value))  # BullMQ tolerates fractional timestamps
    except (TypeError, ValueError, OverflowError):
        return default


def _mapping(raw: bytes) -> Mapping[str, Any]:
    try:
        value = _from_json(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _texts(raw: bytes | None) -> tuple[str, ...]:
    if raw is None:
        return ()
    try:
        return tuple(msgspec.json.decode(raw or b"[]", type=list[str]))
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return ()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _number(raw: bytes) -> int:
    try:
        return int(raw)
    except ValueError:
        return _truncated(raw, 0)


def _time(raw: bytes) -> int | None:
    return _number(raw) or None


def _as_it_is(raw: bytes) -> bytes:
    return raw


# Only what is there is read: most jobs have few of these.
_FIELDS: Mapping[bytes, tuple[str, Callable[[bytes], Any]]] = {
    b"name": ("name", _text),
    b"data": ("data_json", _as_it_is),
    b"opts": ("opts", _mapping),
    b"timestamp": ("timestamp", _number),
    b"delay": ("delay", _number),
    b"priority": ("priority", _number),
    b"atm": ("attempts_made", _number),
    b"attemptsMade": ("attempts_made_before", _number),
    b"ats": ("attempts_started", _number),
    b"stc": ("stalled_count", _number),
    b"sq_crashes": ("crashes", _number),
    b"sq_interruptions": ("interruptions", _number),
    b"sq_unknown": ("unknown_names", _number),
    b"sq_fence": ("fence", _number),
    b"defa": ("deferred_failure", _text),
    b"parentKey": ("parent_key", _text),
    b"rjk": ("scheduler_id", _text),
    b"deid": ("deduplication_id", _text),
    b"processedOn": ("processed_on", _time),
    b"finishedOn": ("finished_on", _time),
    b"pb": ("processed_by", _text),
    b"progress": ("progress_json", _as_it_is),
    b"returnvalue": ("returnvalue_json", _as_it_is),
    b"failedReason": ("failed_reason", _text),
    b"stacktrace": ("stacktrace", _texts),
    b"sq_death": ("death", _mapping),
}
