"""Commands that delete many jobs at once: drain, clean, obliterate."""

from __future__ import annotations

import sys

import click

from sandq.cli.options import debug_option, json_option, store_options
from sandq.cli.show import say
from sandq.cli.store import open_known_queue
from sandq.errors import SandqError
from sandq.job import JobState
from sandq.queue import Queue
from sandq.store.maintain import PLACES

CLEANED = [str(state) for state in PLACES]


@click.command()
@click.argument("queue")
@click.option("--delayed", is_flag=True, help="The delayed jobs, too.")
@store_options
@json_option
@debug_option
def drain(*, queue: str, delayed: bool, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Delete every job of QUEUE that waits to run.

    Jobs that run, finished jobs and schedulers stay.
    """
    with open_known_queue(redis, prefix, queue) as opened:
        number = opened.drain(delayed=delayed)
        left = 0 if delayed else opened.counts()["delayed"]
    rest = f"; {left} still delayed: --delayed takes those, too" if left else ""
    say(as_json, f"{_jobs(number)} deleted from {queue}{rest}", {"queue": queue, "drained": number})


@click.command()
@click.argument("queue")
@click.option("--state", type=click.Choice(CLEANED), required=True, help="Which jobs.")
@click.option("--grace", required=True, metavar="DURATION", help="Only those that are older: 1h, 7d; 0s is all.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many, oldest first (default all).")
@store_options
@json_option
@debug_option
def clean(
    *, queue: str, state: str, grace: str, limit: int | None, redis: str | None, prefix: str | None, as_json: bool
) -> None:
    """Delete the jobs of QUEUE in one state that are older than a grace period.

    Old is what ended, else started, else was added that long ago. A job that runs is never deleted, nor is the next
    run of a scheduler.
    """
    with open_known_queue(redis, prefix, queue) as opened:
        ids = opened.clean(JobState(state), grace, limit)
    told = f"{_jobs(len(ids), state)} deleted from {queue}"
    say(as_json, told, {"queue": queue, "state": state, "cleaned": len(ids), "ids": ids})


@click.command()
@click.argument("queue")
@click.option("--force", is_flag=True, help="Even while jobs run; they are stopped.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
@json_option
@debug_option
def obliterate(*, queue: str, force: bool, yes: bool, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Delete QUEUE with all its jobs, finished ones too, its schedulers, events and settings.

    Asks first on a terminal; elsewhere --yes is needed.
    """
    with open_known_queue(redis, prefix, queue) as opened:
        number = sum(opened.counts().values())
        if not yes:
            _confirm(opened, number)
        opened.obliterate(force=force)
    say(as_json, f"{queue} is gone with {_jobs(number)}", {"queue": queue, "obliterated": number})


def _confirm(queue: Queue, number: int) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"this deletes {queue.name} with {_jobs(number)}; say --yes to do it without being asked"
        )
    if not click.confirm(f"Delete {queue.name} with {_jobs(number)} for good?", err=True):
        raise SandqError(f"{queue.name} is left as it is")


def _jobs(number: int, state: str = "") -> str:
    return " ".join(word for word in (str(number), state, "job" if number == 1 else "jobs") if word)
