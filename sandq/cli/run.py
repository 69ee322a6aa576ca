"""Commands that use real children without Redis: run one job, check that processors load."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from sandq.cli.add import read_data
from sandq.cli.certificate import explain_death
from sandq.cli.options import config_option, debug_option, json_option
from sandq.cli.show import print_json
from sandq.config import QueueSettings
from sandq.errors import ConfigError, ProcessorError
from sandq.outcome import Completed, Death, InitFailed, Outcome, Postponed, Raised, TooLarge, UnknownName
from sandq.settings import read_settings
from sandq.supervisor.single import check_processor, run_single
from sandq.units import seconds, size

PROGRESS_EVERY_S = 1.0


@click.command()
@click.argument("processor", metavar="PATH[:FUNCTION]")
@click.option("--data", default="{}", metavar="JSON|@file|-", help="The job's data (default {}).")
@click.option("--name", default="run", help="The job's name, for a processor with named handlers (default run).")
@click.option("--timeout", metavar="DURATION", help="Stop the job after this long (default none; run ceiling 1h).")
@click.option("--memory", metavar="SIZE", help="Kill the job when its processes use more than this.")
@debug_option
@click.pass_context
def run(
    ctx: click.Context, /, *, processor: str, data: str, name: str, timeout: str | None, memory: str | None
) -> None:
    """Run one job in a real child and print its result as JSON; what it writes goes to stderr."""
    settings = QueueSettings(
        timeout_s=None if timeout is None else seconds(timeout), memory=None if memory is None else size(memory)
    )
    voice = Voice()
    outcome = run_single(processor, json.dumps(read_data(data)).encode(), settings, name=name, hear=voice.hear)
    voice.end()
    if isinstance(outcome, Completed):
        click.echo(outcome.result)
        return
    click.echo("\n".join(["sandq: the job did not complete.", *describe(outcome)]), err=True)
    ctx.exit(1)


class Voice:
    """Passes on what the job says, to stderr: on stdout it would spoil the result. Of progress, a line a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at = -math.inf
        self._untold = ""

    def hear(self, stream: str, line: str) -> None:
        """One line of stdout, stderr, a log or a progress."""
        if stream == "progress" and self._clock() - self._told_at < PROGRESS_EVERY_S:
            self._untold = line
            return
        if stream == "progress":
            self._told_at, self._untold = self._clock(), ""
        click.echo(f"{stream}: {line}" if stream in ("log", "progress") else line, err=True)

    def end(self) -> None:
        """The last progress, if it was held back."""
        if self._untold:
            click.echo(f"progress: {self._untold}", err=True)


def describe(outcome: Outcome) -> list[str]:
    """Say in English why an attempt did not complete."""
    death: Death | None = getattr(outcome, "death", None)
    if death is not None:
        certificate: Mapping[str, Any] = msgspec.to_builtins(death)
        # What it wrote has been passed on already, and a stack that a fatal error left there with it.
        is_told = death.stack.strip() in death.stderr
        return explain_death({**certificate, "stderr": "", "stack": "" if is_told else death.stack})
    match outcome:
        case Raised(error, ""):  # nothing was raised: its result is of no use
            return [f"{error[:1].upper()}{error[1:]}."]
        case Raised(error, traceback):
            return [f"The handler raised {error}.", *traceback.rstrip().splitlines()]
        case InitFailed(why):
            return [f"The processor could not be loaded: {why}"]
        case UnknownName(known):
            return [f"The processor has no handler for this job's name; it has {', '.join(known) or 'none'}."]
        case TooLarge(what, size, limit):
            return [f"Its {what} has {size} bytes; at most {limit} are allowed."]
        case Postponed(until):
            return [f"The handler asked to run again later (until: {until}); there is no queue to wait in."]
        case _:
            return [f"It ended as {type(outcome).__name__}."]


@click.command()
@config_option
@json_option
@debug_option
@click.pass_context
def check(ctx: click.Context, /, *, config: Path | None, as_json: bool) -> None:
    """Load every configured processor in a real child; exit 1 if one is broken."""
    queues = read_settings(config=config).queues
    if not queues:
        raise ConfigError(
            "no queue is configured; write [queues.NAME] with a processor into sandq.toml, or name --config"
        )
    found = {queue: _load(settings) for queue, settings in queues.items()}
    if as_json:
        print_json(found)
    else:
        for queue, result in found.items():
            said = f"ok: {', '.join(map(_served, result['handlers']))}" if result["ok"] else f"broken: {result['why']}"
            click.echo(f"{queue}  {result['processor']}  {said}")
    ctx.exit(0 if all(result["ok"] for result in found.values()) else 1)


def _served(handler: str) -> str:
    return "any job name" if handler == "*" else handler


def _load(settings: QueueSettings) -> dict[str, Any]:
    try:
        handlers = check_processor(settings.processor, settings)
    except ProcessorError as error:
        return {"processor": settings.processor, "ok": False, "why": " ".join(str(error).split())}
    return {"processor": settings.processor, "ok": True, "handlers": handlers}
