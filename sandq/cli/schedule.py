"""`sandq schedule`: jobs that come again and again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from sandq.cli.add import read_data
from sandq.cli.options import debug_option, json_option, store_options
from sandq.cli.show import parsed, print_json, print_table, show_time
from sandq.cli.store import open_member, open_queue, open_store
from sandq.errors import ConfigError, SchedulerNotFound
from sandq.store.keys import QueueKeys
from sandq.store.newjob import MAX_PRIORITY
from sandq.store.plan import new_plan
from sandq.store.schedule import Scheduler
from sandq.units import show_duration

ALL = 2**31 - 1


@click.group()
def schedule() -> None:
    """Add jobs to a queue again and again, every so often or when a cron pattern matches."""


@schedule.command(short_help="Make a scheduler, or change it.")
@click.argument("queue")
@click.argument("id_", metavar="ID")
@click.option("--every", metavar="DURATION", help="Run at once, then each time this long later.")
@click.option("--cron", metavar="PATTERN", help="Run when these 5 fields match, or 6 with seconds first.")
@click.option("--tz", metavar="ZONE", help="With --cron: the zone it is meant in, as Europe/Berlin (default UTC).")
@click.option("--limit", type=click.IntRange(min=1), help="Run this often, then no more.")
@click.option("--start", metavar="TIME", help="Not before 2026-12-01T08:00+01:00; an interval begins there.")
@click.option("--end", metavar="TIME", help="Not after this time.")
@click.option("--offset", metavar="DURATION", help="With --every: run this long into each period.")
@click.option("--immediately", is_flag=True, help="With --cron: the first run is now.")
@click.option("--name", metavar="NAME", help="Name of the jobs (default: the scheduler's ID).")
@click.option("--data", default="{}", metavar="JSON|@file|-", help="The jobs' data (default {}).")
@click.option("--priority", type=click.IntRange(0, MAX_PRIORITY), default=0, help="0 comes first, then 1, 2 and so on.")
@click.option("--attempts", type=click.IntRange(min=0), default=0, help="How often the handler may raise.")
@click.option("--backoff", metavar="KIND:DELAY", help="Pause between attempts, such as exponential:1s or fixed:5s.")
@click.option("--timeout", metavar="DURATION", help="Stop each job after this long.")
@store_options
@json_option
@debug_option
def add(
    *,
    queue: str,
    id_: str,
    start: str | None,
    end: str | None,
    data: str,
    redis: str | None,
    prefix: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Make scheduler ID of QUEUE, or change it: what is not said again is forgotten, a run that is due stays due."""
    QueueKeys(queue)  # a wrong name or option is told of before any server is started
    whole = {**asked, "data": read_data(data), "start": _moment("--start", start), "end": _moment("--end", end)}
    new_plan(id_, **whole)
    with open_store(redis, prefix, begins=True) as store, store.queue(queue) as opened:
        made = opened.upsert_scheduler(id_, **whole)
    if as_json:
        print_json(_value(made))
    else:
        click.echo(f"{made.id} runs next {show_time(made.next_ms)}")


@schedule.command("list", short_help="List the schedulers of a queue.")
@click.argument("queue")
@store_options
@json_option
@debug_option
def list_(*, queue: str, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """List the schedulers of QUEUE, the one that runs next at the top."""
    with open_queue(redis, prefix, queue) as (opened, known):
        found = opened.schedulers(limit=ALL)
    if as_json:
        print_json([_value(each) for each in found])
    elif found:
        print_table(["id", "next run", "when", "runs", "limit", "end", "name"], list(map(_row, found)), numbers=(3, 4))
    elif known:
        click.echo(f"sandq: no scheduler in {queue}", err=True)


@schedule.command(short_help="End a scheduler.")
@click.argument("queue")
@click.argument("id_", metavar="ID")
@store_options
@json_option
@debug_option
def remove(*, queue: str, id_: str, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """End scheduler ID of QUEUE; a run that waits already, or has begun, is still carried out."""
    with open_member(redis, prefix, queue) as (_, opened):
        if not opened.remove_scheduler(id_):
            raise SchedulerNotFound(f"there is no scheduler {id_} in {queue}; `sandq schedule list {queue}` shows them")
    if as_json:
        print_json({"removed": id_})
    else:
        click.echo(f"scheduler {id_} is removed")


def _row(found: Scheduler) -> list[object]:
    when = f"every {show_duration(found.every_ms / 1000)}" if found.every_ms else f"{found.cron} {found.tz or 'local'}"
    next_run = show_time(found.next_ms) or "over"
    return [found.id, next_run, when, found.iterations, found.limit, show_time(found.end_ms), found.name]


def _value(found: Scheduler) -> dict[str, Any]:
    """A scheduler as one JSON object; times are milliseconds since 1970, as in Redis."""
    return {
        "id": found.id,
        "name": found.name,
        "next": found.next_ms,
        "job_id": found.job_id,
        "iterations": found.iterations,
        "every": found.every_ms,
        "cron": found.cron,
        "tz": found.tz,
        "limit": found.limit,
        "start": found.start_ms,
        "end": found.end_ms,
        "data": parsed(found.data_json),
        "opts": dict(found.opts),
    }


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigError(f"{option} {text!r} is no moment; write it like 2026-12-01T08:00+01:00 or 2026-12-01T07:00Z")
    return moment
