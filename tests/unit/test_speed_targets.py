"""What the speed benchmark makes of a run: what it holds against the targets, and what it says of all else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.cpu_bound.jobs import KINDS
from benchmarks.speed.__main__ import main
from benchmarks.speed.bench import Options
from benchmarks.speed.page import HEAD, page
from benchmarks.speed.report import Report, Sample
from benchmarks.speed.rows.adding import MODES
from benchmarks.speed.rows.memory import MORE
from benchmarks.speed.rows.start import BASE
from benchmarks.speed.run import ROWS

ROOT = Path(__file__).parents[2]
NODE, SANDBOXED = "bullmq-node", "bullmq-node-sandboxed"


def sample(row: str, case: str, subject: str, **values: Any) -> Sample:
    return Sample(row=row, case=case, subject=subject, round=0, values=values, busy=0.0)


def good() -> Report:
    """A whole run in which every aim is reached."""
    claims = {str(size): {"bytes": 200.0, "claim_us": 50.0} for size in Options().sizes}
    bytes_only = {size: {"bytes": 220.0} for size in claims}
    overload = {"jobs": 32, "starts": 32, "locks_lost": 0, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0}
    samples = [
        sample("throughput", "no-op", "sandq", jobs_s=9000.0, jobs=20_000),
        *(sample("throughput", "no-op", peer, jobs_s=1000.0) for peer in (SANDBOXED, "celery", "dramatiq", NODE)),
        *(sample("throughput", case, name, jobs_s=100.0) for case in ("1 ms", "10 ms") for name in ("sandq", "bare")),
        sample("latency", "idle worker", "sandq", ms=[0.5] * 2000),
        *(sample("latency", "idle worker", peer, ms=[1.0] * 2000) for peer in (SANDBOXED, "huey")),
        *(sample("crash", "child killed", name, ms=[2.0], never=0) for name in ("sandq", SANDBOXED)),
        sample("recovery", "default lock", "sandq", s=15.0),
        sample("recovery", "lock 2 s", "sandq", s=2.1),
        *(sample("overload", case, "sandq", **overload) for case in KINDS.values()),
        sample("memory", "two handlers", "sandq", pss=40.0, private=30.0, rss=60.0),
        sample("memory", f"{MORE} handlers", "sandq", pss=60.0, private=50.0, rss=90.0),
        *(sample("adding", case, name, jobs_s=rate) for case in MODES.values() for name, rate in
          (("sandq", 2000.0), (NODE, 1000.0))),
        sample("backlog", "waiting jobs", "sandq", sizes=claims),
        sample("backlog", "waiting jobs", NODE, sizes=bytes_only),
        sample("start", "first job", "sandq supervise", ms=300.0),
        sample("start", "whole command", "sandq add", ms=100.0),
        sample("start", "whole command", BASE, ms=100.0),
    ]  # fmt: skip
    machine: Mapping[str, Any] = {
        **dict.fromkeys(("date", "cpu", "cores", "memory_gib", "kernel", "python", "server", "load_before"), "some"),
        "systems": {},
        "turns_per_ms": 50_000,
    }
    settings = {"rows": {name: row.about for name, row in ROWS.items()}, "systems": {}, "isolated": {}}
    settings |= {"server": "redis-server on a unix socket", "repeat": 5, "quiet_s": 20.0, "scale": 1.0}
    return Report(machine=machine, settings=settings, skipped={}, samples=tuple(samples))


def without(row: str) -> Report:
    report = good()
    return replace(report, samples=tuple(each for each in report.samples if each.row != row))


def changed(row: str, case: str, subject: str, **values: Any) -> Report:
    """The good run with one sample in the place of another."""
    new, report = sample(row, case, subject, **values), good()
    where = [(each.row, each.case, each.subject) for each in report.samples].index((row, case, subject))
    return replace(report, samples=(*report.samples[:where], new, *report.samples[where + 1 :]))


def scaled_down() -> Report:
    report = good()
    return replace(report, settings={**report.settings, "scale": 0.05})


def fewer_samples() -> Report:
    return changed("latency", "idle worker", "sandq", ms=[0.5] * 600)


def smaller_backlog() -> Report:
    sizes = {size: {"bytes": 200.0, "claim_us": 50.0} for size in ("1000", "100000")}
    return changed("backlog", "waiting jobs", "sandq", sizes=sizes)


def slower() -> Report:
    return changed("throughput", "no-op", "sandq", jobs_s=1200.0, jobs=20_000)


def without_a_peer() -> Report:
    report = good()
    kept = tuple(each for each in report.samples if each.subject != "celery")
    return replace(report, samples=kept, skipped={"celery": "install celery", "arq": "install arq"})


def held(report: Report, folder: Path) -> Result:
    file = folder / "run.json"
    file.write_text(json.dumps(report.to_dict()))
    return CliRunner().invoke(main, ["targets", str(file)])


def test_a_whole_run_in_which_every_must_holds_is_the_only_one_that_exits_0(tmp_path: Path) -> None:
    done = held(good(), tmp_path)
    assert done.exit_code == 0, done.output
    assert "\n\n" not in done.output, "nothing is lacking, so there is only the table"
    assert "not measured" not in done.output


@pytest.mark.parametrize("row", ROWS)
def test_a_run_without_a_row_exits_2_and_names_the_command_that_measures_it(row: str, tmp_path: Path) -> None:
    done = held(without(row), tmp_path)
    assert done.exit_code == 2, done.output
    assert f"; `python -m benchmarks.speed {row}` measures them" in done.output


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (scaled_down, "`--scale 0.05`: fewer jobs than the targets ask for"),
        (fewer_samples, "T3: 600 samples, 2,000 are asked for"),
        (smaller_backlog, "T9: 1,000 to 100,000 waiting jobs, 1,000 to 1,000,000 are asked for"),
        (without_a_peer, "celery was not installed: `install celery`\n"),
    ],
)
def test_a_run_on_less_than_is_asked_for_exits_2_and_says_so(
    report: Callable[[], Report], said: str, tmp_path: Path
) -> None:
    done = held(report(), tmp_path)
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert "arq" not in done.output, "no target compares with it"


def test_a_broken_must_exits_1(tmp_path: Path) -> None:
    done = held(slower(), tmp_path)
    assert done.exit_code == 1, done.output
    assert done.output.count("NOT held") == 2


def test_what_is_given_counts_as_it_stands_and_the_scale_shrinks_the_rest() -> None:
    assert (Options.asked().samples, Options.asked().sizes) == (2000, (1_000, 10_000, 100_000, 1_000_000))
    small = Options.asked(scale=0.05)
    assert (small.samples, small.sizes) == (100, (200, 500, 5_000, 50_000))
    assert Options.asked(scale=0.001).sizes == (200, 1_000), "a round claims a hundred jobs that wait"
    given = Options.asked(scale=0.05, samples=7, sizes=(400,))
    assert (given.samples, given.sizes, given.scaled(1_000)) == (7, (400,), 50)


def test_the_page_says_how_many_musts_are_not_held_and_where_the_reasons_stand() -> None:
    path = ROOT / "docs" / "benchmarks.md"
    broken, whole = page(slower(), path, []), page(good(), path, [])
    assert "**2 of 24 are not held**. [Where the time goes](speed.md) says why" in broken
    assert "all 24 are held. [Where the time goes](speed.md)" in whole
    assert "This run is not all" not in whole
    assert "- T3: 600 samples, 2,000 are asked for" in page(fewer_samples(), path, [])


def test_the_page_in_the_docs_is_as_this_program_writes_it() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text.startswith(HEAD)
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| T")]
    verdicts = [row[6] for row in rows if row[4] != "-" and row[6] != "not measured"]
    broken = verdicts.count("NOT held")
    held = f"**{broken} of {len(verdicts)} are not held**" if broken else f"all {len(verdicts)} are held"
    assert f"Of the musts that this run measured, {held}. [Where the time goes](speed.md) says why" in text
