"""Sentences that the command line makes of values."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from sandq.cli.demo import Report, summary
from sandq.cli.inspect import condition
from sandq.cli.live import LiveView
from sandq.cli.run import PROGRESS_EVERY_S, Voice, describe
from sandq.cli.supervise import hasty, retention
from sandq.config import Keep, QueueSettings
from sandq.outcome import (
    Cause,
    Completed,
    Crashed,
    Death,
    InitFailed,
    Outcome,
    Postponed,
    Raised,
    TooLarge,
    UnknownName,
)

GOOD = {"added": 5, "completed": 5, "stalled": 0, "restart_s": 0.0125, "total_s": 3.0}
HEARTBEAT = {"p50_ms": 0.1, "p99_ms": 2.0, "max_ms": 3.0}


def console_text(drawn: RenderableType) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(drawn)
    return console.export_text()


@pytest.mark.parametrize(
    ("keep", "is_foreign", "expected"),
    [
        ({}, False, "keeps completed jobs 24h (at most 1000) and failed ones 7d"),
        ({}, True, "keeps all finished jobs (BullMQ made this queue)"),
        ({"keep_completed": Keep(count=5)}, False, "keeps completed jobs: at most 5, failed ones: 7d"),
        ({"keep_completed": Keep(count=5)}, True, "keeps completed jobs: at most 5, failed ones: all"),
        ({"keep_failed": Keep(age_s=3600.0)}, False, "keeps completed jobs: 24h, at most 1000, failed ones: 1h"),
        ({"keep_failed": Keep()}, True, "keeps completed jobs: all, failed ones: all"),
    ],
)
def test_the_rule_for_finished_jobs_is_said_as_it_will_be_applied(
    keep: dict[str, Keep], is_foreign: bool, expected: str
) -> None:
    assert retention(QueueSettings(**keep), is_foreign=is_foreign) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("states", "paused", "expected"),
    [
        (["serving"], False, "ok"),
        (["serving", "stopping"], False, "ok"),
        (["stopping", "stopping"], False, "stopping"),
        (["stopping"], True, "paused, stopping"),
        ([], False, "no supervisor"),
        ([], True, "paused, no supervisor"),
    ],
)
def test_a_queue_is_as_well_served_as_the_best_of_its_supervisors(
    states: list[str], paused: bool, expected: str
) -> None:
    supervisors = [{"id": str(n), "state": state} for n, state in enumerate(states)]
    assert condition({"paused": paused, "supervisors": supervisors}) == expected


def test_the_live_view_says_that_a_supervisor_is_stopping() -> None:
    view = LiveView("sandq")
    titles = [console_text(view.draw({"uptime_s": 5.0, "state": state})) for state in ("serving", "stopping")]
    assert ["up 5s, stopping" in title for title in titles] == [False, True]


@pytest.mark.parametrize(("drain_timeout_s", "told"), [(10.5, False), (10.0, True), (8.0, True)])
def test_a_drain_that_leaves_jobs_no_time_is_told_of_at_the_start(drain_timeout_s: float, told: bool) -> None:
    warning = hasty(QueueSettings(), drain_timeout_s)
    assert bool(warning) is told
    assert ("make it more than 10s" in warning) is told


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Raised("ValueError: no", "Traceback ..."), "The handler raised ValueError: no."),
        (
            Raised("the handler's result, of type set, is not JSON: ...", ""),
            "The handler's result, of type set, is not",
        ),
        (Crashed(Death(cause=Cause.EXIT, exit_code=3)), "exit code 3"),
        (InitFailed("no module x"), "no module x"),
        (UnknownName(("page", "mail")), "it has page, mail"),
        (TooLarge("result", 20, 10), "Its result has 20 bytes; at most 10 are allowed."),
        (Postponed("delay", 5.0), "no queue to wait in"),
    ],
)
def test_every_outcome_of_a_job_run_by_hand_has_its_sentence(outcome: Outcome, told: str) -> None:
    assert not isinstance(outcome, Completed)
    assert told in describe(outcome)[0]


@pytest.mark.parametrize(
    ("change", "is_good"),
    [({}, True), ({"completed": 4}, False), ({"stalled": 1}, False), ({"restart_s": None}, False)],
)
def test_a_demo_is_good_only_if_nothing_was_lost_stalled_or_left_dead(
    change: dict[str, float | None], is_good: bool
) -> None:
    report = Report(**(GOOD | change), heartbeat=HEARTBEAT)  # type: ignore[arg-type]
    assert report.is_good is is_good
    assert (summary(report)[-1] == "nothing was lost") is is_good


def test_a_demo_tells_what_it_measured() -> None:
    told = "\n".join(summary(Report(**GOOD, heartbeat=HEARTBEAT)))  # type: ignore[arg-type]
    assert "5 of 5 jobs completed in 3.0s" in told
    assert "p50 0.10ms, p99 2.00ms, max 3.00ms" in told
    assert "running again: 12.5ms" in told


def test_progress_of_a_job_run_by_hand_is_a_line_a_second_and_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    voice = Voice(clock=lambda: now)
    for percent in ("0", "1", "2"):
        voice.hear("progress", percent)
    voice.hear("stdout", "half way")
    now += PROGRESS_EVERY_S
    voice.hear("progress", "50")
    voice.hear("progress", "51")
    voice.end()
    assert capsys.readouterr().err.splitlines() == ["progress: 0", "half way", "progress: 50", "progress: 51"]
