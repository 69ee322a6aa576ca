"""What a client asks of schedulers: jobs that come again and again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict, Unpack

from sandq.backoff import Backoff
from sandq.errands.step import Errand
from sandq.errors import QueueError, SchedulerNotFound
from sandq.store import schedule
from sandq.store.arguments import whole
from sandq.store.keys import QueueKeys
from sandq.store.newjob import Retention
from sandq.store.plan import Plan, new_plan
from sandq.store.schedule import Scheduler
from sandq.units import Duration

PAGE = 100  # schedulers read in one call
ROUNDS = 8  # how often later times of a pattern are tried, when those before are past or have jobs


class IterationOptions(TypedDict, total=False):
    """What `add` may be told about a job, as far as it can hold for every iteration of a scheduler."""

    attempts: int
    backoff: Backoff | Duration | Mapping[str, Any] | None
    priority: int
    lifo: bool
    timeout: Duration | None
    memory: int | str | None
    remove_on_complete: Retention | None
    remove_on_fail: Retention | None
    keep_logs: int | None
    stacktrace_limit: int | None


def upsert_scheduler(
    keys: QueueKeys,
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
    **options: Unpack[IterationOptions],
) -> Errand[Scheduler]:
    """Make a scheduler, or change the one of this id: its pending iteration is replaced, and a due one stays due.

    `every` runs at once and then each period (from `start`, or `offset` into each period); `cron` runs when the pattern
    matches in `tz` (UTC when left out). `start` and `end` are aware datetimes or ms since 1970; nothing runs before
    the one or after the other. `limit` counts iterations from this call on. `immediately`: the first run is now.
    """
    plan = new_plan(
        scheduler_id,
        every=every,
        cron=cron,
        tz=tz,
        limit=limit,
        start=start,
        end=end,
        offset=offset,
        immediately=immediately,
        name=name,
        data=data,
        **options,
    )
    answer: schedule.Upserted = yield schedule.upsert(keys, plan, ())
    runs: tuple[int, ...] = ()
    for _ in range(ROUNDS):
        if answer.word != "again":
            break
        # Redis has the clock and Python the calendar. By the time the runs arrive the first of them may be past.
        runs = plan.runs_after(max((answer.now_ms, *runs[-1:])))
        answer = yield schedule.upsert(keys, plan, runs)
    if answer.word != "ok":
        raise _refused(keys, plan, answer)
    return schedule.upserted(plan, answer)


def scheduler(keys: QueueKeys, scheduler_id: str) -> Errand[Scheduler]:
    """The scheduler as it stands now; SchedulerNotFound when there is none of this id."""
    found: Scheduler | None = yield schedule.find(keys, scheduler_id)
    if found is None:
        raise SchedulerNotFound(f"there is no scheduler {scheduler_id} in queue {keys.queue}; it may have been removed")
    return found


def schedulers(keys: QueueKeys, start: int = 0, limit: int = 20) -> Errand[list[Scheduler]]:
    """The queue's schedulers at places start to start + limit, the one that runs next at the top."""
    end = whole("start", start) + whole("limit", limit)
    found: list[Scheduler] = []
    while start < end:
        asked = min(PAGE, end - start)
        page: schedule.Page = yield schedule.page(keys, start, asked)
        found += page
        if page.places < asked:
            break
        start += asked
    return found


def schedulers_count(keys: QueueKeys) -> Errand[int]:
    """How many schedulers the queue has, those that are over with them."""
    found: int = yield schedule.count(keys)
    return found


def remove_scheduler(keys: QueueKeys, scheduler_id: str) -> Errand[bool]:
    """End the scheduler; whether there was one. An iteration that waits already, or runs, is carried out."""
    word: str = yield schedule.remove(keys, scheduler_id)
    return word == "removed"


def _refused(keys: QueueKeys, plan: Plan, answer: schedule.Upserted) -> QueueError:
    who = f"scheduler {plan.id!r} of queue {keys.queue}"
    if answer.word == "ended" and plan.end_ms is not None:
        end = datetime.fromtimestamp(plan.end_ms / 1000, UTC).isoformat()
        return QueueError(f"{who} would never run: it ends {end}, before its first run; give a later end")
    return QueueError(f"{who}: all its next times have jobs already; remove those, or choose another id")
