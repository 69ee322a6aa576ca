"""Commands that only read: status, jobs, job, why, events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from sandq.cli.explain import Scene, crashes_of, explain, find_runner, show_age
from sandq.cli.options import debug_option, json_option, store_options
from sandq.cli.show import (
    job_value,
    print_children,
    print_job,
    print_json,
    print_table,
    printable,
    show_time,
    show_took,
    tree_value,
)
from sandq.cli.store import Store, find_queues, open_member, open_queue, open_store, tell_if_unknown
from sandq.errands.family import MAX_DEPTH, failed_children
from sandq.errands.jobs import about
from sandq.errors import JobNotFound, QueueError
from sandq.event import Event
from sandq.job import Job, JobState
from sandq.store import reads
from sandq.store.keys import split_job_key
from sandq.store.urls import redact

FAILED_CHILDREN = 5  # more than this `why` does not name
STATES = [str(state) for state in JobState if state is not JobState.UNKNOWN]


@click.command()
@click.argument("queues", metavar="[QUEUE]...", nargs=-1)
@store_options
@json_option
@debug_option
def status(*, queues: tuple[str, ...], redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Show what is in each QUEUE and who serves it; without names, all queues of the file or of the Redis."""
    with open_store(redis, prefix) as store:
        found = {name: _look(store, name, named=bool(queues)) for name in queues or find_queues(store)}
        if as_json:
            print_json({"redis": redact(store.url), "prefix": store.prefix, "queues": found})
        elif found:
            _print_status(found)
        else:
            click.echo(f"sandq: no queue under the prefix {store.prefix} in {redact(store.url)}", err=True)


def _look(store: Store, name: str, *, named: bool) -> dict[str, Any]:
    with store.queue(name) as queue:
        if named:  # the others were found in the file or in Redis
            tell_if_unknown(store, queue)
        return {"counts": queue.counts(), "paused": queue.paused(), "supervisors": queue.supervisors()}


def _print_status(found: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        [name, *(queue["counts"].get(state, 0) for state in STATES), condition(queue)] for name, queue in found.items()
    ]
    print_table(["queue", *STATES, "state"], rows, numbers=range(1, len(STATES) + 1))
    serving = [
        [supervisor.get("name") or supervisor.get("id"), name, *_supervisor(supervisor, name)]
        for name, queue in found.items()
        for supervisor in queue["supervisors"]
    ]
    if serving:
        click.echo()
        print_table(
            ["supervisor", "queue", "host", "pid", "up", "heartbeat p99", "max", "state", "processor"],
            serving,
            numbers=range(3, 7),
        )


def condition(queue: Mapping[str, Any]) -> str:
    """Whether anything is in the way of the queue's jobs, in a word or two."""
    paused = "paused" if queue["paused"] else ""
    unserved = "" if queue["supervisors"] else "no supervisor"
    stopping = [supervisor.get("state") == "stopping" for supervisor in queue["supervisors"]]
    leaving = "stopping" if stopping and all(stopping) else ""
    return ", ".join(word for word in (paused, unserved, leaving) if word) or "ok"


def _supervisor(supervisor: Mapping[str, Any], queue: str) -> list[object]:
    beat = supervisor.get("heartbeat", {})
    state = supervisor.get("queues", {}).get(queue, {})
    return [
        supervisor.get("host"),
        supervisor.get("pid"),
        show_age(1000 * supervisor.get("uptime_s", 0)),
        _milliseconds(beat.get("p99_ms")),
        _milliseconds(beat.get("max_ms")),
        supervisor.get("state"),
        _processor(state),
    ]


def _processor(state: Mapping[str, Any]) -> str:
    if not (broken := state.get("broken")):
        return "ok"
    retry_s = state.get("broken_retry_s")
    return f"broken: {broken}" + (f" (next try in {retry_s:g}s)" if retry_s else "")


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}ms"


@click.command()
@click.argument("queue")
@click.option("--state", type=click.Choice(STATES), default="failed", help="Which jobs (default failed).")
@click.option("--limit", type=click.IntRange(min=1), default=20, help="At most this many (default 20).")
@store_options
@json_option
@debug_option
def jobs(*, queue: str, state: str, limit: int, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """List the jobs of QUEUE in one state."""
    wanted = JobState(state)
    with open_queue(redis, prefix, queue) as (opened, known):
        found = opened.jobs(wanted, limit=limit)
    if as_json:
        print_json([job_value(job, wanted) for job in found])
    elif found:
        runs = wanted is JobState.ACTIVE
        rows = [_row(job, show_time(job.processed_on) if runs else show_took(job)) for job in found]
        headers = ["id", "name", "added", "attempts", "crashes", "since" if runs else "took", "note"]
        print_table(headers, rows, numbers=(4,) if runs else (4, 5))
    elif known:
        click.echo(f"sandq: no {state} job in {queue}", err=True)


def _row(job: Job, run: str | None) -> list[object]:
    reason = (job.failed_reason or "").partition("\n")[0]
    note = reason if len(reason) <= 80 else reason[:77] + "..."
    if not note and job.progress_json and not job.finished_on:
        note = f"progress {job.progress_json.decode('utf-8', 'replace')[:60]}"
    return [job.id, job.name, show_time(job.timestamp), _attempts(job), crashes_of(job), run, note]


def _attempts(job: Job) -> str:
    by_hand = job.attempts_made - job.attempts
    return f"{job.attempts}/{job.attempts} +{by_hand}" if by_hand > 0 else f"{job.attempts_made}/{job.attempts}"


@click.command()
@click.argument("queue")
@click.argument("id_", metavar="ID")
@click.option("--logs", is_flag=True, help="Show what the handler logged.")
@click.option(
    "--depth", type=click.IntRange(0, MAX_DEPTH), default=3, help="Show so many levels of children (default 3)."
)
@store_options
@json_option
@debug_option
def job(*, queue: str, id_: str, logs: bool, depth: int, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Show everything about job ID of QUEUE, its parent and its children."""
    with open_member(redis, prefix, queue) as (store, opened):
        found, state = opened.job(id_), opened.state(id_)
        lines = opened.logs(id_) if logs else None
        tree, parent = opened.tree(id_, depth=depth), _parent(store, found)
        runner = find_runner(found, opened.supervisors()) if state is JobState.ACTIVE else None
    if as_json:
        family = {"parent": parent, "children": tree_value(tree)["children"], "hidden": tree.hidden}
        running = {"running": runner and {"pid": runner.pid, "supervisor": runner.called}}
        print_json(job_value(found, state) | running | family | ({"logs": lines} if lines is not None else {}))
        return
    print_job(found, state)
    if runner is not None:
        click.echo(f"running  process {runner.pid} of supervisor {printable(runner.called)}")
    if parent is not None:
        click.echo(f"parent  {printable(' '.join(str(part) for part in parent.values()))}")
    print_children(tree)
    for line in lines or ():
        click.echo(f"log  {printable(line)}")


def _parent(store: Store, child: Job) -> dict[str, str] | None:
    """Who waits for the job, and where it is; a parent that is gone is in no state."""
    if not child.parent_key:
        return None
    try:
        keys, id_ = split_job_key(child.parent_key, store.prefix)
    except QueueError:  # another client may have stored anything
        return {"queue": "", "id": child.parent_key, "state": "gone"}
    with store.queue(keys.queue) as opened:
        try:
            state = str(opened.state(id_))
        except JobNotFound:
            state = "gone"
    return {"queue": keys.queue, "id": id_, "state": state}


@click.command()
@click.argument("queue")
@click.argument("id_", metavar="ID")
@store_options
@json_option
@debug_option
def why(*, queue: str, id_: str, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Say in English what happened to job ID of QUEUE, and what happens next."""
    with open_member(redis, prefix, queue) as (store, opened):
        found, state = opened.job(id_), opened.state(id_)
        scene = Scene(
            now_ms=int(time.time() * 1000),
            paused=opened.paused(),
            held=store.run(about(opened.keys, id_, reads.held(opened.keys, id_))),
            supervisors=opened.supervisors(),
            failed_children=store.run(failed_children(opened.keys, id_, FAILED_CHILDREN)),
        )
    lines = explain(found, state, scene)
    if as_json:
        children = [{"queue": child.queue, "id": child.id, "reason": child.reason} for child in scene.failed_children]
        death = dict(found.death or {}) or None
        print_json({"id": found.id, "state": str(state), "why": lines, "death": death, "failed_children": children})
    else:
        click.echo("\n".join(printable(line) for line in lines))


@click.command()
@click.argument("queue")
@click.option("--since", default="$", metavar="ID", help="Begin after this event id, 0 for all (default: from now on).")
@store_options
@json_option
@debug_option
def events(*, queue: str, since: str, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Follow what happens in QUEUE until Ctrl-C."""
    with open_queue(redis, prefix, queue) as (opened, _):
        try:
            for event in opened.events(since=since):
                if event.after_gap:
                    click.echo(f"sandq: Redis has trimmed events before {event.id}; some may be missing", err=True)
                if as_json:
                    print_json({**event.fields, "event_id": event.id, "after_gap": event.after_gap})
                else:
                    click.echo(printable(_event_line(event)))
        except KeyboardInterrupt:
            return  # the way to end it, not a failure


def _event_line(event: Event) -> str:
    rest = " ".join(f"{name}={text}" for name, text in event.fields.items() if name not in ("event", "jobId"))
    return " ".join(part for part in (show_time(event.timestamp), event.id, event.name, event.job_id, rest) if part)
