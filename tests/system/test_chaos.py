"""The promises under everything at once: seeded, and checked by what the jobs themselves wrote down.

SANDQ_CHAOS_SECONDS sets how long, SANDQ_CHAOS_SEED repeats a run's choices (not its timing).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos import Chaos, judge, left_behind, overlaps, runs_of

if TYPE_CHECKING:
    from conftest import RedisServer


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(40.0, marks=pytest.mark.timeout(180)),
        pytest.param(180.0, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_under_random_faults_every_job_ends_once_and_never_runs_twice_at_once(
    make_server: Callable[..., RedisServer],
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    seed = int(os.environ.get("SANDQ_CHAOS_SEED") or random.randrange(1 << 32))
    print(f"SANDQ_CHAOS_SEED={seed}")
    seconds = float(os.environ.get("SANDQ_CHAOS_SECONDS") or seconds)
    mark = tmp_path / "tmp"
    mark.mkdir()
    monkeypatch.setenv("TMPDIR", str(mark))  # by which every process of this run can be told
    server = make_server("--appendonly", "yes", "--appendfsync", "always")
    traces = tmp_path / "traces"
    traces.mkdir()
    chaos = Chaos(server, prefix, traces, seed)
    try:
        chaos.run(seconds)
        verdict = judge(chaos)
        codes = chaos.drain()
    finally:
        chaos.close()
    print(json.dumps(verdict.figures, indent=1))
    assert verdict.broken == []
    assert codes == [0] * len(codes)
    assert left_behind(chaos, str(mark)) == []


@pytest.mark.parametrize(
    ("second", "found"),
    [((2, 30, 50), ""), ((2, 15, 50), "ran twice at once"), ((1, 30, 50), ""), ((0, 30, 50), "has fence 0 after 1")],
)
def test_two_runs_that_overlap_or_share_their_fences_wrongly_are_seen_in_the_trace(
    tmp_path: Path, second: tuple[int, int, int], found: str
) -> None:
    fence, first, last = second
    trace = tmp_path / "job"
    trace.write_text(f"1 10 S\n{fence} {first} S\n1 20 E\n{fence} {last} E\n{fence} 6")
    assert found in " ".join(overlaps("job", runs_of(trace)))
    assert bool(overlaps("job", runs_of(trace))) == bool(found)
