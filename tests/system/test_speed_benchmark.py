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
SMALL = ["--systems", "sandq", "--repeat", "1", "--scale", "0.01", "--quiet-s", "0", "--samples", "500"]


def benchmark(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        timeout=LIMIT_S,
        check=False,
    )


def test_one_run_of_some_rows_becomes_tables_targets_and_a_page(tmp_path: Path) -> None:
    file, page = tmp_path / "run.json", tmp_path / "benchmarks.md"
    rows = "throughput,latency,backlog"
    done = benchmark(
        "all", "--rows", rows, *SMALL, "--cpu-ms", "1", "--sizes", "200,400", "--json", str(file), folder=tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not measured" not in done.stdout
    run = json.loads(file.read_text())
    assert {(sample["row"], sample["subject"]) for sample in run["samples"]} == {
        *((row, "sandq") for row in rows.split(",")),
        ("throughput", "bare"),
    }
    latency = next(sample for sample in run["samples"] if sample["row"] == "latency")
    assert len(latency["values"]["ms"]) == latency["values"]["jobs"] == 10
    assert all(took > 0 for took in latency["values"]["ms"])
    backlog = next(sample for sample in run["samples"] if sample["row"] == "backlog")
    assert set(backlog["values"]["sizes"]["400"]) == {"bytes", "claim_us", "settle_us", "add_us"}

    held = benchmark("targets", str(file), folder=tmp_path)
    assert held.returncode in (0, 1), held.stderr  # ten jobs on a busy machine show nothing about speed
    lines = [[cell.strip() for cell in line.split("|")] for line in held.stdout.splitlines()[2:]]
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
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    done = benchmark(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_peer_that_is_not_installed_is_skipped_and_its_installation_told(tmp_path: Path) -> None:
    empty = {**os.environ, "PYTHONPATH": str(ROOT), "SPEED_PEERS": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks.speed", "systems"]
    done = subprocess.run(command, capture_output=True, text=True, env=empty, timeout=LIMIT_S, check=True)
    assert "huey: not installed: python -m benchmarks.speed install huey;" in done.stdout
    assert "sandq: sandq this repository;" in done.stdout
