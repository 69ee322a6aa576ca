"""A job on its way into a queue: everything a producer may ask for, checked before Redis hears of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sandq.backoff import Backoff
from sandq.errors import ConfigError, JobNotFound, QueueError
from sandq.job import LARGEST_LIMIT
from sandq.store.arguments import MAX_DELAY_MS, delay_ms, has_utf8, milliseconds, text, whole
from sandq.store.keys import JOB_KEY_SUFFIXES, RESERVED_IDS, RESERVED_PREFIXES
from sandq.units import Duration, show_size, size

MAX_PRIORITY = 2**21 - 1  # so that priority * 2^32 + counter stays an exact double (wire-format 1.3)
MAX_DATA = 1 << 20
# BullMQ counts jobs without an id: the text of an integer would one day be given out a second time.
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_ITERATION = re.compile(r"repeat:.+:[0-9]+", re.DOTALL)
# One word each for what a failed child does to its parent, and the flag by which BullMQ stores it.
_FLAGS = {"fail": "fpof", "continue": "cpof", "ignore": "idof", "remove": "rdof"}
_DEDUPLICATION = {
    "ttl": "ttl",
    "extend": "extend",
    "replace": "replace",
    "reschedule": "reschedule",
    "keep_last_if_active": "keepLastIfActive",
}

_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))  # dumps() makes one per call

Retention = bool | int | Mapping[str, Any]
OnFailure = Literal["wait", "fail", "continue", "ignore", "remove"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The job that waits for this one. `on_failure`: what our failure does to it; "wait" keeps it waiting."""

    id: str
    queue: str  # the parent queue's base without the last colon: "bull:render"
    on_failure: OnFailure = "wait"

    def __post_init__(self) -> None:
        text("parent queue", self.queue)
        existing_id(self.id)
        failure_rule(self.on_failure)

    @property
    def key(self) -> str:
        """The parent's job key."""
        return f"{self.queue}:{self.id}"

    @property
    def flag(self) -> dict[str, bool]:
        """The stored form of `on_failure`."""
        return {} if self.on_failure == "wait" else {_FLAGS[self.on_failure]: True}

    def to_opts(self) -> dict[str, Any]:
        """What stands in opts, for whoever shows the job."""
        return {"parent": {"id": self.id, "queue": self.queue}, **self.flag}

    def to_field(self) -> str:
        """What stands in the hash field `parent`: the failure rule is read from here, not from opts."""
        return _json({"id": self.id, "queueKey": self.queue, **self.flag})


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A checked job. `opts` is exactly what will be stored; the places that depend on it read it from there."""

    name: str
    data_json: bytes = b"{}"
    opts: Mapping[str, Any] = field(default_factory=lambda: {"attempts": 0})
    parent: Parent | None = None

    @property
    def job_id(self) -> str | None:
        """The id that was asked for; None: the queue's counter gives one."""
        return self.opts.get("jobId")

    @property
    def delay_ms(self) -> int:
        """How long after its timestamp the job may run."""
        return int(self.opts.get("delay", 0))

    @property
    def priority(self) -> int:
        """0 runs first, then 1, 2, ..."""
        return int(self.opts.get("priority", 0))

    @property
    def lifo(self) -> bool:
        """Runs before what waits already."""
        return bool(self.opts.get("lifo", False))

    @property
    def timestamp(self) -> int | None:
        """The creation time in ms that was asked for; None: Redis' own."""
        return self.opts.get("timestamp")

    @property
    def deduplication(self) -> Mapping[str, Any] | None:
        """The stored deduplication option."""
        return self.opts.get("de")


def new_job(
    name: str,
    data: Any = None,
    *,
    data_json: bytes | None = None,
    attempts: int = 0,
    backoff: Backoff | Duration | Mapping[str, Any] | None = None,
    delay: Duration | None = None,
    priority: int = 0,
    job_id: str | None = None,
    lifo: bool = False,
    timeout: Duration | None = None,
    memory: int | str | None = None,
    remove_on_complete: Retention | None = None,
    remove_on_fail: Retention | None = None,
    keep_logs: int | None = None,
    stacktrace_limit: int | None = None,
    timestamp: int | None = None,
    parent: Parent | None = None,
    deduplication: str | Mapping[str, Any] | None = None,
) -> NewJob:
    """A job that Redis may be given, or QueueError naming what is wrong with it.

    `data_json` is data that is proven to be one JSON text already; with neither, the data is `{}`.
    """
    text("job name", name)
    if parent is not None and deduplication is not None:
        raise QueueError(f"job {name!r} has a parent and deduplication; the parent would wait for a job never made")
    opts = {
        "attempts": whole("attempts", attempts),
        "backoff": None if backoff is None else Backoff.parse(backoff).to_opts(),
        "delay": None if delay is None else delay_ms(delay),
        "priority": whole("priority", priority, most=MAX_PRIORITY) or None,
        "jobId": None if job_id is None else check_id(job_id),
        "lifo": True if lifo else None,
        "timestamp": None if timestamp is None else whole("timestamp", timestamp, most=2**53),
        "removeOnComplete": _retention("remove_on_complete", remove_on_complete),
        "removeOnFail": _retention("remove_on_fail", remove_on_fail),
        "kl": None if keep_logs is None else whole("keep_logs", keep_logs),
        "stackTraceLimit": None if stacktrace_limit is None else whole("stacktrace_limit", stacktrace_limit),
        "sq": _limits(timeout, memory),
        "de": None if deduplication is None else _deduplication(deduplication),
        **({} if parent is None else parent.to_opts()),
    }
    encoded = encode_data(name, data) if data_json is None else _bounded(f"data of job {name!r}", data_json)
    stored = {key: value for key, value in opts.items() if value is not None}
    return NewJob(name=name, data_json=encoded, opts=stored, parent=parent)


def failure_rule(word: OnFailure) -> OnFailure:
    """What a failure does to a parent, if it is one of the words for it."""
    if word not in ("wait", *_FLAGS):
        raise QueueError(f"on_failure {word!r} must be one of wait, {', '.join(_FLAGS)}")
    return word


def encode_data(name: str, data: Any) -> bytes:
    """The data as one JSON text in UTF-8; None is `{}`, as BullMQ stores a job without data."""
    return encode_json(f"data of job {name!r}", {} if data is None else data)


def encode_json(what: str, value: Any) -> bytes:
    """The value as one JSON text in UTF-8; QueueError, telling of `what`, when it is not JSON or too large."""
    try:
        json_text = _json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise QueueError(f"{what} is not JSON: {error}; pass dicts, lists, text, finite numbers") from None
    # Half a surrogate pair has no UTF-8. It can only stand inside a JSON string, where its escape means the same.
    return _bounded(what, json_text.encode("utf-8", "backslashreplace"))


def encode_opts(opts: Mapping[str, Any]) -> bytes:
    """The stored form of opts."""
    return _json(opts).encode("utf-8", "backslashreplace")


def check_id(job_id: str) -> str:
    """The id, if a job may have it; QueueError says which rule it breaks."""
    if not isinstance(job_id, str) or not job_id:
        raise QueueError(f"job id {job_id!r} must be a text that is not empty; leave it out to get a number")
    text("job id", job_id)
    if _INTEGER.fullmatch(job_id):
        raise QueueError(f"job id {job_id!r} is an integer; those are given out by the queue: add a letter to it")
    if _names_a_key(job_id):
        raise QueueError(f"job id {job_id!r} is the name of one of the queue's own keys; choose another")
    if job_id.count(":") not in (0, 2):
        raise QueueError(f"job id {job_id!r} holds ':', which separates the parts of a key; use '-' or '/' instead")
    return job_id


def existing_id(job_id: str) -> str:
    """The id, if a stored job may have it, whoever stored it; JobNotFound for the name of a key that is no job.

    The keys of a queue and its jobs share one prefix: asking to remove the job `meta` must not remove the queue's own.
    """
    if not isinstance(job_id, str) or not job_id or not has_utf8(job_id):
        raise JobNotFound(f"there is no job {job_id!r}: an id is a text that is not empty")
    if _names_a_key(job_id) and not _ITERATION.fullmatch(job_id):
        raise JobNotFound(f"there is no job {job_id!r}: that is one of the queue's own keys")
    return job_id


def _names_a_key(job_id: str) -> bool:
    return job_id in RESERVED_IDS or job_id.startswith(RESERVED_PREFIXES) or job_id.endswith(JOB_KEY_SUFFIXES)


def _json(value: Any) -> str:
    return _ENCODER.encode(value)


def _bounded(what: str, json_text: bytes) -> bytes:
    if len(json_text) > MAX_DATA:
        raise QueueError(
            f"{what} is {show_size(len(json_text))}, over the limit of {show_size(MAX_DATA)}; "
            "store it elsewhere and pass where it is"
        )
    return json_text


def _limits(timeout: Duration | None, memory: int | str | None) -> dict[str, int] | None:
    """What a job may use: sandq's own part of opts, which BullMQ keeps and does not read."""
    limits: dict[str, int] = {}
    if timeout is not None:
        limits["timeout"] = round(milliseconds("timeout", timeout))
        if not 1 <= limits["timeout"] <= MAX_DELAY_MS:
            raise QueueError(
                f"timeout {timeout!r} must be longer than nothing and at most a hundred years; "
                "leave it out for no timeout"
            )
    if memory is not None:
        try:
            limits["memory"] = size(memory)
        except ConfigError as error:
            raise QueueError(f"memory: {error}") from None
        if not 1 <= limits["memory"] <= LARGEST_LIMIT:
            raise QueueError(f"memory {memory!r} must be more than nothing, and what exists; leave it out for no limit")
    return limits or None


def _retention(what: str, value: Retention | None) -> Retention | None:
    """BullMQ's three forms: keep none (True) or all (False), the newest n, or by count and age in seconds."""
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, Mapping):
        return whole(what, value)
    surplus = sorted(str(key) for key in value.keys() - {"count", "age", "limit"})
    if surplus or not value.keys() & {"count", "age"}:
        raise QueueError(
            f"{what} {dict(value)!r} must give count or age (seconds, or text like 7d), perhaps limit, and nothing else"
        )
    stored = {key: whole(f"{what}.{key}", amount) for key, amount in value.items() if key != "age"}
    if "age" not in value:
        return stored
    age_s = math.ceil(milliseconds(f"{what}.age", value["age"]) / 1000)  # BullMQ's unit; never rounded to nothing
    return {**stored, "age": whole(f"{what}.age (seconds)", age_s, most=MAX_DELAY_MS // 1000)}


def _deduplication(value: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(value, (str, Mapping)):
        raise QueueError(f"deduplication {value!r} must be an id, or a mapping of id, {', '.join(_DEDUPLICATION)}")
    given = {"id": value} if isinstance(value, str) else value
    surplus = sorted(str(key) for key in given.keys() - {"id", *_DEDUPLICATION})
    if surplus:
        raise QueueError(f"deduplication has unknown keys {', '.join(surplus)}; use id, {', '.join(_DEDUPLICATION)}")
    stored: dict[str, Any] = {"id": text("deduplication id", given.get("id", ""))}
    for key, name in _DEDUPLICATION.items():
        chosen = given.get(key)
        if key == "ttl" and chosen is not None:
            ttl_ms = round(milliseconds("deduplication ttl", chosen))
            stored[name] = whole("deduplication ttl (ms)", ttl_ms, least=1, most=MAX_DELAY_MS)
        elif chosen:
            stored[name] = True
    return stored
