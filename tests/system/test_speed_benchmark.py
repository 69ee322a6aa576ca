"""The speed benchmark, as small as it gets: what it keeps, what it shows, and what it makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 50.0
SMALL = ["--systems", "sandq", "--repeat", "1", "--scale", "0.01", "--quiet-s", "0"]


def benchmark(*arguments: str, folder: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *arguments],
        input=given,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.slow
def test_one_run_of_some_rows_becomes_tables_targets_and_a_page(tmp_path: Path) -> None:
    file, page = tmp_path / "run.json", tmp_path / "benchmarks.md"
    rows = "throughput,latency,backlog"
    done = benchmark(
        "all", "--rows", rows, *SMALL, "--cpu-ms", "1", "--samples", "5", "--json", str(file), folder=tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not measured" not in done.stdout
    assert done.stdout.startswith("\nthroughput: jobs/s of two handlers"), "tables only: the JSON is in its file"
    assert f"kept in {file}" in done.stdout
    run = json.loads(file.read_text())
    assert {(sample["row"], sample["subject"]) for sample in run["samples"]} == {
        *((row, "sandq") for row in rows.split(",")),
        ("throughput", "bare"),
    }
    latency = next(sample for sample in run["samples"] if sample["row"] == "latency")
    assert len(latency["values"]["ms"]) == latency["values"]["jobs"] == 5
    assert all(took > 0 for took in latency["values"]["ms"])
    backlog = next(sample for sample in run["samples"] if sample["row"] == "backlog")
    assert list(backlog["values"]["sizes"]) == ["200", "1000", "10000"]  # by the scale, and enough to claim from
    assert set(backlog["values"]["sizes"]["10000"]) == {"bytes", "claim_us", "settle_us", "add_us"}

    held = benchmark("targets", str(file), folder=tmp_path)
    assert held.returncode in (1, 2), held.stderr  # a few jobs on a busy machine show nothing about speed
    table, _, lacks = held.stdout.partition("\n\n")
    assert "T3: 5 samples, 2,000 are asked for" in lacks
    lines = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:]]
    assert {line[1] for line in lines} == {f"T{number}" for number in range(1, 11)}
    assert {line[1] for line in lines if line[6] != "not measured"} == {"T2", "T9"}  # the others compare with peers

    written = benchmark("report", str(file), "--page", str(page), "--charts", str(tmp_path / "charts"), folder=tmp_path)
    assert written.returncode == 0, written.stderr
    assert "## Targets" in page.read_text()
    assert run["machine"]["date"] in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["throughput", "--systems", "sandq,gearman"], "'gearman' is not one of sandq, bullmq-node"),
        (["backlog", "--sizes", "1000,many"], "'1000,many' is not a list of whole numbers"),
        (["backlog", "--sizes", "100,1000"], "'100,1000' is not a list of whole numbers from 200"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    done = benchmark(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_can_be_piped_into_what_reads_it(tmp_path: Path) -> None:
    done = benchmark("adding", *SMALL, "--json", "-", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {sample["row"] for sample in json.loads(done.stdout)["samples"]} == {"adding"}
    assert "| bulk, 1000 a call | jobs/s" in done.stderr
    assert not list(tmp_path.iterdir())

    read = benchmark("targets", "-", folder=tmp_path, given=done.stdout)
    assert read.returncode == 2
    assert "| T8 " in read.stdout


def test_a_peer_that_is_not_installed_is_skipped_and_its_installation_told(tmp_path: Path) -> None:
    empty = {**os.environ, "PYTHONPATH": str(ROOT), "SPEED_PEERS": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks.speed", "systems"]
    done = subprocess.run(command, capture_output=True, text=True, env=empty, timeout=LIMIT_S, check=True)
    assert "huey: not installed: python -m benchmarks.speed install huey;" in done.stdout
    assert "sandq: sandq this repository;" in done.stdout
