"""The results page, from one run's JSON. Prose that interprets figures has no place here: it would outlive them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.speed.missing import missing
from benchmarks.speed.report import Report
from benchmarks.speed.table import markdown, row_tables, target_table
from benchmarks.speed.targets import Target, targets

HEAD = """# Benchmarks

What sandq costs, beside other systems on the same machine in the same run. This page is written by
`python -m benchmarks.speed report`; [the benchmark's README](../benchmarks/speed/README.md) says what each row measures
and how to run it. Absolute figures are this machine's; compare figures of one run with each other."""

TITLES = {
    "throughput": "Throughput, and what a job costs",
    "latency": "Latency",
    "crash": "A child dies",
    "recovery": "A worker dies",
    "overload": "Overload",
    "memory": "Memory",
    "adding": "Adding jobs",
    "backlog": "Backlog",
    "start": "Start",
}


def page(report: Report, path: Path, charts: Sequence[Path]) -> str:
    """The whole page; `charts` are linked from where it will stand."""
    parts = [HEAD, *_machine(report), *_targets(report)]
    for row in report.settings["rows"]:
        parts += _row(report, row, path, charts)
    return "\n\n".join(parts) + "\n"


def _machine(report: Report) -> Iterator[str]:
    machine, settings = report.machine, report.settings
    yield "## Machine and settings"
    yield (
        f"{machine['date']}: {machine['cpu']}, {machine['cores']} usable cores, {machine['memory_gib']} GiB; "
        f"{machine['kernel']}; {machine['python']}; {machine['server']}, {_server(settings['server'])}. "
        f"One millisecond of work is {machine['turns_per_ms']:,} turns of a pure-Python loop. "
        f"Load {machine['load_before']} before."
    )
    yield (
        f"Subjects of a case were measured in turn, {settings['repeat']} rounds; figures are medians (least-most). "
        f"Before {report.restless} of {len(report.samples)} cells the machine was not quiet, after waiting "
        f"{settings['quiet_s']:g} s at most."
    )
    rows = [
        (name, machine["systems"][name], settings["isolated"][name], how) for name, how in settings["systems"].items()
    ]
    yield markdown(("system", "version", "handler in a process of its own", "settings"), rows)
    if report.notes:
        yield "\n".join(["Not measured:", "", *(f"- {note}" for note in report.notes)])


def _server(text: str) -> str:
    """Without the path of this machine's binary."""
    return text.partition(" ")[2]


def _targets(report: Report) -> Iterator[str]:
    found = targets(report)
    yield "## Targets"
    yield _held(found)
    yield target_table(found)
    if lacks := missing(report, found):
        yield "\n".join(["This run is not all that the targets ask for:", "", *(f"- {lack}" for lack in lacks)])


def _held(found: Sequence[Target]) -> str:
    """How many, and where the reasons stand: a page of figures cannot give them, and should not seem to hide them."""
    musts = [each for each in found if each.must is not None and each.measured is not None]
    broken = sum(each.is_broken for each in musts)
    held = f"all {len(musts)} are held" if not broken else f"**{broken} of {len(musts)} are not held**"
    return (
        f"Of the musts that this run measured, {held}. [Where the time goes](speed.md) says why targets are missed and "
        "what was done about it; figures there may be of an earlier or a later day's code than this run's."
    )


def _row(report: Report, row: str, path: Path, charts: Sequence[Path]) -> Iterator[str]:
    yield f"## {TITLES[row]}"
    yield f"What is shown: {report.settings['rows'][row]}. `python -m benchmarks.speed {row}`"
    yield from row_tables(report, row)
    for chart in charts:
        if chart.stem.partition("-")[0] == row:
            yield f"![{TITLES[row]}]({os.path.relpath(chart, path.parent)})"
