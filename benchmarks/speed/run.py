"""One run: rows, one after the other; in each, cases; in each case all subjects in turn, round after round."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from benchmarks.machine import describe
from benchmarks.server import private_server
from benchmarks.speed.bench import Bench, CellError, Options
from benchmarks.speed.quiet import await_quiet
from benchmarks.speed.report import Report, Sample
from benchmarks.speed.roster import SYSTEMS
from benchmarks.speed.rows.adding import Adding
from benchmarks.speed.rows.backlog import Backlog
from benchmarks.speed.rows.crash import Crash
from benchmarks.speed.rows.latency import Latency
from benchmarks.speed.rows.memory import Memory
from benchmarks.speed.rows.overload import Overload
from benchmarks.speed.rows.recovery import Recovery
from benchmarks.speed.rows.row import Case, Measure, Row
from benchmarks.speed.rows.start import Start
from benchmarks.speed.rows.throughput import Throughput
from benchmarks.speed.system import System
from benchmarks.speed.work import turns_per_ms
from sandq.config import usable_cores
from sandq.embedded import find_server

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Throughput(),
        Latency(),
        Crash(),
        Recovery(),
        Overload(),
        Memory(),
        Adding(),
        Backlog(),
        Start(),
    )
}

Say = Callable[[str], None]


def run(rows: Sequence[str], systems: Sequence[str] | None, options: Options, server: Path | None, say: Say) -> Report:
    """Measure rows on a private server that is gone afterwards; `say` gets one line per cell."""
    wanted = list(dict.fromkeys(name for row in rows for name in systems or ROWS[row].systems))
    versions = {name: SYSTEMS[name].version() for name in wanted}
    server = server or _redis_server()
    folder = Path(tempfile.mkdtemp(prefix="sandq-speed-", dir="/tmp"))  # a short path: it holds a unix socket
    try:
        with private_server(folder, binary=server) as url, Redis.from_url(url) as client:
            bench = Bench(url=url, client=client, folder=folder, options=options, turns_per_ms=turns_per_ms())
            machine = {**describe(url, usable_cores(), versions), "turns_per_ms": bench.turns_per_ms}
            skipped = {name: SYSTEMS[name].how_to_install for name, version in versions.items() if version is None}
            for name, how in skipped.items():
                say(f"{name} is skipped, it is not installed: {how}")
            samples: list[Sample] = []
            for row in rows:
                chosen = [SYSTEMS[name] for name in systems or ROWS[row].systems if name not in skipped]
                samples += _row(ROWS[row], bench, chosen, say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Report(
        machine=machine, settings=_settings(rows, wanted, options, server), skipped=skipped, samples=tuple(samples)
    )


def _redis_server() -> Path:
    """Redis itself where it is installed: peers are made for it; else what sandq would find."""
    found = shutil.which("redis-server")
    return Path(found) if found else find_server()


def _settings(rows: Sequence[str], systems: Sequence[str], options: Options, server: Path) -> dict[str, Any]:
    return {
        "rows": {name: ROWS[name].about for name in rows},
        "systems": {name: SYSTEMS[name].settings for name in systems},
        "isolated": {name: SYSTEMS[name].isolated for name in systems},
        "server": f"{server} on a unix socket, without persistence, its data flushed before each cell",
        **asdict(options),
    }


def _row(row: Row, bench: Bench, systems: Sequence[System], say: Say) -> Iterator[Sample]:
    for case in row.cases(bench, systems):
        for number in range(case.rounds or bench.options.repeat):
            for subject, measure in case.subjects.items():
                sample = _cell(row, case, subject, measure, bench, number)
                say(f"{row.name}, {case.name}, {subject}, round {number + 1}: {sample.line}")
                yield sample


def _cell(row: Row, case: Case, subject: str, measure: Measure, bench: Bench, number: int) -> Sample:
    """One cell on an empty server; one that fails says why, and the run goes on."""
    bench.fresh()
    quiet = await_quiet(bench.options.quiet_s)
    about: dict[str, Any] = {"row": row.name, "case": case.name, "subject": subject, "round": number}
    try:
        return Sample(**about, values=measure(bench), busy=quiet.busy)
    except (CellError, RedisError, subprocess.SubprocessError, RuntimeError) as error:
        return Sample(**about, values={}, busy=quiet.busy, note=str(error))
