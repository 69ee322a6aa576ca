"""When a cron pattern fires next. Pure: the moment to start from is an argument."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from sandq.errors import QueueError

# Times of a pattern handed to a script at once: the first may be past when they arrive, or have a job already.
RUNS = 5
# Options that each iteration of a schedule has of its own; lua/lib/iteration.lua adds them.
OF_ITERATION = ("repeat", "repeatJobKey", "jobId", "delay", "timestamp", "prevMillis")
_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
    "@minutely": "* * * * *",
    "@secondly": "* * * * * *",
    "@weekdays": "0 0 * * 1-5",
    "@weekends": "0 0 * * 0,6",
}


def next_runs(pattern: str, after_ms: int, tz: str | None = None, count: int = 1) -> tuple[int, ...]:
    """The next `count` moments (ms) strictly after `after_ms` that match 5 or 6 fields (seconds first).

    Without `tz` the pattern means this host's local time, as it does for BullMQ.
    """
    runs = tuple(islice(_runs(pattern, after_ms, tz), count))
    if not runs:
        raise QueueError(f"cron pattern {pattern!r} never fires; correct it in the scheduler")
    return runs


def _runs(pattern: str, after_ms: int, tz: str | None) -> Iterator[int]:
    start = _moment(after_ms, tz)
    # cron-parser reads "?" as "any"; cronsim knows only the star.
    fields = _NAMED.get(pattern.strip().lower(), pattern.replace("?", "*"))
    last_ms = after_ms
    try:
        for moment in CronSim(fields, start):
            run_ms = int(moment.timestamp()) * 1000
            # An hour repeated at the end of summer time may step back; a schedule only goes forward.
            if run_ms > last_ms:
                last_ms = run_ms
                yield run_ms
    except CronSimError as error:
        raise QueueError(
            f"cron pattern {pattern!r} cannot be read: {error}; use 5 fields, or 6 with seconds first"
        ) from error
    except OverflowError:  # past the year 9999: no run
        return


def _moment(after_ms: int, tz: str | None) -> datetime:
    zone = _zone(tz)
    try:
        return datetime.fromtimestamp(after_ms / 1000, zone)
    except (ValueError, OverflowError, OSError) as error:
        raise QueueError(f"no scheduler can go on from {after_ms} ms; is prevMillis in its opts a time?") from error


def _zone(tz: str | None) -> tzinfo | None:
    if not tz:
        return None
    if tz.upper() in ("UTC", "ETC/UTC", "GMT"):
        return UTC
    try:
        return ZoneInfo(tz)
    except (KeyError, ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError; "../x" a ValueError
        raise QueueError(f"time zone {tz!r} is not known here; use a name such as Europe/Berlin") from error
