"""What can be asked about a queue without changing it. Everything that must agree with itself is one script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from sandq.job import Job, JobState
from sandq.store.call import Call, Read, call
from sandq.store.keys import QueueKeys
from sandq.store.newjob import existing_id

R = TypeVar("R")

PAGE_BYTES = 8 << 20  # what a page of jobs holds up Redis with, beside a last job of any size
COUNTED = tuple(state for state in JobState if state is not JobState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Ending:
    """What there is to know for somebody who waits: how the job ended, or that it has not."""

    word: Literal["completed", "failed", "pending", "missing"]
    value_json: bytes = b"null"  # completed: the returnvalue
    reason: str = ""  # failed: the failedReason


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs in the order of their places; `places` also counts those that are empty. `full`: too large to go on."""

    jobs: tuple[Job, ...]
    places: int
    full: bool = False

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The settings of a queue that every worker obeys."""

    paused: bool = False
    concurrency: int | None = None
    limiter_max: int | None = None
    limiter_duration_ms: int | None = None
    max_len_events: int | None = None
    version: str = ""

    @property
    def is_foreign(self) -> bool:
        """A BullMQ client made this queue: its history is not ours to trim."""
        return self.version.startswith("bullmq:")


def job(keys: QueueKeys, job_id: str) -> Read[Job | None]:
    """The job as it stands, None when there is none."""

    def parse(replies: list[Any]) -> Job | None:
        fields = _fields(replies[0])
        return Job.from_hash(keys.queue, job_id, fields) if fields else None

    return Read((("HGETALL", keys.key(existing_id(job_id))),), parse)


def if_there(keys: QueueKeys, job_id: str, read: Read[R]) -> Read[R | None]:
    """What is read about a job, None when there is no such job."""

    def parse(replies: list[Any]) -> R | None:
        return read.parse(replies[1:]) if replies[0] else None

    return Read((("EXISTS", keys.key(existing_id(job_id))), *read.commands), parse)


def state(keys: QueueKeys, job_id: str) -> Call[JobState | None]:
    """The one state the job is in; UNKNOWN when the queue does not list it, None when there is no such job."""

    def parse(reply: bytes) -> JobState | None:
        return None if reply == b"missing" else JobState(_text(reply))

    return call("state", keys.base, parse, {"id": existing_id(job_id)})


def held(keys: QueueKeys, job_id: str) -> Read[bool]:
    """Whether somebody holds the job's lock; an active job without one is run by nobody who may say so."""
    return Read((("EXISTS", keys.lock(existing_id(job_id))),), lambda replies: bool(replies[0]))


def counts(keys: QueueKeys) -> Call[dict[str, int]]:
    """How many jobs each state holds, all taken at one moment."""
    return call("counts", keys.base, lambda reply: {_text(word): int(n) for word, n in _pairs(reply)}, {})


def page(
    keys: QueueKeys,
    of_state: JobState | Sequence[tuple[JobState, bool]],
    start: int = 0,
    limit: int = 20,
    *,
    newest_first: bool = True,
    most_bytes: int = PAGE_BYTES,
) -> Call[Page]:
    """The jobs at places start to start + limit of a state; an id without a hash leaves its place empty.

    The page ends early, and is full, with the job whose data and result bring it to `most_bytes`.

    Several states, each with its own `newest_first`, are listed one behind the other. For the waiting and the delayed,
    `newest_first=False` lists what runs next at the top.
    """
    states = [(of_state, newest_first)] if isinstance(of_state, JobState) else of_state

    def parse(reply: Sequence[Any]) -> Page:
        jobs = (Job.from_hash(keys.queue, _text(job_id), _fields(raw)) for job_id, raw in _pairs(reply[2:]))
        return Page(tuple(jobs), int(reply[1]), reply[0] == b"full")

    repeated = [arg for state, newest in states for arg in (state.value, "newest" if newest else "oldest")]
    return call("page", keys.base, parse, {"start": start, "limit": limit, "bytes": most_bytes}, repeated)


def ending(keys: QueueKeys, job_id: str) -> Call[Ending]:
    """How the job ended, for a caller that waits for its result."""

    def parse(reply: Sequence[bytes]) -> Ending:
        match _text(reply[0]):
            case "completed":
                return Ending("completed", value_json=reply[1] or b"null")
            case "failed":
                return Ending("failed", reason=_text(reply[1]))
            case "pending":
                return Ending("pending")
            case _:
                return Ending("missing")

    return call("ending", keys.base, parse, {"id": existing_id(job_id)})


def failures(keys: QueueKeys, job_ids: Sequence[str]) -> Read[list[str | None]]:
    """The failedReason of each of these jobs, at least one; None for those that are not failed now."""

    def parse(replies: list[Any]) -> list[str | None]:
        return [None if at is None else _text(reason or b"") for at, reason in _pairs(replies)]

    commands: list[tuple[Any, ...]] = []
    for job_id in map(existing_id, job_ids):
        commands += (("ZSCORE", keys.key("failed"), job_id), ("HGET", keys.key(job_id), "failedReason"))
    return Read(tuple(commands), parse)


def logs(keys: QueueKeys, job_id: str, start: int = 0, stop: int = -1) -> Read[list[str]]:
    """The job's log lines from start to stop, both included, oldest first."""
    return Read(
        (("LRANGE", keys.key(f"{existing_id(job_id)}:logs"), start, stop),),
        lambda replies: [_text(x) for x in replies[0]],
    )


def events(keys: QueueKeys, since: str = "0", count: int = 100) -> Read[list[tuple[str, dict[str, str]]]]:
    """Up to `count` entries of the event stream after the id `since`, oldest first."""

    def parse(replies: list[Any]) -> list[tuple[str, dict[str, str]]]:
        return [
            (_text(entry_id), {_text(k): _text(v) for k, v in _fields(raw).items()}) for entry_id, raw in replies[0]
        ]

    return Read((("XRANGE", keys.key("events"), f"({since}", "+", "COUNT", count),), parse)


def supervisors(keys: QueueKeys) -> Call[list[dict[str, Any]]]:
    """What each living supervisor of the queue last said about itself, `told_ago_s` ago; only `uptime_s` is of now."""
    return call("supervisors", keys.base, lambda reply: [_info(raw, left_ms) for raw, left_ms in _pairs(reply)], {})


def _info(raw: bytes, left_ms: int) -> dict[str, Any]:
    info: dict[str, Any] = msgspec.json.decode(raw)
    ttl_ms = info.pop("ttl_ms", None)  # how long it was to hold: by Redis' clock alone, no two hosts' are compared
    if ttl_ms is not None and left_ms >= 0:
        info["told_ago_s"] = round(max(0, ttl_ms - left_ms) / 1000, 1)
        info["uptime_s"] = round(info.get("uptime_s", 0) + info["told_ago_s"], 1)
    return info


def meta(keys: QueueKeys) -> Read[Meta]:
    """The queue's settings, shared by all its workers."""

    def parse(replies: list[Any]) -> Meta:
        fields = _fields(replies[0])

        def number(name: bytes) -> int | None:
            value = fields.get(name, b"")
            return int(value) if value.isdigit() else None

        return Meta(
            paused=b"paused" in fields,  # by presence, not by value (wire-format 1.5)
            concurrency=number(b"concurrency"),
            limiter_max=number(b"max"),
            limiter_duration_ms=number(b"duration"),
            max_len_events=number(b"opts.maxLenEvents"),
            version=_text(fields.get(b"version", b"")),
        )

    return Read((("HGETALL", keys.key("meta")),), parse)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _fields(flat: Sequence[bytes]) -> Mapping[bytes, bytes]:
    return dict(_pairs(flat))
