"""One job as Redis holds it, and the claim that proves we may run it. Frozen: a change makes a new value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

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
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job hash, read once. JSON texts stay bytes until somebody asks for the value: a supervisor never does."""

    queue: str
    id: str
    name: str
    data_json: bytes = b"{}"
    opts: Mapping[str, Any] = field(default_factory=dict)
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

        def text(name: bytes) -> str | None:
            value = fields.get(name)
            return None if value is None else value.decode("utf-8", "replace")

        def number(name: bytes) -> int:
            return _int(fields.get(name), 0)

        return cls(
            queue=queue,
            id=job_id,
            name=text(b"name") or "",
            data_json=fields.get(b"data", b"{}"),
            opts=_mapping(fields.get(b"opts")),
            timestamp=number(b"timestamp"),
            delay=number(b"delay"),
            priority=number(b"priority"),
            # A hash written by BullMQ 4 carries attemptsMade, and it wins (wire-format 2.1).
            attempts_made=number(b"attemptsMade") or number(b"atm"),
            attempts_started=number(b"ats"),
            stalled_count=number(b"stc"),
            crashes=number(b"sq_crashes"),
            interruptions=number(b"sq_interruptions"),
            unknown_names=number(b"sq_unknown"),
            fence=number(b"sq_fence"),
            deferred_failure=text(b"defa"),
            parent_key=text(b"parentKey"),
            scheduler_id=text(b"rjk"),
            deduplication_id=text(b"deid"),
            processed_on=number(b"processedOn") or None,
            finished_on=number(b"finishedOn") or None,
            processed_by=text(b"pb"),
            progress_json=fields.get(b"progress"),
            returnvalue_json=fields.get(b"returnvalue"),
            failed_reason=text(b"failedReason"),
            stacktrace=_texts(fields.get(b"stacktrace")),
            death=_mapping(fields[b"sq_death"]) if b"sq_death" in fields else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job together with the lock token that proves we hold it."""

    job: Job
    token: str
    sent_at: float  # boottime in seconds when the claim was SENT: the first lease counts from here


def _int(value: object, default: int) -> int:
    try:
        return int(float(value))  # type: ignore[arg-type]  # BullMQ tolerates fractional timestamps
    except (TypeError, ValueError, OverflowError):
        return default


def _mapping(raw: bytes | None) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(raw or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _texts(raw: bytes | None) -> tuple[str, ...]:
    try:
        return tuple(msgspec.json.decode(raw or b"[]", type=list[str]))
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return ()
