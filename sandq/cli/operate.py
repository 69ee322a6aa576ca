"""Commands that change a queue: cancel, retry, promote, remove, pause, resume."""

from __future__ import annotations

import click

from sandq.cli.options import debug_option, json_option, store_options
from sandq.cli.show import say
from sandq.cli.store import open_known_queue, open_member
from sandq.errands.queue import FINISHED
from sandq.errors import WrongState
from sandq.job import JobState

_CANCELLED = {
    "was_waiting": "it was not running and is failed now",
    "was_abandoned": "whoever ran it is gone or has lost its lock; it is failed now",
    "was_running": "its supervisor stops it within a second or so",
}


ENDED = [str(state) for state in FINISHED]


@click.command()
@click.argument("queue")
@click.argument("id_", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="Kept as the job's failedReason.")
@store_options
@json_option
@debug_option
def cancel(*, queue: str, id_: str, reason: str, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """End job ID of QUEUE; it is not tried again."""
    with open_member(redis, prefix, queue) as (_, opened):
        word = opened.cancel(id_, reason=reason)
    if word not in _CANCELLED:
        raise WrongState(f"job {id_} of {queue} is already done; nothing to cancel")
    say(as_json, f"cancelled {id_}: {_CANCELLED[word]}", {"id": id_, "cancelled": word})


@click.command()
@click.argument("queue")
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help="Every failed job that was not cancelled.")
@click.option("--state", type=click.Choice(ENDED), help="With --all: completed jobs instead (default failed).")
@click.option("--cancelled", is_flag=True, help="With --all: the cancelled ones, too.")
@store_options
@json_option
@debug_option
def retry(
    *,
    queue: str,
    id_: str | None,
    every: bool,
    state: str | None,
    cancelled: bool,
    redis: str | None,
    prefix: str | None,
    as_json: bool,
) -> None:
    """Put finished job ID of QUEUE, or with --all every failed one, back to wait.

    Its crashes and interruptions are counted afresh. The attempts that it made stay counted; if none is left it
    gets one run.
    """
    if (id_ is None) is not every:
        raise click.UsageError("name one job ID, or --all")
    if (cancelled or state) and not every:
        raise click.UsageError("--state and --cancelled go with --all; one job that you name is retried in any case")
    if id_ is not None:
        with open_member(redis, prefix, queue) as (_, opened):
            opened.retry(id_)
        say(as_json, f"job {id_} waits again", {"retried": 1})
        return
    with open_known_queue(redis, prefix, queue) as opened:
        number = opened.retry_all(state or JobState.FAILED, cancelled=cancelled)
        stay = 0 if cancelled or state == JobState.COMPLETED else opened.counts()["failed"]
    rest = f"; {stay} still failed: --cancelled takes those that were cancelled, too" if stay else ""
    say(as_json, f"{number} {'job waits' if number == 1 else 'jobs wait'} again{rest}", {"retried": number})


@click.command()
@click.argument("queue")
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help="Every delayed job.")
@store_options
@json_option
@debug_option
def promote(*, queue: str, id_: str | None, every: bool, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Run delayed job ID of QUEUE, or with --all every delayed one, as soon as a worker is free."""
    if (id_ is None) is not every:
        raise click.UsageError("name one job ID, or --all")
    if id_ is not None:
        with open_member(redis, prefix, queue) as (_, opened):
            opened.promote(id_)
        say(as_json, f"job {id_} no longer waits for its time", {"promoted": 1})
        return
    with open_known_queue(redis, prefix, queue) as opened:
        number = opened.promote_all()
    told = "1 job no longer waits for its time" if number == 1 else f"{number} jobs no longer wait for their time"
    say(as_json, told, {"promoted": number})


@click.command()
@click.argument("queue")
@click.argument("id_", metavar="ID")
@click.option("--keep-children", is_flag=True, help="Delete the job alone.")
@store_options
@json_option
@debug_option
def remove(*, queue: str, id_: str, keep_children: bool, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Delete job ID of QUEUE with its children; refused while one of them runs."""
    with open_member(redis, prefix, queue) as (_, opened):
        opened.remove(id_, children=not keep_children)
    say(as_json, f"job {id_} is removed", {"removed": id_})


@click.command()
@click.argument("queue")
@store_options
@json_option
@debug_option
def pause(*, queue: str, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Start no further job of QUEUE; what runs is finished."""
    with open_known_queue(redis, prefix, queue) as opened:
        opened.pause()
    say(as_json, f"{queue} is paused", {"queue": queue, "paused": True})


@click.command()
@click.argument("queue")
@store_options
@json_option
@debug_option
def resume(*, queue: str, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Go on with paused QUEUE."""
    with open_known_queue(redis, prefix, queue) as opened:
        was_paused = opened.paused()
        opened.resume()  # in any case: BullMQ 5 keeps what it set aside in a list of its own
    say(as_json, f"{queue} {'goes on' if was_paused else 'was not paused'}", {"queue": queue, "paused": False})
