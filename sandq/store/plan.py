"""A scheduler on its way into a queue: everything a producer may ask for, checked before Redis hears of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sandq.errors import QueueError
from sandq.store import cron
from sandq.store.arguments import MAX_DELAY_MS, milliseconds, text, whole
from sandq.store.newjob import NewJob, new_job
from sandq.units import Duration

LAST_MS = 253_402_300_799_000  # the end of the year 9999
# A cron pattern that names no zone would mean another moment on each host that computes it.
DEFAULT_ZONE = "UTC"
# Of what `add` may be told, all that holds for every iteration; a scheduler itself gives the rest.
TEMPLATE = frozenset(
    [
        "attempts",
        "backoff",
        "priority",
        "lifo",
        "timeout",
        "memory",
        "remove_on_complete",
        "remove_on_fail",
        "keep_logs",
        "stacktrace_limit",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked scheduler on its way to Redis: either `every_ms` or `pattern`, and what each iteration is."""

    id: str
    template: NewJob
    every_ms: int | None = None
    pattern: str | None = None
    tz: str | None = None
    limit: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    offset_ms: int | None = None
    immediately: bool = False

    @property
    def opts(self) -> dict[str, Any]:
        """The options of every iteration, as stored: what is not asked for does not stand there."""
        return {name: value for name, value in self.template.opts.items() if (name, value) != ("attempts", 0)}

    def to_repeat(self) -> dict[str, Any]:
        """What stands in the opts of the first iteration; each further one counts on."""
        whole = {
            "every": self.every_ms,
            "pattern": self.pattern,
            "tz": self.tz,
            "limit": self.limit,
            "startDate": self.start_ms,
            "endDate": self.end_ms,
            "offset": self.offset_ms,
            "count": 1,
        }
        return {name: value for name, value in whole.items() if value is not None}

    def runs_after(self, after_ms: int) -> tuple[int, ...]:
        """The next times of the pattern; none for an interval, whose times Redis knows. The start is one if it fits."""
        if self.pattern is None:
            return ()
        return cron.next_runs(self.pattern, max(after_ms, (self.start_ms or 0) - 1), self.tz, cron.RUNS)


def new_plan(
    scheduler_id: str,
    *,
    every: Duration | None = None,
    cron: str | None = None,
    tz: str | None = None,
    limit: int | None = None,
    start: datetime | int | None = None,
    end: datetime | int | None = None,
    offset: Duration | None = None,
    immediately: bool = False,
    name: str | None = None,
    data: Any = None,
    **template: Any,
) -> Plan:
    """A scheduler that Redis may be given, or QueueError naming what is wrong with it."""
    _check_id(scheduler_id)
    if surplus := sorted(template.keys() - TEMPLATE):
        raise QueueError(
            f"scheduler {scheduler_id!r}: {', '.join(surplus)} cannot hold for every iteration; leave it out"
        )
    plan = Plan(
        id=scheduler_id,
        template=new_job(scheduler_id if name is None else name, data, **template),
        every_ms=None if every is None else _milliseconds("every", every, least=1),
        pattern=None if cron is None else text("cron pattern", cron),
        tz=text("time zone", tz) if tz is not None else None if cron is None else DEFAULT_ZONE,
        limit=None if limit is None else whole("limit", limit, least=1, most=2**53 - 1),
        start_ms=None if start is None else _moment_ms("start", start),
        end_ms=None if end is None else _moment_ms("end", end),
        offset_ms=None if offset is None else _milliseconds("offset", offset, least=0),
        immediately=immediately,
    )
    for is_wrong, why in _contradictions(plan):
        if is_wrong:
            raise QueueError(f"scheduler {scheduler_id!r}: {why}")
    plan.runs_after(0)  # QueueError for a pattern or a zone that cannot be read
    return plan


def _contradictions(plan: Plan) -> tuple[tuple[bool, str], ...]:
    interval, offset, start = plan.every_ms, plan.offset_ms, plan.start_ms
    return (
        ((interval is None) is (plan.pattern is None), "give either every or cron"),
        (interval is not None and plan.tz is not None, "tz goes with cron; an interval is the same everywhere"),
        (interval is None and offset is not None, "offset goes with every; a cron pattern names its times itself"),
        (offset is not None and offset >= (interval or MAX_DELAY_MS), "offset must be shorter than every"),
        (offset is not None and start is not None, "start and offset both say when an interval begins; give one"),
        (plan.immediately and start is not None, "immediately and start contradict each other; give one"),
        (plan.immediately and offset is not None, "immediately and offset contradict each other; give one"),
        (plan.end_ms is not None and start is not None and start > plan.end_ms, "it ends before it starts"),
    )


def _check_id(scheduler_id: str) -> None:
    if not isinstance(scheduler_id, str) or not scheduler_id:
        raise QueueError(f"scheduler id {scheduler_id!r} must be a text that is not empty")
    if ":" in scheduler_id:
        raise QueueError(
            f"scheduler id {scheduler_id!r} holds ':', which separates the parts of a key; use '-' or '/' instead"
        )
    if not scheduler_id.isprintable():  # half a surrogate pair among them, which no key can hold
        raise QueueError(f"scheduler id {scheduler_id!r} holds a character that cannot be shown; choose another")


def _milliseconds(what: str, value: Duration, least: int) -> int:
    amount = milliseconds(what, value)
    if not least <= amount <= MAX_DELAY_MS:
        raise QueueError(f"{what} {value!r} is out of range; use {least} ms to a hundred years")
    return round(amount)


def _moment_ms(what: str, value: datetime | int) -> int:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise QueueError(f"{what} {value.isoformat()} has no time zone; give an aware datetime")
        value = round(value.timestamp() * 1000)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LAST_MS:
        raise QueueError(f"{what} {value!r} is no moment; give an aware datetime, or ms since 1970 up to the year 9999")
    return value
