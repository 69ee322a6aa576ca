"""How values look: aligned tables (rich ones when a terminal reads them), JSON, and one job in full."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from sandq.cli.explain import crashes_of, interruptions_of
from sandq.errands.family import FlowTree
from sandq.job import Job, JobState
from sandq.units import show_duration


def print_json(value: Any) -> None:
    """One JSON text on one line, for programs."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    # Half a surrogate pair has no UTF-8. It can only stand inside a JSON string, where its escape means the same.
    click.echo(text.encode("utf-8", "backslashreplace"))


def say(as_json: bool, text: str, value: Any) -> None:
    """What a command did: a line for people, or a value for programs."""
    if as_json:
        print_json(value)
    else:
        click.echo(text)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> None:
    """A table: drawn by rich on a terminal, else plain aligned text; `numbers` are the right-aligned columns."""
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(headers, cells, numbers)
        return
    for line in align([[header.upper() for header in headers], *cells], numbers):
        click.echo(line)


def align(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> list[str]:
    """Lines whose columns stand under each other."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def printable(text: str) -> str:
    """The text on one line, control characters escaped: a job's text must not forge lines or drive the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text.rstrip())


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a job's name is not markup
    Console().print(table)


def job_value(job: Job, state: JobState) -> dict[str, Any]:
    """A job as one JSON object; times are milliseconds since 1970, as in Redis."""
    return {
        "id": job.id,
        "queue": job.queue,
        "name": job.name,
        "state": str(state),
        "data": parsed(job.data_json),
        "opts": dict(job.opts),
        "timestamp": job.timestamp,
        "delay": job.delay,
        "priority": job.priority,
        "attempts": job.attempts,
        "attempts_made": job.attempts_made,
        "attempts_started": job.attempts_started,
        "stalled_count": job.stalled_count,
        "crashes": crashes_of(job),
        "interruptions": interruptions_of(job),
        "unknown_names": job.unknown_names,
        "fence": job.fence,
        "deferred_failure": job.deferred_failure,
        "parent_key": job.parent_key,
        "scheduler_id": job.scheduler_id,
        "deduplication_id": job.deduplication_id,
        "processed_on": job.processed_on,
        "finished_on": job.finished_on,
        "processed_by": job.processed_by,
        "progress": parsed(job.progress_json),
        "returnvalue": parsed(job.returnvalue_json),
        "failed_reason": job.failed_reason,
        "stacktrace": list(job.stacktrace),
        "death": dict(job.death) if job.death else None,
    }


def print_job(job: Job, state: JobState) -> None:
    """Every field that has something to say, one a line."""
    value = job_value(job, state)
    stacktrace = value.pop("stacktrace")
    for key in ("timestamp", "processed_on", "finished_on"):
        value[key] = show_time(value[key])
    death = value.pop("death")
    for key in ("data", "opts", "progress", "returnvalue"):
        value[key] = json.dumps(value[key], ensure_ascii=False) if value[key] not in (None, {}) else None
    if job.delay:
        value["delay"] = show_duration(job.delay / 1000)
    told = [[key, printable(str(text))] for key, text in value.items() if text not in (None, "", 0)]
    for line in align(told):
        click.echo(line)
    for name, text in (death or {}).items():
        _print_block(f"death.{name}", str(text))
    for trace in stacktrace:
        _print_block("stacktrace", trace)


def tree_value(tree: FlowTree) -> dict[str, Any]:
    """A job and its children as one JSON object; `hidden` children are beyond the limits, or removed."""
    return {
        "queue": tree.job.queue,
        "id": tree.job.id,
        "name": tree.job.name,
        "state": str(tree.state),
        "failed_reason": tree.job.failed_reason,
        "children": [tree_value(child) for child in tree.children],
        "hidden": tree.hidden,
    }


def print_children(tree: FlowTree) -> None:
    """The children, each below its parent, further to the right."""
    if tree.children or tree.hidden:
        click.echo("children")
        _print_branch(tree, "    ")


def _print_branch(tree: FlowTree, margin: str) -> None:
    for child in tree.children:
        job = child.job
        why = f": {(job.failed_reason or '').partition(chr(10))[0]}" if child.state is JobState.FAILED else ""
        click.echo(margin + printable(f"{job.queue} {job.id}  {job.name}  {child.state}{why}"))
        _print_branch(child, f"{margin}    ")
    if tree.hidden:
        click.echo(f"{margin}{tree.hidden} more, not shown or removed")


def _print_block(title: str, text: str) -> None:
    """On one line with its title what fits there, else indented under it."""
    lines = [printable(line) for line in text.rstrip().splitlines()]
    click.echo(f"{title}  {lines[0]}" if len(lines) == 1 else "\n    ".join([title, *lines]))


def show_time(at_ms: int | None) -> str | None:
    """A moment as local time with its offset, one beyond the year 9999 as its milliseconds; None stays None."""
    if not at_ms:
        return None
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms}ms"


def show_took(job: Job) -> str:
    """How long the last run took, if it is over."""
    if not job.processed_on or not job.finished_on:
        return ""
    return f"{max(0, job.finished_on - job.processed_on) / 1000:.3g}s"


def parsed(raw: bytes | None) -> Any:
    """A stored JSON text as a value; another client may have stored anything, so what is no JSON is shown as text."""
    if raw is None:
        return None
    try:
        value = json.loads(raw)
        json.dumps([[[[[[[[value]]]]]]]])  # nested so deep that it can just be read, it could not be shown within a job
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace")
    return value
