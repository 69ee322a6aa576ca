"""`python -m benchmarks.speed ROW`: measure, print tables, keep JSON; `targets` and `report` read what was kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.speed import chart as charts
from benchmarks.speed.bench import LEAST_WAITING, Options
from benchmarks.speed.missing import is_complete, missing
from benchmarks.speed.page import page
from benchmarks.speed.report import Report
from benchmarks.speed.roster import SYSTEMS
from benchmarks.speed.run import ROWS, run
from benchmarks.speed.system import REQUIREMENTS, ROOT, install
from benchmarks.speed.table import row_tables, target_table
from benchmarks.speed.targets import targets as all_targets
from sandq.config import Lease
from sandq.errors import SandqError
from sandq.units import seconds

FILE = Path("build/speed.json")
PAGE = ROOT / "docs" / "benchmarks.md"
CHARTS = ROOT / "benchmarks" / "speed" / "charts"
ALL = "all"
DEFAULT = "default"

Names = list[str] | None

STANDARD = Path("-")  # output for --json, input for `targets` and `report`

# exit codes of `targets`, beside 0: every must was measured as asked for, and holds
BROKEN, INCOMPLETE = 1, 2

read_file = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path), default=FILE
)  # fmt: skip


def _names(known: list[str]) -> Callable[..., list[str] | None]:
    def parse(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[str] | None:
        if value is None:
            return None
        given = known if value == ALL else list(dict.fromkeys(value.split(",")))
        if unknown := [name for name in given if name not in known]:
            raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return given

    return parse


def _numbers(least: int, example: str) -> Callable[..., tuple[int, ...] | None]:
    def parse(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
        if value is None:
            return None
        try:
            numbers = tuple(int(number) for number in value.split(","))
        except ValueError:
            numbers = (0,)
        if min(numbers) < least:
            raise click.BadParameter(f"{value!r} is not a list of whole numbers from {least}, such as {example}")
        return numbers

    return parse


def _locks(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[float | None, ...]:
    try:
        return tuple(None if lock == DEFAULT else Lease(seconds(lock)).lock_s for lock in value.split(","))
    except SandqError as error:
        raise click.BadParameter(str(error)) from error


@click.group()
def main() -> None:
    """How fast sandq and its peers are, and what a job costs them."""


def _measuring(command: Callable[..., None]) -> Callable[..., None]:
    """The options of everything that measures."""
    file = click.Path(dir_okay=False, allow_dash=True, path_type=Path)
    whole = Options()
    sizes = ",".join(map(str, whole.sizes))
    options = (
        click.option("--systems", metavar="A,B", callback=_names(list(SYSTEMS)), help="Or `all` (default: targets')."),
        click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds."),
        click.option(
            "--scale", type=click.FloatRange(min=0.001), default=1.0, help="Of all numbers of jobs that are not given."
        ),
        click.option("--samples", type=click.IntRange(min=1), help=f"Of latency (default: {whole.samples} x scale)."),
        click.option("--cpu-ms", default="1,10", callback=_numbers(1, "1,10"), help="Of jobs that compute."),
        click.option("--locks", default=f"2s,{DEFAULT}", callback=_locks, help="Of recovery's workers."),
        click.option(
            "--sizes", callback=_numbers(LEAST_WAITING, sizes), help=f"Of the backlog (default: {sizes}, x scale)."
        ),
        click.option("--quiet-s", type=float, default=20.0, help="Wait so long for a quiet machine before each cell."),
        click.option("--server", type=click.Path(exists=True, path_type=Path), help="Server (default: redis-server)."),
        click.option(
            "--json",
            "file",
            type=file,
            default=FILE,
            show_default=True,
            help="Keep all here; - prints it, and the tables go to standard error.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _measure(rows: list[str], systems: Names, server: Path | None, file: Path, given: dict[str, Any]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that workers and server end as well
    report = run(rows, systems, Options.asked(**given), server, lambda line: click.echo(line, err=True))
    file.parent.mkdir(parents=True, exist_ok=True)
    with click.open_file(str(file), "w", encoding="utf-8") as kept:
        kept.write(json.dumps(report.to_dict()) + "\n")
    _show(report, rows, file)
    if not report.samples or all(sample.note for sample in report.samples):
        raise SystemExit(1)


def _show(report: Report, rows: list[str], file: Path) -> None:
    """The tables; on standard error where the JSON takes standard output."""
    say = partial(click.echo, err=file == STANDARD)
    for row in rows:
        say(f"\n{row}: {ROWS[row].about}\n")
        say("\n\n".join(row_tables(report, row)))
    say(f"\n{len(report.samples)} cells, the machine was not quiet before {report.restless}", nl=False)
    say("" if file == STANDARD else f"; kept in {file}")
    for note in report.notes:
        say(f"not measured: {note}")


def _row_command(name: str) -> click.Command:
    @_measuring
    def command(*, systems: Names, server: Path | None, file: Path, **given: Any) -> None:
        _measure([name], systems, server, file, given)

    return click.command(name, help=f"{ROWS[name].about}.")(command)


for _name in ROWS:
    main.add_command(_row_command(_name))


@main.command("all")
@click.option("--rows", metavar="A,B", callback=_names(list(ROWS)), help="Only these.")
@_measuring
def all_rows(*, rows: Names, systems: Names, server: Path | None, file: Path, **given: Any) -> None:
    """All rows in one run: what `targets` and `report` need."""
    _measure(rows or list(ROWS), systems, server, file, given)


@main.command()
@read_file
@click.pass_context
def targets(ctx: click.Context, file: Path) -> None:
    """Hold one run against the targets; exit 1 if a must is broken, 2 if the run lacks something to say so."""
    run = _read(file)
    found = all_targets(run)
    click.echo(target_table(found))
    if lacks := missing(run, found):
        click.echo("\n" + "\n".join(lacks))
    if any(target.is_broken for target in found):
        ctx.exit(BROKEN)
    ctx.exit(0 if is_complete(run, found) else INCOMPLETE)


@main.command()
@read_file
@click.option("--page", "path", type=click.Path(dir_okay=False, path_type=Path), default=PAGE, help="Write it here.")
@click.option("--charts", "folder", type=click.Path(file_okay=False, path_type=Path), default=CHARTS, help="PNGs.")
def report(file: Path, path: Path, folder: Path) -> None:
    """Write the results page and its charts from one run."""
    found = _read(file)
    drawn = charts.draw(found, folder) if charts.can_draw() else []
    if not drawn:
        click.echo("matplotlib is not installed, so no chart is drawn; pip install 'sandq[dev]'", err=True)
    path.write_text(page(found, path, drawn), encoding="utf-8")
    click.echo(f"{path}, and {len(drawn)} charts in {folder}")


@main.command()
def systems() -> None:
    """Say what can be compared here, and how to install what is missing."""
    for system in SYSTEMS.values():
        version = system.version()
        said = f"{system.package or 'sandq'} {version}" if version else f"not installed: {system.how_to_install}"
        click.echo(f"{system.name}: {said}; {system.settings}")


@main.command("install")
@click.argument("peers", nargs=-1, metavar="[PEER]...")
def install_peers(peers: tuple[str, ...]) -> None:
    """Give Python peers a virtual environment each under build/peers (or $SPEED_PEERS); all of them unless named."""
    known = sorted(file.stem for file in REQUIREMENTS.glob("*.txt"))
    for peer in peers or known:
        if peer not in known:
            raise click.BadParameter(f"{peer!r} is not one of {', '.join(known)}")
        click.echo(f"{peer} ...")
        try:
            install(peer)
        except subprocess.CalledProcessError as error:
            raise click.ClickException(f"{peer} was not installed: {error}") from error


def _read(file: Path) -> Report:
    with click.open_file(str(file), encoding="utf-8") as kept:
        return Report.from_dict(json.loads(kept.read()))


if __name__ == "__main__":
    main()
