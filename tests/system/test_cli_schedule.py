"""`sandq schedule` as people and scripts use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandq.queue import Queue

LIMIT_S = 30.0
Schedule = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def schedule(redis_url: str, prefix: str, tmp_path: Path) -> Schedule:
    """Run `sandq schedule ARGS` in an empty folder, on the shared server and a prefix of this test's own."""

    def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "SANDQ_REDIS_URL": redis_url, "SANDQ_PREFIX": prefix, **environ}
        command = [sys.executable, "-m", "sandq", "schedule", *args]
        return subprocess.run(
            command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=LIMIT_S, check=False
        )

    return run


def said(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command printed; it must have succeeded, and silently."""
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_a_schedule_is_added_listed_and_removed(schedule: Schedule, queue: Queue) -> None:
    pattern = ["--cron", "0 4 1 1 *", "--tz", "Europe/Berlin", "--limit", "3", "--end", "2999-12-31T00:00Z"]
    template = ["--name", "report", "--data", '{"n": 1}', "--attempts", "3", "--backoff", "exponential:1s"]
    made = said(schedule("add", "render", "nightly", *pattern, *template, "--json"))
    assert (made["cron"], made["tz"], made["limit"]) == ("0 4 1 1 *", "Europe/Berlin", 3)
    assert (made["name"], made["data"], made["opts"]["attempts"]) == ("report", {"n": 1}, 3)
    assert made["job_id"] == f"repeat:nightly:{made['next']}"
    assert queue.job(made["job_id"]).data == {"n": 1}

    assert schedule("add", "render", "often", "--every", "5m").stdout.startswith("often runs next ")
    assert said(schedule("list", "render", "--json"))[1] == made
    head, often, nightly = schedule("list", "render").stdout.splitlines()
    assert head.split() == ["ID", "NEXT", "RUN", "WHEN", "RUNS", "LIMIT", "END", "NAME"]
    assert "every 5m" in often
    assert "0 4 1 1 * Europe/Berlin" in nightly

    assert said(schedule("remove", "render", "nightly", "--json")) == {"removed": "nightly"}
    assert schedule("remove", "render", "often").stdout == "scheduler often is removed\n"
    empty = schedule("list", "render")
    assert (empty.returncode, empty.stdout, empty.stderr) == (0, "", "sandq: no scheduler in render\n")


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["add", "render", "x", "--every", "5m", "--start", "2026-12-01"], 2, "--start '2026-12-01' is no moment"),
        (["add", "render", "x", "--every", "5m", "--end", "2020-01-01T00:00Z"], 2, "it ends 2020-01-01T00:00:00+00:00"),
        (["remove", "render", "x"], 1, "`sandq schedule list render` shows them"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(schedule: Schedule, args: list[str], code: int, told: str) -> None:
    done = schedule(*args)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("sandq: ")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr


def test_a_wrong_schedule_starts_no_server(schedule: Schedule, tmp_path: Path) -> None:
    done = schedule("add", "render", "x", "--every", "soon", SANDQ_REDIS_URL="")
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "every: 'soon' is not a duration" in done.stderr
