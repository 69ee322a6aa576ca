"""The promises under everything at once: seeded, and checked by what the jobs themselves wrote down.

SANDQ_CHAOS_SECONDS sets how long, SANDQ_CHAOS_SEED repeats a run's choices (not its timing).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos import BRIEF, Chaos, Mix, Work
from test_promises import NO_TIMER
from verdicts import Verdict, charges, judge, left_behind, missing_lines, overlaps, runs_of, strangers

from sandq.job import Job
from sandq.supervisor.facts import Fact, Settled, Started

if TYPE_CHECKING:
    from conftest import RedisServer


@dataclass(frozen=True)
class Found:
    """What a run left: what the traces and Redis say, how the supervisors ended, and what is still there."""

    verdict: Verdict
    codes: list[int]
    left: list[str]


Disturb = Callable[[float, Mix], Found]


@pytest.fixture
def disturb(
    make_server: Callable[..., RedisServer], prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Disturb:
    """Let everything fail for so many seconds, and wait until every job has ended."""
    seed = int(os.environ.get("SANDQ_CHAOS_SEED") or random.randrange(1 << 32))
    mark, traces = tmp_path / "tmp", tmp_path / "traces"
    for folder in (mark, traces):
        folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(mark))  # by which every process of this run can be told

    def run(seconds: float, mix: Mix) -> Found:
        print(f"SANDQ_CHAOS_SEED={seed}")
        server = make_server("--appendonly", "yes", "--appendfsync", "always")
        chaos = Chaos(server, prefix, traces, seed, mix)
        try:
            chaos.run(seconds)
            verdict = judge(chaos)
            codes = chaos.drain()
        finally:
            chaos.close()
        print(json.dumps(verdict.figures, indent=1))
        return Found(verdict, codes, left_behind(chaos, str(mark)))

    return run


def length(seconds: float) -> float:
    """Of a run, unless somebody wants another."""
    return float(os.environ.get("SANDQ_CHAOS_SECONDS") or seconds)


def assert_all_held(found: Found) -> None:
    assert found.verdict.broken == []
    assert found.codes == [0] * len(found.codes)
    assert found.left == []


@pytest.mark.parametrize(
    "seconds",
    [
        # A minute in all: so long everything fails, then whatever is left has to end.
        pytest.param(42.0, id="60 seconds", marks=pytest.mark.timeout(180)),
        pytest.param(600.0, id="10 minutes", marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_under_random_faults_every_job_ends_once_and_never_runs_twice_at_once(disturb: Disturb, seconds: float) -> None:
    assert_all_held(disturb(length(seconds), Mix()))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_same_holds_where_short_jobs_begin_by_themselves_in_children_that_were_busy(disturb: Disturb) -> None:
    found = disturb(length(120.0), Mix(work=BRIEF, keep_output="always", cancel_every_s=0.02))
    assert_all_held(found)
    mailboxes = found.verdict.figures["mailboxes"]
    assert mailboxes["Begun"] > found.verdict.figures["runs"] / 10
    assert mailboxes["Returned"] > mailboxes["Begun"] / 100


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("fence", ["whole", "without the kernel timer"])
def test_freezing_finds_two_runs_at_once_only_where_the_fence_is_weakened(
    disturb: Disturb, tmp_path: Path, fence: str
) -> None:
    if fence != "whole":
        (tmp_path / "sitecustomize.py").write_text(NO_TIMER)
    freezing = Mix(
        {"freeze_supervisor": 1},
        work=Work(long_s=(5.0, 8.0), long_share=0.15),
        freeze_locks=(1.8, 2.5),
        freeze_launcher=0.8,
        concurrency=4,  # there is room for what is recovered
        python_path=(tmp_path,),
    )
    twice = [said for said in disturb(25.0, freezing).verdict.broken if "ran twice at once" in said]
    print("\n".join(twice))
    assert bool(twice) == (fence != "whole")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutation", ["tells of mailboxes", "recalls what has begun"])
def test_two_runs_of_a_job_are_found_where_it_is_taken_back_from_a_child_that_has_begun_it(
    disturb: Disturb, mutation: str
) -> None:
    work = replace(BRIEF, kinds={"ends": 1}, short_s=(0.0, 0.004), bunch=150, backlog=450)
    mix = Mix({"freeze_supervisor": 1}, {}, work, freeze_locks=(0.02, 0.05), freeze_launcher=0.0, mutation=mutation)
    twice = [said for said in disturb(10.0, mix).verdict.broken if said.startswith("I2")]
    print("\n".join(twice))
    assert bool(twice) == (mutation == "recalls what has begun")


@pytest.mark.parametrize(
    ("second", "found"),
    [
        ((2, 30, 50), ""),
        ((2, 15, 50), "ran twice at once"),
        ((1, 30, 50), "has fence 1 after 1"),
        ((0, 30, 50), "has fence 0 after 1"),
    ],
)
def test_two_runs_that_overlap_or_share_their_fences_wrongly_are_seen_in_the_trace(
    tmp_path: Path, second: tuple[int, int, int], found: str
) -> None:
    fence, first, last = second
    trace = tmp_path / "job"
    trace.write_text(f"1 10 S 7\n{fence} {first} S 8\n1 20 E 7\n{fence} {last} E 8\n{fence} 6")
    assert found in " ".join(overlaps("job", runs_of(trace)))
    assert bool(overlaps("job", runs_of(trace))) == bool(found)


def begun(job_id: str, pid: int) -> Started:
    return Started(queue="render", job_id=job_id, name="", attempt=1, pid=pid)


def settled(job_id: str, outcome: str, pid: int | None, word: str = "ok") -> Settled:
    told = {"queue": "render", "name": "", "to": "", "reason": "", "wall_s": 0.0}
    return Settled(job_id=job_id, outcome=outcome, pid=pid, word=word, **told)  # type: ignore[arg-type]


# The second start of a job that went back and came again at once, told before its first end.
AGAIN = [begun("crashes", 2), begun("crashes", 3), settled("crashes", "Crashed", 2), settled("crashes", "Completed", 3)]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([begun("plain", 1), settled("plain", "Crashed", 1)], ""),  # chaos killed child 1
        ([begun("crashes", 2), settled("crashes", "Crashed", 2)], ""),
        ([begun("plain", 2), settled("plain", "Crashed", 2)], "C2: job plain"),
        ([begun("plain", 2), settled("plain", "Crashed", 2, "lost")], ""),
        ([settled("plain", "Interrupted", None)], "C1: job plain"),
        ([begun("plain", 1), settled("plain", "Interrupted", 2)], "C1: job plain"),
        ([begun("plain", 1), settled("plain", "Crashed", 1), begun("other", 1), settled("other", "Crashed", 1)], "C3"),
        ([begun("plain", 1), settled("plain", "Completed", 1), begun("other", 1), settled("other", "Crashed", 1)], ""),
        ([*AGAIN, begun("other", 3), settled("other", "Interrupted", 3)], ""),
    ],
)
def test_what_a_job_is_charged_without_a_cause_or_beside_another_is_seen(said: list[Fact], found: str) -> None:
    wrong = charges(said, killed={1}, kinds={"plain": "ends", "other": "ends", "crashes": "crashes"})
    assert len(wrong) == bool(found)
    assert found in "".join(wrong)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["[stdout] 7 5 0", "[stderr] 7 5 1", "[stdout] 7 5 2", "[stderr] 7 5 3"], ""),
        (["[stderr] 7 5 1", "[stdout] 7 5 0", "[stderr] 7 5 3", "[stdout] 7 5 2"], ""),
        (["[stdout] 7 5 0", "[stderr] 7 5 1", "[stdout] 7 5 2"], "O2"),
        (["[stdout] 7 5 2", "[stderr] 7 5 1", "[stdout] 7 5 0", "[stderr] 7 5 3"], "O2"),
        (["[stdout] 7 5 0", "[stderr] 7 5 1", "[stdout] 7 5 2", "[stderr] 7 5 3", "[stdout] 71 4 0"], "O1"),
    ],
)
def test_lines_that_are_missing_or_a_strangers_are_seen(lines: list[str], found: str) -> None:
    job = Job(queue="render", id="7", name="prints", returnvalue_json=b'{"fence":5}')
    assert "".join(line[:2] for line in strangers("7", lines) + missing_lines(job, "prints", lines)) == found
