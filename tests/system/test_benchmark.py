"""The stall benchmark, as small as it gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 50.0
PNG = b"\x89PNG"


@pytest.mark.slow
def test_the_stall_benchmark_reports_each_sandq_job_started_once_and_no_lock_lost(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = ["--json", str(tmp_path / "stall.json"), "--chart", str(tmp_path / "stall.png")]
    asked = ["--lock", "1s", "--kinds", "loop", "--scales", "1", "--systems", "sandq"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cpu_bound", "stall", *asked, *files],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "stall.json").read_text())
    (cell,) = report["cells"]
    assert (cell["system"], cell["kind"], cell["scale"]) == ("sandq", "loop", 1)
    assert cell["starts"] == cell["completed"] == cell["jobs"] == report["machine"]["cores"]
    assert (cell["locks_lost"], cell["stalls"], cell["overlaps"], cell["failed"]) == (0, 0, 0, 0)
    assert set(cell["lag"]) == {"p50_ms", "p99_ms", "max_ms", "samples"}
    assert cell["wall_s"] >= 3 * report["settings"]["lock_s"]
    assert "| loop 3s |" in done.stdout
    assert (tmp_path / "stall.png").read_bytes().startswith(PNG)


def test_a_system_that_is_unknown_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cpu_bound", "stall", "--systems", "sandq,celery"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "'celery' is not one of sandq, inprocess, bullmq, rq" in done.stderr
    assert not list(tmp_path.iterdir())
