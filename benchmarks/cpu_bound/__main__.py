"""`python -m benchmarks.cpu_bound stall`: measure, print, draw."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks.cpu_bound import chart as charts
from benchmarks.cpu_bound.jobs import KINDS
from benchmarks.cpu_bound.stall import SYSTEMS, Settings, run
from benchmarks.cpu_bound.table import text
from sandq.config import Lease
from sandq.errors import SandqError
from sandq.units import seconds

QUICK = Settings(lock_s=1.0, scales=(1,), systems=("sandq", "inprocess"))
CHART = Path("build/stall.png")


def _names(known: tuple[str, ...]) -> Callable[..., list[str] | None]:
    def parse(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[str] | None:
        given = list(dict.fromkeys(value.split(","))) if value else None  # each cell has a queue of its own: none twice
        if unknown := [name for name in given or () if name not in known]:
            raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return given

    return parse


def _scales(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        scales = list(dict.fromkeys(int(scale.removesuffix("x")) for scale in value.split(",")))
    except ValueError:
        scales = [0]
    if min(scales) < 1:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers from 1, such as 1,2,16")
    return scales


@click.group()
def main() -> None:
    """CPU-bound jobs on sandq and on other workers."""


@main.command()
@click.option("--quick", is_flag=True, help="Lock 1s, one child per core, sandq and the in-process worker; under 40s.")
@click.option("--lock", metavar="DURATION", help="Lock time, or what comes closest to it (default 2s).")
@click.option("--kinds", metavar="A,B", callback=_names(tuple(KINDS)), help=f"Of {', '.join(KINDS)}.")
@click.option("--scales", metavar="N,M", callback=_scales, help="Children per core (default 1,2,16).")
@click.option("--systems", metavar="A,B", callback=_names(tuple(SYSTEMS)), help=f"Of {', '.join(SYSTEMS)}.")
@click.option("--jobs", type=click.IntRange(min=1), help="Jobs in each cell (default: as many as children).")
@click.option("--longest", type=click.FloatRange(min=3), help="Longest wall time of a C call, in locks (default 4).")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON here.")
@click.option("--chart", type=click.Path(dir_okay=False, path_type=Path), help=f"Write the chart here ({CHART}).")
@click.pass_context
def stall(
    ctx: click.Context, /, *, quick: bool, json_file: Path | None, chart: Path | None, lock: str | None, **given: Any
) -> None:
    """Run the same CPU-bound jobs on every system and count what started twice; exit 1 if sandq did not keep a lock."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that workers and server end as well
    if not charts.can_draw():
        missing = "matplotlib is not installed, so no chart can be drawn; pip install 'sandq[dev]'"
        if chart is not None:
            raise click.UsageError(missing)
        click.echo(missing, err=True)
    report = run(_settings(quick, lock, given), lambda line: click.echo(line, err=True))
    click.echo(text(report))
    found = json.dumps(report.to_dict(), indent=2)
    if json_file is None:
        click.echo(f"\n{found}")
    else:
        json_file.write_text(found + "\n", encoding="utf-8")
    if charts.can_draw():
        path = chart or CHART
        path.parent.mkdir(parents=True, exist_ok=True)
        charts.draw(report, path)
        click.echo(f"chart: {path}", err=True)
    ctx.exit(0 if report.is_good else 1)


def _settings(quick: bool, lock: str | None, given: dict[str, Any]) -> Settings:
    """The defaults, or --quick's, with whatever else was asked for."""
    try:
        lock_s = None if lock is None else Lease(seconds(lock)).lock_s
    except SandqError as error:
        raise click.BadParameter(str(error), param_hint="--lock") from error
    asked = {"lock_s": lock_s, "longest_locks": given.pop("longest"), **given}
    chosen = {name: value for name, value in asked.items() if value is not None}
    return replace(QUICK if quick else Settings(), **chosen)


if __name__ == "__main__":
    main()
