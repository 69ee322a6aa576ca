"""The live view of a supervisor: one screen, drawn from its stats and the facts it tells."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sandq.cli.logs import describe
from sandq.cli.show import printable
from sandq.supervisor.facts import ChildDied, ChildReady, Fact, Output, Progressed

REDRAW_EVERY_S = 0.25
HAPPENINGS = 8
RUNNING = 16  # more jobs than this are counted, not listed
COLUMNS = ("active", "ready", "starting", "completed", "failed", "retried", "crashed")  # of a queue
_BAR = 20


class LiveView:
    """Remembers the last happenings (it is a listener) and draws them under the figures."""

    def __init__(self, title: str) -> None:
        self.is_up = False  # until a supervisor has told something it has no figures either
        self._title = title
        self._last: deque[tuple[datetime, Fact]] = deque(maxlen=HAPPENINGS)

    def __call__(self, fact: Fact) -> None:
        """Remember what people want to see; progress is drawn with its job, healthy children are the normal case."""
        self.is_up = True
        healthy = isinstance(fact, (Progressed, ChildReady)) or (isinstance(fact, ChildDied) and fact.how == "exit 0")
        if not healthy and not (isinstance(fact, Output) and not fact.line.strip()):
            self._last.append((datetime.now(UTC).astimezone(), fact))

    def draw(self, stats: Mapping[str, Any]) -> RenderableType:
        """One screen: heartbeat, queues, running jobs, last happenings."""
        if not stats:
            return Text(f"{self._title}  starting", style="bold")
        stopping = ", stopping; Ctrl-C again to stop now" if stats.get("state") == "stopping" else ""
        return Group(
            Text(f"{self._title}  up {stats.get('uptime_s', 0):.0f}s{stopping}", style="bold"),
            _heartbeat(stats),
            _queues(stats.get("queues", {})),
            _running(stats.get("queues", {})),
            *(Text(f"{at:%H:%M:%S}  {describe(fact)}", no_wrap=True, overflow="ellipsis") for at, fact in self._last),
        )


def _heartbeat(stats: Mapping[str, Any]) -> Text:
    beat = stats.get("heartbeat", {})
    lost = stats.get("locks_lost", 0)
    text = Text("heartbeat lag  ")
    for name in ("p50", "p99", "max"):
        value = beat.get(f"{name}_ms")
        text.append(f"{name} {'-' if value is None else f'{value:.2f}ms'}  ")
    text.append(f"locks lost {lost}", style="bold red" if lost else "")
    return text


def _queues(queues: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("queue")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    table.add_column("processor")
    for name, queue in queues.items():
        broken = queue.get("broken")
        state = Text(printable(f"broken: {broken}"), style="red") if broken else Text("ok")
        table.add_row(Text(name), *(str(queue.get(column, 0)) for column in COLUMNS), state)
    return table


def _running(queues: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("job", "name", "pid", "for", "progress"):
        table.add_column(column, justify="right" if column in {"pid", "for"} else "left")
    jobs = [job for queue in queues.values() for job in queue.get("running", ())]
    for job in jobs[:RUNNING]:
        cells = (job["id"], job["name"], job["pid"], f"{job['since_s']:.1f}s", bar(job.get("progress")))
        table.add_row(*(Text(printable(str(cell))) for cell in cells))
    if len(jobs) > RUNNING:
        table.add_row(Text(f"and {len(jobs) - RUNNING} more"))
    return table


def bar(progress: str | None) -> str:
    """A bar for a percentage, else the JSON text as it is: a handler may report anything."""
    if progress is None:
        return ""
    try:
        share = float(progress)
    except ValueError:
        return progress[:60]
    if not 0 <= share <= 100:
        return progress[:60]
    full = round(_BAR * share / 100)
    return "━" * full + "╌" * (_BAR - full) + f" {share:.0f}%"


def shown(view: LiveView, stats: Callable[[], Mapping[str, Any]]) -> Live:
    """While entered, the view stands on the terminal and is redrawn a few times a second."""
    # Rich redraws from a thread of its own, so that a busy event loop is shown, not hidden.
    return Live(get_renderable=lambda: view.draw(stats() if view.is_up else {}), refresh_per_second=1 / REDRAW_EVERY_S)
