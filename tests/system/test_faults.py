"""What handlers are given, and what becomes of their jobs. One supervisor lives through all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, a_bench, death, result
from harness import handlers, serving

from sandq.job import JobState
from sandq.queue import Queue
from sandq.supervisor.facts import ChildReady, Output, Progressed, Settled, Started


@pytest.fixture(scope="module")
def bench(redis_url: str) -> Iterator[Bench]:
    plans = {"once": handlers(concurrency=1, max_crashes=0, add_to=("twice",)), "twice": handlers(concurrency=1)}
    with a_bench(redis_url, f"faults{os.getpid()}", plans, cancel_every_s=0.1) as made:
        yield made


# -- crashed -----------------------------------------------------------------------------------------------------------


def test_the_certificate_of_a_crash_holds_the_last_words_and_what_the_child_used(bench: Bench) -> None:
    certificate = death(bench.end("exits", 3)[0])
    assert certificate["stderr"] == "last words"
    assert certificate["exit_code"] == 3
    assert certificate["peak_rss"] > 1 << 20
    assert certificate["child_cpu_s"] > 0
    assert certificate["child_jobs"] >= 1
    assert "cpu_s" not in certificate  # of this attempt alone nobody measures it


# -- failed in order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("raises", {"what": "value"}, "ValueError: no such page"),
        ("raises", {"what": "rude"}, "Rude: out"),
        ("raises", {"what": "final"}, "UnrecoverableError: not ever"),
        ("recurses", None, "RecursionError"),
        ("returns", "20 MiB", "result is 20971522 bytes, over the limit of 16777216 (16MiB)"),
    ],
)
def test_a_handler_that_raises_or_returns_too_much_fails_its_job_and_keeps_its_child(
    bench: Bench, name: str, data: Any, reason: str
) -> None:
    child = bench.child()
    job, settled = bench.end(name, data)
    assert settled.to == "failed"
    assert reason in (job.failed_reason or "")
    assert bench.child() == child


def test_an_unrecoverable_error_fails_at_once_whatever_attempts_are_left(bench: Bench) -> None:
    job, settled = bench.end("raises", {"what": "final"}, attempts=5)
    assert settled.to == "failed"
    assert job.attempts_made == 1


def test_an_error_is_tried_again_while_attempts_are_left(bench: Bench) -> None:
    job = bench.once.add("raises", {"what": "value"}, attempts=2)
    ends = [bench.served.facts.wait(Settled, queue="once", job_id=job.id, nth=nth).to for nth in (1, 2)]
    assert ends == ["wait", "failed"]
    assert len(bench.once.job(job.id).stacktrace) == 2


def test_a_job_name_that_nobody_handles_waits_for_a_supervisor_that_does(bench: Bench) -> None:
    job, settled = bench.end("nobody-knows")
    assert (settled.outcome, settled.to) == ("UnknownName", "delayed")
    assert (job.unknown_names, job.attempts_made) == (1, 0)
    assert "no handler for job name 'nobody-knows'" in settled.reason


# -- stopped -----------------------------------------------------------------------------------------------------------


def test_a_handler_may_clean_up_at_its_deadline_and_its_child_is_kept(bench: Bench) -> None:
    child = bench.child()
    job, settled = bench.end("times-out", timeout="100ms")
    assert (settled.outcome, job.failed_reason) == ("TimedOut", "timed out after 100ms (soft stop worked)")
    assert death(job)["cause"] == "timeout-soft"
    assert "in times_out" in death(job)["stack"]
    assert bench.child() == child


def test_a_handler_that_answers_its_soft_stop_with_a_result_has_completed(bench: Bench) -> None:
    job, settled = bench.end("times-out", "returns", timeout="100ms")
    assert settled.to == "completed"
    assert result(job) == "cleaned up: timed out after 100ms"


def test_a_running_job_that_is_cancelled_fails_and_is_not_tried_again(bench: Bench, tmp_path: Path) -> None:
    job = bench.once.add("waits", {"until": str(tmp_path / "never")}, attempts=5)
    bench.served.facts.wait(Started, queue="once", job_id=job.id)
    assert bench.once.cancel(job.id, reason="enough") == "was_running"
    assert bench.served.facts.wait(Settled, queue="once", job_id=job.id).outcome == "Cancelled"
    assert bench.once.job(job.id).failed_reason == "cancelled: enough"


# -- what a job prints -------------------------------------------------------------------------------------------------


def test_a_flood_of_output_is_cut_and_does_not_fail_its_job(bench: Bench) -> None:
    job, settled = bench.end("prints-a-lot")
    assert settled.to == "completed"
    lines = [fact.line for fact in bench.served.facts.all(Output, queue="once", job_id=job.id)]
    assert len(lines) < 10_000
    assert any("more lines were dropped" in line for line in lines)
    assert not any("\x1b" in line for line in lines)


# -- what a handler is given -------------------------------------------------------------------------------------------


def test_progress_log_and_data_reach_redis_before_the_result(bench: Bench) -> None:
    job, _ = bench.end("talks", {"step": 1})
    assert bench.once.logs(job.id) == ["first line", "second line \\ud800"]
    assert job.progress == {"percent": 50}
    assert job.data == {"step": 2}
    assert result(job) == {"step": 2}
    assert bench.served.facts.all(Progressed, job_id=job.id)[0].progress_json == b'{"percent":50}'


def test_a_lone_surrogate_in_a_result_is_stored_as_its_escape(bench: Bench) -> None:
    job, _ = bench.end("returns", "surrogate")
    assert job.returnvalue_json == b'"a\\ud800b"'


def test_a_large_result_within_the_limit_is_stored_whole(bench: Bench) -> None:
    assert result(bench.end("returns", "2 MiB")[0]) == "x" * (2 << 20)


def test_a_coroutine_function_is_a_handler(bench: Bench) -> None:
    assert result(bench.end("async", [1])[0]) == {"awaited": [1]}


def test_setup_runs_once_per_child_and_attempts_count_from_one(bench: Bench) -> None:
    first, second = (result(bench.end("who")[0]) for _ in range(2))
    assert second["pid"] == first["pid"]
    assert (first["setups"], second["setups"]) == (1, 1)
    assert second["runs"] == first["runs"] + 1
    assert (first["attempt"], first["crashes"]) == (1, 0)


def test_a_handler_adds_jobs_to_its_own_queue_and_to_those_it_may_add_to(bench: Bench) -> None:
    own, _ = bench.end("adds", {})
    assert bench.once.result(result(own), timeout=10) == {"from": own.id}
    assert bench.once.job(result(own)).priority == 3
    other, _ = bench.end("adds", {"queue": "twice"})
    assert bench.twice.result(result(other), timeout=10) == {"from": other.id}
    refused, settled = bench.end("adds", {"queue": "elsewhere"})
    assert settled.to == "failed"
    assert "may not add to queue 'elsewhere'" in (refused.failed_reason or "")


def test_a_handler_waits_for_its_children_and_reads_what_they_returned(bench: Bench) -> None:
    job = bench.once.add("gathers", {"asked": False})
    assert bench.once.result(job, timeout=10) == [0, 1]
    assert bench.served.facts.wait(Settled, queue="once", job_id=job.id).to == "waiting-children"


def test_a_handler_that_postpones_itself_spends_no_attempt(bench: Bench) -> None:
    job = bench.once.add("later", {"again": False})
    assert bench.once.result(job, timeout=10) == {"attempt": 1}
    assert bench.served.facts.wait(Settled, queue="once", job_id=job.id).to == "delayed"


# -- supervisors of their own ------------------------------------------------------------------------------------------


def test_teardown_runs_when_a_child_is_let_go(
    redis_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "note"
    monkeypatch.setenv("TEARDOWN_NOTE", str(note))
    with serving({"render": handlers(concurrency=1, spares=1, env=("TEARDOWN_NOTE",))}, redis_url, prefix) as served:
        pids = {served.facts.wait(ChildReady, nth=nth).pid for nth in (1, 2)}
    assert {int(line) for line in note.read_text().splitlines()} == pids


def test_a_callable_is_carried_to_the_children_and_handles_every_name(redis_url: str, prefix: str) -> None:
    factor = 3

    def times(job: Any) -> dict[str, Any]:
        return {job.name: factor * job.data}

    with Queue("render", redis=redis_url, prefix=prefix) as queue, serving({"render": times}, redis_url, prefix):
        jobs = queue.add_many([("page", 2), ("book", 5)])
        assert [queue.result(job, timeout=10) for job in jobs] == [{"page": 6}, {"book": 15}]


def test_a_child_is_recycled_after_the_jobs_it_may_run(redis_url: str, prefix: str) -> None:
    with (
        Queue("render", redis=redis_url, prefix=prefix) as queue,
        serving({"render": handlers(concurrency=1, recycle_after=2)}, redis_url, prefix),
    ):
        jobs = queue.add_many([("who", None)] * 5)
        pids = [queue.result(job, timeout=10)["pid"] for job in jobs]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


def test_a_burst_ends_by_itself_once_nothing_is_left(redis_url: str, prefix: str) -> None:
    with Queue("render", redis=redis_url, prefix=prefix) as queue:
        job = queue.add("ok", 1)
        with serving({"render": handlers()}, redis_url, prefix, burst=True) as served:
            served.facts.wait(Settled, job_id=job.id)
        assert queue.state(job.id) is JobState.COMPLETED
