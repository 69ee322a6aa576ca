"""The operations on schedulers, before any I/O.

A scheduler has no process of its own. Whoever claims an iteration makes the next one (`work.iterate`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from sandq import __version__
from sandq.store import arguments
from sandq.store.call import Arg, Call, Read, call
from sandq.store.keys import QueueKeys
from sandq.store.newjob import encode_opts
from sandq.store.plan import LAST_MS, Plan


@dataclass(frozen=True, slots=True)
class Upserted:
    """Redis' answer to a plan. `again`: hand over later runs; with anything but `ok` nothing was written."""

    word: Literal["ok", "again", "ended", "taken"]
    now_ms: int
    next_ms: int | None = None
    iterations: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Schedulers in the order of their next runs; `places` also counts those whose record is gone."""

    schedulers: tuple[Scheduler, ...]
    places: int

    def __iter__(self) -> Iterator[Scheduler]:
        return iter(self.schedulers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """A scheduler as Redis holds it. `next_ms` is when its pending iteration is due; None: it is over."""

    id: str
    name: str
    next_ms: int | None
    iterations: int  # made so far, the pending one with them
    every_ms: int | None = None
    cron: str | None = None
    tz: str | None = None
    limit: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    data_json: bytes = b"{}"
    opts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def next_run(self) -> datetime | None:
        """When the pending iteration is due, in UTC, at the latest in the year 9999; None when all is over."""
        return None if self.next_ms is None else datetime.fromtimestamp(min(self.next_ms, LAST_MS) / 1000, UTC)

    @property
    def job_id(self) -> str | None:
        """The id of the pending iteration; None when the scheduler is over."""
        return None if self.next_ms is None else f"repeat:{self.id}:{self.next_ms}"

    @property
    def data(self) -> Any:
        """What every iteration is handed; parsed anew on each use."""
        return json.loads(self.data_json)


def upsert(keys: QueueKeys, plan: Plan, runs: Sequence[int]) -> Call[Upserted]:
    """Make the scheduler, or change the one of this id; of a cron pattern, `runs` are the next times."""

    def parse(reply: Sequence[bytes]) -> Upserted:
        word: Any = _text(reply[0])
        return Upserted(word, *map(int, reply[1:]))

    named: dict[str, Arg] = {
        "version": f"sandq:{__version__}",
        "scheduler": plan.id,
        "name": plan.template.name,
        "data": plan.template.data_json,
        "opts": encode_opts(plan.opts),
        "repeat_opts": encode_opts(plan.to_repeat()),
        "immediately": "1" if plan.immediately else "",
        "priority": plan.template.priority,
        "lifo": "1" if plan.template.lifo else "",
    }
    return call("schedule", keys.base, parse, named, tuple(runs))


def upserted(plan: Plan, answer: Upserted) -> Scheduler:
    """The scheduler as just stored, without reading it again."""
    return Scheduler(
        id=plan.id,
        name=plan.template.name,
        next_ms=answer.next_ms,
        iterations=answer.iterations,
        every_ms=plan.every_ms,
        cron=plan.pattern,
        tz=plan.tz,
        limit=plan.limit,
        start_ms=plan.start_ms,
        end_ms=plan.end_ms,
        data_json=plan.template.data_json,
        opts=plan.opts,
    )


def remove(keys: QueueKeys, scheduler_id: str) -> Call[Literal["removed", "missing"]]:
    """End a scheduler: its delayed iteration is gone; one that waits already, or runs, is carried out."""
    return call("unschedule", keys.base, _text, {"scheduler": arguments.text("scheduler id", scheduler_id)})


def find(keys: QueueKeys, scheduler_id: str) -> Call[Scheduler | None]:
    """The scheduler of this id, None when there is none."""
    named: dict[str, Arg] = {"only": arguments.text("scheduler id", scheduler_id), "start": 0, "limit": 1}
    return call("schedules", keys.base, lambda reply: next(iter(_schedulers(reply[1:])), None), named)


def page(keys: QueueKeys, start: int = 0, limit: int = 20) -> Call[Page]:
    """The schedulers at places start to start + limit, the one that runs next at the top."""
    named: dict[str, Arg] = {"only": "", "start": start, "limit": limit}
    return call("schedules", keys.base, lambda reply: Page(tuple(_schedulers(reply[1:])), int(reply[0])), named)


def count(keys: QueueKeys) -> Read[int]:
    """How many schedulers there are."""
    return Read((("ZCARD", keys.key("repeat")),), lambda replies: int(replies[0]))


def _schedulers(reply: Sequence[Any]) -> list[Scheduler]:
    quads = zip(reply[::4], reply[1::4], reply[2::4], reply[3::4], strict=True)
    return [
        _scheduler(_text(scheduler_id), int(time) if pending else None, dict(zip(raw[::2], raw[1::2], strict=True)))
        for scheduler_id, time, pending, raw in quads
    ]


def _scheduler(scheduler_id: str, next_ms: int | None, fields: Mapping[bytes, bytes]) -> Scheduler:
    """Read a record as forgivingly as a job: whoever wrote it, an absent or malformed field is its default."""

    def text(name: bytes) -> str | None:
        return _text(fields[name]) if name in fields else None

    def number(name: bytes) -> int | None:
        value = fields.get(name, b"")
        return int(value) if value.isdigit() else None

    return Scheduler(
        id=scheduler_id,
        name=text(b"name") or scheduler_id,
        next_ms=next_ms,
        iterations=number(b"ic") or 0,
        every_ms=number(b"every"),
        cron=text(b"pattern"),
        tz=text(b"tz"),
        limit=number(b"limit"),
        start_ms=number(b"startDate"),
        end_ms=number(b"endDate"),
        data_json=fields.get(b"data", b"{}"),
        opts=_mapping(fields.get(b"opts", b"{}")),
    )


def _mapping(raw: bytes) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(raw: bytes) -> Any:
    return raw.decode("utf-8", "replace")
