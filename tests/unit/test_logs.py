"""Facts as log lines."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest

from sandq.cli.live import bar
from sandq.cli.logs import describe, log_to
from sandq.cli.show import align
from sandq.supervisor.facts import (
    ChildDied,
    Fact,
    LauncherDied,
    Output,
    OutputLost,
    ProcessorBroken,
    Progressed,
    Recovered,
    Settled,
    Started,
    Stopping,
    StoreTrouble,
)

AT = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
STARTED = Started(queue="render", job_id="7", name="page", attempt=1, pid=42)


def settled(**change: object) -> Settled:
    fields = {"outcome": "Completed", "to": "completed", "word": "ok", "reason": "", "wall_s": 1.5} | change
    return Settled(queue="render", job_id="7", name="page", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (STARTED, "job 7 (page) started, attempt 1, pid 42"),
        (settled(), "job 7 (page) completed after 1.50s"),
        (
            settled(outcome="TimedOut", to="failed", reason="ran over 5s"),
            "job 7 (page) timed out -> failed after 1.50s: ran over 5s",
        ),
        (
            settled(outcome="LockLost", to="", word="lost"),
            "job 7 (page) lock lost after 1.50s, not written: lost",
        ),
        (ChildDied(queue="render", pid=42, how="SIGKILL"), "child 42 ended: SIGKILL"),
        (Progressed(queue="render", job_id="7", progress_json=b"50"), "job 7 progress 50"),
        (Recovered(queue="render", job_ids=("7", "8")), "put back 2 stalled: 7, 8"),
        (
            ProcessorBroken(queue="render", why="no module x", retry_in_s=5),
            "processor broken, trying again in 5s: no module x",
        ),
        (StoreTrouble(doing="claim", why="refused"), "redis trouble while claim: refused"),
        (
            Stopping(running=1, run_on_s={"render": 15.0}, limit_s=25),
            "stopping: 1 job running; may run on for 15s, then it is stopped; all ended within 25s; "
            "Ctrl-C again to stop now",
        ),
        (
            Stopping(running=3, run_on_s={"render": 15.0, "mail": 20.5}, limit_s=25),
            "stopping: 3 jobs running; may run on for 15s (render), 20.5s (mail), then they are stopped; "
            "all ended within 25s; Ctrl-C again to stop now",
        ),
        (
            Stopping(running=2, run_on_s={"render": 0.0, "mail": 0.0}, limit_s=8),
            "stopping: 2 jobs running; they are stopped at once; all ended within 8s; Ctrl-C again to stop now",
        ),
        (Stopping(running=0, run_on_s={}, limit_s=25), "stopping: no job is running"),
        (LauncherDied(pid=9), "launcher 9 ended, starting another"),
        (Output(queue="render", job_id="7", stream="stderr", line="hm\n"), "job 7 stderr: hm"),
        (Output(queue="render", job_id="", stream="stderr", line="hm", level="INFO"), "stderr INFO: hm"),
        (OutputLost(queue="render", job_id="7", why="disk full"), "job 7 output is not kept: disk full"),
    ],
)
def test_every_fact_has_its_words(fact: Fact, expected: str) -> None:
    assert describe(fact) == expected


def test_text_of_a_job_cannot_forge_a_line_or_drive_the_terminal() -> None:
    fact = Output(queue="render", job_id="7", stream="stdout", line="a\n2026 forged\x1b[2J")
    assert describe(fact) == "job 7 stdout: a\\n2026 forged\\x1b[2J"


def test_a_text_log_has_one_line_a_fact_with_moment_and_queue() -> None:
    stream = io.StringIO()
    log_to(stream, "text", lambda: AT)(STARTED)
    assert stream.getvalue() == "2026-01-31T12:00:00.123Z render       job 7 (page) started, attempt 1, pid 42\n"


def test_a_json_log_has_the_fields_of_the_fact() -> None:
    stream = io.StringIO()
    log_to(stream, "json", lambda: AT)(Progressed(queue="render", job_id="7", progress_json=b"50"))
    expected = {
        "at": "2026-01-31T12:00:00.123Z",
        "fact": "Progressed",
        "queue": "render",
        "job_id": "7",
        "progress_json": "50",
    }
    assert json.loads(stream.getvalue()) == expected


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (None, ""),
        ("0", "╌" * 20 + " 0%"),
        ("50", "━" * 10 + "╌" * 10 + " 50%"),
        ("250", "250"),
        ('{"page":3}', '{"page":3}'),
    ],
)
def test_progress_is_a_bar_only_where_it_is_a_percentage(progress: str | None, expected: str) -> None:
    assert bar(progress) == expected


def test_columns_stand_under_each_other_and_numbers_to_the_right() -> None:
    assert align([["queue", "jobs"], ["a", "1"], ["render", "100"]], numbers=(1,)) == [
        "queue   jobs",
        "a          1",
        "render   100",
    ]
