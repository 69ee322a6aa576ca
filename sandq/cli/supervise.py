"""`sandq supervise`: settings in, a Supervisor running, its facts shown as a live view or as log lines."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from sandq.cli.logs import log_to, moment
from sandq.cli.options import config_option, debug_option, store_options
from sandq.cli.store import reach
from sandq.config import Keep, QueueSettings
from sandq.errors import ConfigError, StartRefused, StoreRefused
from sandq.settings import Settings, read_settings, strange_variables
from sandq.store.connections import check_server
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.reads import meta
from sandq.store.urls import redact
from sandq.supervisor.loop import Supervisor
from sandq.supervisor.processor import Processor
from sandq.units import show_duration

STOPPED_EARLY = "stopped before it served; no job was claimed"


@click.command()
@click.argument("queues", metavar="[QUEUE=PATH[:FUNCTION]]...", nargs=-1)
@config_option
@click.option("--concurrency", type=click.IntRange(min=1), help="Jobs at once, per queue (default: usable cores).")
@click.option("--lock", metavar="DURATION", help="How long a job stays ours without a renewal (default 15s).")
@click.option("--timeout", metavar="DURATION", help="Stop a job after this long (default none; run ceiling 1h).")
@click.option("--memory", metavar="SIZE", help="Kill a job whose processes use more than this.")
@click.option("--max-crashes", type=click.IntRange(min=0), help="Crashes that a job may survive (default 2).")
@click.option("--max-stalled-count", type=click.IntRange(min=0), help="Stalls that a job may survive (default 1).")
@click.option(
    "--drain-timeout",
    metavar="DURATION",
    help="On SIGTERM, end within this long (default 25s); its last soft_stop + term_stop (10s) are for stopping jobs.",
)
@click.option("--recycle-after", type=click.IntRange(min=1), help="Replace a child after this many jobs.")
@click.option("--name", help="What this supervisor is called in `sandq status`.")
@click.option("--burst", is_flag=True, help="Exit when nothing is left to do; 0 also if jobs failed.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Log lines instead of the live view.")
@store_options
@debug_option
@click.pass_context
def supervise(
    ctx: click.Context,
    /,
    *,
    queues: tuple[str, ...],
    config: Path | None,
    burst: bool,
    log_format: str | None,
    **flags: Any,
) -> None:
    """Serve queues until SIGTERM or Ctrl-C, then let running jobs finish; a second Ctrl-C does not wait for them.

    Each QUEUE=PATH[:FUNCTION] names a queue and the file, or dotted module, that runs its jobs; the configuration
    file may name more.
    """
    for sentence in strange_variables(os.environ):
        _announce(sentence, log_format)
    settings = read_settings(config=config, flags=flags, processors=_pairs(queues))
    if not settings.queues:
        raise ConfigError("nothing to serve; name QUEUE=PATH[:FUNCTION], or write [queues.NAME] into sandq.toml")
    for queue in settings.queues.values():
        Processor.of(queue.processor)  # a file that is not there is told of before anything is started
    live = log_format is None and sys.stdout.isatty()
    with _stoppable(log_format), reach(settings, begins=True) as url:
        for line in _decided(settings, url):
            _announce(line, log_format)
        ctx.exit(_serve(settings, url, burst, live, log_format))


class _Stopped(KeyboardInterrupt):
    """SIGTERM or Ctrl-C before there was a supervisor to take it."""


@contextmanager
def _stoppable(log_format: str | None) -> Iterator[None]:
    """Nothing is begun yet that a signal could cost: it ends the command in order, until the supervisor takes it."""

    def stop(*_: object) -> None:
        raise _Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except _Stopped:
        _announce(STOPPED_EARLY, log_format)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pairs(queues: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for pair in queues:
        queue, equals, processor = pair.partition("=")
        if not (queue and equals and processor):
            raise click.UsageError(
                f"{pair!r} is not QUEUE=PATH[:FUNCTION]; write it like render=jobs/render.py:process"
            )
        pairs[queue] = processor
    return pairs


def _decided(settings: Settings, url: str) -> Iterator[str]:
    """Say what was decided, so that nobody has to guess which setting won."""
    supervisor = settings.supervisor
    server = check_server(url, allow_eviction=supervisor.allow_eviction)
    foreign = _foreign(settings, url)
    yield f"redis {redact(url)}, prefix {supervisor.prefix}, lock {show_duration(supervisor.lease.lock_s)}"
    yield from server.warnings
    for name, queue in settings.queues.items():
        keeps = retention(queue, is_foreign=foreign[name])
        yield f"queue {name}: {queue.processor}, concurrency {queue.concurrency}, {keeps}"
        if warning := hasty(queue, supervisor.drain_timeout_s):
            yield f"queue {name}: {warning}"


def _foreign(settings: Settings, url: str) -> Mapping[str, bool]:
    """Which queues another library made: their history is not ours to trim."""
    executor = SyncExecutor(url, redis_timeout=settings.supervisor.redis_timeout_s)
    try:
        return {
            name: executor.run(meta(QueueKeys(name, settings.supervisor.prefix))).is_foreign for name in settings.queues
        }
    except StoreRefused as error:
        raise StartRefused(str(error)) from error
    finally:
        executor.close()


def retention(queue: QueueSettings, *, is_foreign: bool) -> str:
    """Which finished jobs are kept, in words; a job's own option comes before all of these."""
    if queue.keep_completed is None and queue.keep_failed is None:
        if is_foreign:
            return "keeps all finished jobs (BullMQ made this queue)"
        return "keeps completed jobs 24h (at most 1000) and failed ones 7d"
    rest = Keep() if is_foreign else None
    completed, failed = queue.keep_completed or rest, queue.keep_failed or rest
    return f"keeps completed jobs: {_keep(completed, '24h, at most 1000')}, failed ones: {_keep(failed, '7d')}"


def hasty(queue: QueueSettings, drain_timeout_s: float) -> str:
    """What to say if running jobs are stopped as soon as the supervisor is; nothing if they may run on."""
    if drain_timeout_s > queue.ladder_s:
        return ""
    ladder, soft, term = map(show_duration, (queue.ladder_s, queue.soft_stop_s, queue.term_stop_s))
    return (
        f"on SIGTERM its running jobs are stopped at once: soft_stop {soft} and term_stop {term} take all of "
        f"drain_timeout {show_duration(drain_timeout_s)}; make it more than {ladder}, or make those shorter"
    )


def _keep(keep: Keep | None, default: str) -> str:
    if keep is None:
        return default
    parts = [show_duration(keep.age_s)] if keep.age_s is not None else []
    parts += [f"at most {keep.count}"] if keep.count is not None else []
    return ", ".join(parts) or "all"


def _announce(text: str, log_format: str | None) -> None:
    if log_format == "json":
        text = json.dumps({"at": moment(datetime.now(UTC)), "fact": "Starting", "text": text}, ensure_ascii=False)
    else:
        text = f"sandq: {text}"
    click.echo(text, err=True)


def _serve(settings: Settings, url: str, burst: bool, live: bool, log_format: str | None) -> int:
    own = replace(settings.supervisor, redis=url)
    if live:
        from sandq.cli.live import LiveView, shown

        view = LiveView(" ".join(["sandq", *([own.name] if own.name else []), "on", redact(url)]))
        supervisor = Supervisor(settings.queues, url, settings=own, listeners=[view], burst=burst)
        with shown(view, supervisor.stats):
            code = supervisor.run()
    else:
        listener = log_to(sys.stderr, log_format or "text")
        supervisor = Supervisor(settings.queues, url, settings=own, listeners=[listener], burst=burst)
        code = supervisor.run()
    if not supervisor.has_served:
        _announce(STOPPED_EARLY, log_format)
    if supervisor.failure:
        _announce(supervisor.failure, log_format)
    return code
