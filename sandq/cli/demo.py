"""`sandq demo`: real CPU-heavy jobs on a private Redis, one busy child killed on the way, and what was measured."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import sandq.demo
from sandq.cli.live import LiveView, shown
from sandq.cli.logs import describe
from sandq.cli.options import debug_option
from sandq.cli.show import print_table
from sandq.config import Lease, QueueSettings, SupervisorSettings, usable_cores
from sandq.demo.metrics import packages
from sandq.job import Job, JobState
from sandq.private import PrivateServer
from sandq.queue import Queue
from sandq.supervisor.facts import ChildDied, Fact, Progressed, Recovered, Settled, Started
from sandq.supervisor.loop import Supervisor
from sandq.units import seconds, show_size

QUEUE = "stdlib"
LIMIT_S = 600.0  # nobody watches a demo for longer; whatever is unfinished then counts as lost


@dataclass
class Watch:
    """A listener that knows who runs what, kills one busy child, and times its job's way back."""

    jobs: int
    clock: Callable[[], float] = time.monotonic
    pids: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # of each completed job
    ended: set[str] = field(default_factory=set)
    recovered: int = 0
    victim: str = ""
    killed_at: float = 0.0
    restart_s: float | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, fact: Fact) -> None:
        """Keep count; the kill falls a third of the way through, on a job that has just shown that it is busy."""
        match fact:
            case Started(job_id=job_id, pid=pid):
                self.pids[job_id] = pid
                if job_id == self.victim and self.restart_s is None:
                    self.restart_s = self.clock() - self.killed_at
            case Progressed(job_id=job_id) if self._is_prey(fact):
                self.victim, self.killed_at = job_id, self.clock()
                click.echo(f"demo: killing busy child {self.pids[job_id]} now", err=True)
                os.kill(self.pids[job_id], signal.SIGKILL)
            case Recovered(job_ids=job_ids):
                self.recovered += len(job_ids)
            case Settled(job_id=job_id, to="completed" | "failed", wall_s=wall_s):
                self.seconds[job_id] = wall_s
                self.ended.add(job_id)
                if len(self.ended) == self.jobs:
                    self.done.set()
            case _:
                pass

    def _is_prey(self, fact: Progressed) -> bool:
        """Half done at most: a child that is about to finish could slip away, and nothing would have been shown."""
        return not self.victim and 3 * len(self.ended) >= self.jobs and json.loads(fact.progress_json) <= 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one run measured."""

    added: int
    completed: int
    stalled: int
    restart_s: float | None
    heartbeat: Mapping[str, Any]
    total_s: float

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing stalled, and the killed job ran again."""
        return self.completed == self.added and self.stalled == 0 and self.restart_s is not None


@click.command()
@click.option("--packages", "groups", type=click.IntRange(min=3), help="Only this many of the jobs.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Jobs at once (default: usable cores).")
@click.option("--lock", metavar="DURATION", default="2s", help="Lock time (default 2s).")
@debug_option
@click.pass_context
def demo(ctx: click.Context, /, *, groups: int | None, concurrency: int | None, lock: str) -> None:
    """Measure the standard library's own source in child processes, kill one of them, and show that nothing is lost."""
    lease, concurrency = Lease(seconds(lock)), concurrency or usable_cores()
    # Not the embedded server: nobody comes back to this one, so it ends with us, however we end.
    with PrivateServer() as server, Queue(QUEUE, redis=server.url) as queue:
        jobs = packages()[:groups]
        added = queue.add_many([(job["package"], job) for job in jobs])
        told = f"{len(added)} jobs, {concurrency} at once, lock {lock}, private Redis in {server.folder}"
        click.echo(told, err=True)
        watch, stats, total_s = asyncio.run(_run(server.url, len(added), concurrency, lease))
        found = [queue.job(job.id) for job in added]
        states = [queue.state(job.id) for job in added]
    report = Report(
        added=len(added),
        completed=states.count(JobState.COMPLETED),
        stalled=watch.recovered + sum(job.stalled_count for job in found),
        restart_s=watch.restart_s,
        heartbeat=stats.get("heartbeat", {}),
        total_s=total_s,
    )
    _print_results(found, watch)
    click.echo("\n".join(summary(report)))
    ctx.exit(0 if report.is_good else 1)


async def _run(url: str, jobs: int, concurrency: int, lease: Lease) -> tuple[Watch, Mapping[str, Any], float]:
    """Serve the queue until every job has ended."""
    watch, view = Watch(jobs), LiveView("sandq demo")
    live = sys.stdout.isatty()
    processor = str(Path(sandq.demo.__file__).parent / "metrics.py")
    supervisor = Supervisor(
        {QUEUE: QueueSettings(processor=processor, concurrency=concurrency)},
        url,
        settings=SupervisorSettings(redis=url, lease=lease, name="demo"),
        listeners=[watch, view if live else _plain],
    )
    started = time.monotonic()
    async with supervisor:
        with shown(view, supervisor.stats) if live else nullcontext():
            try:
                await asyncio.wait_for(watch.done.wait(), LIMIT_S)
            except TimeoutError:
                click.echo(f"sandq: gave up after {LIMIT_S:g}s", err=True)
            return watch, supervisor.stats(), time.monotonic() - started


def _plain(fact: Fact) -> None:
    if isinstance(fact, (Started, Settled, ChildDied)):
        click.echo(describe(fact), err=True)


def _print_results(jobs: Sequence[Job], watch: Watch) -> None:
    headers = ["package", "files", "lines", "functions", "complexity mean", "max", "compressed", "seconds"]
    rows = [_row(job, watch) for job in jobs if job.returnvalue is not None]
    print_table(headers, rows, numbers=range(1, len(headers)))


def _row(job: Job, watch: Watch) -> list[object]:
    found = job.returnvalue
    lines, complexity = found["lines"], found["complexity"]
    return [
        found["package"] + (" (killed once)" if job.id == watch.victim else ""),
        found["files"],
        lines["code"] + lines["blank"] + lines["comment"],
        found["functions"],
        f"{complexity['mean']:.2f}",
        complexity["max"],
        show_size(found["packed_bytes"]),
        f"{watch.seconds.get(job.id, 0.0):.2f}",
    ]


def summary(report: Report) -> list[str]:
    """What the run proved, or did not; every figure was measured in it."""
    lag = ", ".join(f"{name} {report.heartbeat.get(f'{name}_ms') or 0:.2f}ms" for name in ("p50", "p99", "max"))
    restart = "not measured" if report.restart_s is None else f"{1000 * report.restart_s:.1f}ms"
    return [
        "",
        f"{report.completed} of {report.added} jobs completed in {report.total_s:.1f}s",
        f"stalled: {report.stalled}",
        f"heartbeat lag: {lag}",
        f"from SIGKILL of a busy child to its job running again: {restart}",
        "nothing was lost" if report.is_good else "this run kept less than it promised: see the figures above",
    ]
