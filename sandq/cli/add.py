"""`sandq add`: one job or many from the command line, and their results if somebody waits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from sandq.cli.main import FORCED
from sandq.cli.options import debug_option, json_option, store_options
from sandq.cli.show import print_json
from sandq.cli.store import open_store
from sandq.errors import ConfigError, JobFailed, ResultTimeout
from sandq.queue import Queue
from sandq.store.keys import QueueKeys
from sandq.store.newjob import MAX_PRIORITY, new_job

BULK = 1000  # jobs handed to add_many at a time: memory stays flat for `--count 1000000`
NOTICE_S = 1.0  # a job that nobody began by then deserves a word
LOOK_AGAIN_S = 60.0


@click.command()
@click.argument("queue")
@click.argument("name")
@click.option("--data", default="{}", metavar="JSON|@file|-", help="The job's data (default {}).")
@click.option("--count", type=click.IntRange(min=1), default=1, help="Add this many jobs alike.")
@click.option("--delay", metavar="DURATION", help="Not before this long from now.")
@click.option("--priority", type=click.IntRange(0, MAX_PRIORITY), default=0, help="0 comes first, then 1, 2 and so on.")
@click.option("--attempts", type=click.IntRange(min=0), default=0, help="How often the handler may raise.")
@click.option("--backoff", metavar="KIND:DELAY", help="Pause between attempts, such as exponential:1s or fixed:5s.")
@click.option("--job-id", metavar="ID", help="An id of your own: a second add of it changes nothing.")
@click.option("--lifo", is_flag=True, help="Run it next, before those that wait.")
@click.option("--timeout", metavar="DURATION", help="Stop the job after this long.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it as JSON.")
@store_options
@json_option
@debug_option
def add(
    *,
    queue: str,
    name: str,
    data: str,
    count: int,
    wait: bool,
    redis: str | None,
    prefix: str | None,
    as_json: bool,
    **opts: Any,
) -> None:
    """Add job NAME to QUEUE and print its id."""
    if count > 1 and opts["job_id"]:
        raise click.UsageError("--job-id names one job; leave it out with --count")
    QueueKeys(queue)  # a wrong name or option is told of before any server is started
    job = {"name": name, "data": read_data(data), **opts}
    new_job(**job)
    with open_store(redis, prefix, begins=True) as store, store.queue(queue) as opened:
        ids = _add(opened, job, count)
        if wait:
            _print_results(opened, ids)
        elif as_json:
            print_json({"ids": ids})
        else:
            click.echo("\n".join(ids))


def read_data(text: str) -> Any:
    """The value of `--data`: JSON itself, `@file`, or `-` for stdin."""
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--data: {text[1:]} cannot be read: {error.strerror}") from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--data is not JSON: {error}; a text needs its quotes, as in '\"text\"'") from error


def _add(queue: Queue, job: dict[str, Any], count: int) -> list[str]:
    ids: list[str] = []
    while len(ids) < count:
        ids += [added.id for added in queue.add_many([job] * min(BULK, count - len(ids)))]
    return ids


def _print_results(queue: Queue, ids: list[str]) -> None:
    """One result a line, in the order of adding; the first failed job ends it with its reason (JobFailed)."""
    for number, job_id in enumerate(ids):
        try:
            print_json(_result(queue, job_id, is_first=number == 0))
        except JobFailed as error:
            raise JobFailed(f"job {job_id} failed: {error}; see `sandq why {queue.name} {job_id}`") from error
        except KeyboardInterrupt:
            click.echo(f"sandq: {_left_behind(queue.name, ids[number:])}", err=True)
            raise click.exceptions.Exit(FORCED) from None


def _result(queue: Queue, job_id: str, *, is_first: bool) -> Any:
    patience_s = NOTICE_S if is_first else LOOK_AGAIN_S
    while True:  # whoever asked to wait says when it is enough: Ctrl-C
        try:
            return queue.result(job_id, timeout=patience_s)
        except ResultTimeout:
            if patience_s == NOTICE_S and (obstacle := _obstacle(queue)):
                click.echo(f"sandq: job {job_id} waits; {obstacle}", err=True)
            patience_s = LOOK_AGAIN_S


def _obstacle(queue: Queue) -> str:
    if queue.paused():
        return f"queue {queue.name} is paused, go on with `sandq resume {queue.name}`"
    return "" if queue.supervisors() else f"no supervisor serves queue {queue.name}"


def _left_behind(queue: str, ids: list[str]) -> str:
    first = f"see `sandq why {queue} {ids[0]}`, or end it with `sandq cancel {queue} {ids[0]}`"
    if len(ids) == 1:
        return f"job {ids[0]} stays in queue {queue}; {first}"
    return f"{len(ids)} jobs stay in queue {queue}, {ids[0]} to {ids[-1]}; of the first {first}"
