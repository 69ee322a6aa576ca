"""What a child may do to its job, its supervisor and its neighbours. One numbered case each."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, a_bench, death
from cgroup import cgroup, enter
from gluttons import BOMB
from harness import HERE, SupervisorProcess, completions, eventually, handlers, serving, wait_gone
from test_burners import burn

from sandq.clock import boottime
from sandq.queue import Queue
from sandq.supervisor.facts import (
    ChildDied,
    ChildReady,
    LauncherDied,
    Output,
    ProcessorBroken,
    Progressed,
    Recycled,
    Settled,
    Started,
)
from sandq.supervisor.output import LINES_PER_S

GLUTTONS, LEAVERS, TALKERS = (str(HERE / f"{name}.py") for name in ("gluttons", "leavers", "talkers"))
MEMORY = 192 << 20
MAX_LAG_MS = 200
STARTS = ("exec", "template")  # the queues of the leavers, by how their children are started

both = pytest.mark.parametrize("start", STARTS)


@pytest.fixture(scope="module")
def bench(redis_url: str) -> Iterator[Bench]:
    leavers = {start: handlers(processor=LEAVERS, concurrency=1, start=start, recycle_rss=64 << 20) for start in STARTS}
    plans = {"once": handlers(concurrency=1, max_crashes=0), "twice": handlers(concurrency=1), **leavers}
    with a_bench(redis_url, f"cases{os.getpid()}", plans) as made:
        yield made


# -- one job, one end --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What a job does, how it ends after its last start, and whether its child takes the next job."""

    promise: str  # begins with the number
    job: str
    data: Any = None
    outcome: str = "Raised"
    to: str = "failed"
    reason: str = ""  # a part of it
    kept: bool = False
    cause: str = ""  # in the death certificate, which is there if this is
    signal: str = ""  # in the certificate: what ended the child
    stack: str = ""  # a part of the one in the certificate
    returns: Any = None
    queue: str = "once"
    asked: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 1


CRASHED = {"outcome": "Crashed"}
LIED = {"outcome": "Crashed", "cause": "protocol"}
NOT_SOFTLY = "timed out after 200ms (soft stop did not work, killed)"
LATE = {"outcome": "TimedOut", "cause": "timeout-hard", "reason": NOT_SOFTLY}
SOON = {"timeout": "200ms"}
KEPT = {"kept": True}
DONE: dict[str, Any] = {"outcome": "Completed", "to": "completed"}

CASES = [
    Case("27_a_child_killed_from_outside_crashed", "kills-itself", **CRASHED, cause="signal", signal="SIGKILL"),
    Case("28_a_segmentation_fault_leaves_its_stack", "segfaults", **CRASHED, cause="signal", signal="SIGSEGV",
         stack="Segmentation fault"),
    Case("29_exit_0_without_an_answer_is_a_crash", "exits", 0, **CRASHED, cause="exit", reason="exit 0 before"),
    Case("29_exit_3_without_an_answer_is_a_crash", "exits", 3, **CRASHED, cause="exit", reason="exit 3 before"),
    Case("30_sys_exit_fails_the_job_and_keeps_the_child", "exits-softly", **KEPT, reason="SystemExit: 0"),
    Case("32_a_sleep_without_end_is_dumped_terminated_and_tried_again", "sleeps-on", **LATE, signal="SIGTERM",
         stack="in sleeps_on", asked={**SOON, "attempts": 2}, starts=2),
    Case("33_c_code_that_holds_the_gil_is_dumped_and_ended", "gil-held", {"s": 60}, **LATE, signal="SIGTERM",
         stack="in _timed", asked=SOON),
    Case("34_a_child_that_is_stopped_is_killed_at_the_deadline", "stops-itself", **LATE, signal="SIGKILL", asked=SOON),
    Case("35_who_ignores_sigterm_is_killed_after_the_grace", "ignores-stops", **LATE, signal="SIGKILL", asked=SOON),
    Case("38_closing_every_file_is_a_crash", "closes-fds", **LIED, reason="closed its channel"),
    Case("39_garbage_into_every_file_is_a_crash", "garbage-everywhere", **LIED, reason="do not start with the frame"),
    Case("39_a_result_that_is_no_json_text_is_a_crash", "lies-about-json", **LIED, reason="not one JSON text"),
    Case("42_nan_is_no_result", "returns", "nan", **KEPT, reason="Out of range float values are not JSON compliant"),
    Case("42_a_set_is_no_result", "returns", "set", **KEPT, reason="Object of type set is not JSON serializable"),
    Case("42_a_circle_is_no_result", "returns", "circle", **KEPT, reason="Circular reference detected"),
    Case("42_an_abyss_is_no_result", "returns", "deep", **KEPT, reason="RecursionError"),
    Case("43_an_error_without_text_repr_and_copy_fails_the_job", "raises", {"what": "broken"}, **KEPT,
         reason="BrokenError: <its __str__ raised RuntimeError>"),
    Case("48_files_used_up_fail_the_job_and_cost_the_child", "leaves", "all files", reason="Too many open files",
         queue="exec"),
    Case("48_files_used_up_fail_the_job_and_cost_the_forked_child", "leaves", "all files",
         reason="Too many open files", queue="template"),
    Case("52_a_frame_of_4_gib_is_refused_on_its_header", "claims-4-gib", **LIED, reason="claims 2+4294967295 bytes"),
    Case("53_a_frame_about_another_attempt_is_ignored", "stale-frames", **DONE, **KEPT, returns="own"),
    Case("54_input_is_at_its_end", "asks", **KEPT, reason="EOFError: EOF when reading a line"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"case_{case.promise}")
def test_each_job_ends_as_its_case_says_and_only_its_own_child_pays(bench: Bench, case: Case) -> None:
    child = bench.child(case.queue)
    job, last = bench.end(case.job, case.data, case.queue, nth=case.starts, **case.asked)
    assert (last.outcome, last.to, last.word) == (case.outcome, case.to, "ok"), last
    assert case.reason in (job.failed_reason or "")
    starts = bench.served.facts.all(Started, queue=case.queue, job_id=job.id)
    assert (len(starts), starts[0].pid) == (case.starts, child)
    assert (bench.child(case.queue) == starts[-1].pid) is case.kept
    if case.cause:
        assert (death(job)["cause"], death(job)["pid"]) == (case.cause, starts[-1].pid)
    if case.signal:
        assert death(job)["signal"] == case.signal
    if case.stack:
        assert case.stack in death(job)["stack"]
    if case.to == "completed":
        assert job.returnvalue == case.returns


# -- crashes -----------------------------------------------------------------------------------------------------------


def test_case_27_a_job_whose_child_is_killed_runs_again_within_100_ms_with_one_crash_more(bench: Bench) -> None:
    took = []
    for _ in range(3):
        bench.child("twice")
        eventually(lambda: bench.ready("twice") == 2, "the spare is warm")
        job = bench.twice.add("killed-once")
        bench.served.facts.wait(Progressed, queue="twice", job_id=job.id)
        child = bench.served.facts.wait(Started, queue="twice", job_id=job.id).pid
        killed_at = boottime()
        os.kill(child, signal.SIGKILL)
        took.append(bench.served.facts.time_of(Started, queue="twice", job_id=job.id, nth=2) - killed_at)
        assert bench.twice.result(job, timeout=10) == 1
    assert statistics.median(took) < 0.1, took


def test_case_31_the_third_crash_ends_a_poison_job_while_others_never_notice(bench: Bench) -> None:
    poison = bench.twice.add("exits", 3, attempts=5, backoff="fixed:50ms")
    others = bench.once.add_many([("ok", n) for n in range(5)])
    crashes = [
        bench.served.facts.wait(Settled, queue="twice", job_id=poison.id, outcome="Crashed", nth=nth).to
        for nth in (1, 2, 3)
    ]
    assert crashes == ["wait", "delayed", "failed"]
    job = bench.twice.job(poison.id)
    assert (death(job)["crashes"], job.attempts_made) == (3, 1)
    assert "exit 3 before a result (crash 3, 2 allowed: failed)" in (job.failed_reason or "")
    assert [bench.once.result(other, timeout=10) for other in others] == [0, 1, 2, 3, 4]


def test_case_50_a_job_that_kills_its_own_parent_costs_no_other_job_more_than_a_new_start(
    queue: Queue, redis_url: str, prefix: str, tmp_path: Path, end: Path
) -> None:
    with serving({"render": handlers(processor=GLUTTONS, concurrency=2)}, redis_url, prefix) as served:
        bystander = queue.add("waits", {"until": str(end)})
        served.facts.wait(Started, job_id=bystander.id)
        before = served.supervisor.stats()["launcher_pid"]
        killer = queue.add("kills-parent", str(tmp_path / "killed"))
        assert served.facts.wait(LauncherDied).pid == before
        for job in (bystander, killer):
            served.facts.wait(Started, job_id=job.id, nth=2)
        end.touch()
        assert queue.result(bystander, timeout=20) == "seen"
        assert queue.result(killer, timeout=20) == "once is enough"
        assert queue.job(bystander.id).crashes == 0
        assert completions(queue, bystander) == completions(queue, killer) == 1
        assert served.supervisor.stats()["launcher_pid"] != before


def test_case_56_a_child_that_exits_right_after_its_result_has_completed_its_job_once(bench: Bench) -> None:
    job, settled = bench.end("answers-and-exits")
    assert (settled.to, job.returnvalue, job.crashes) == ("completed", "done", 0)
    [started] = bench.served.facts.all(Started, queue="once", job_id=job.id)
    bench.served.facts.wait(ChildDied, pid=started.pid)
    assert bench.child() != started.pid
    assert len(bench.served.facts.all(Started, queue="once", job_id=job.id)) == 1
    assert completions(bench.once, job) == 1


# -- what a job leaves behind ------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("left", "how"),
    [
        pytest.param("daemon", "exit 0", id="case_36_in_a_session_of_its_own"),
        pytest.param("daemon with every file", "exit 0", id="case_37_holding_the_channel"),
    ],
)
def test_a_job_that_leaves_a_daemon_completes_and_is_reported_and_the_daemon_ends_with_its_child(
    bench: Bench, start: str, left: str, how: str
) -> None:
    job, settled = bench.end("leaves", left, start)
    assert settled.to == "completed"
    child = bench.served.facts.wait(Started, queue=start, job_id=job.id).pid
    assert bench.served.facts.wait(Recycled, pid=child).reason.startswith("left 1 process running: ")
    assert bench.child(start) != child
    wait_gone(job.returnvalue, 2.0)
    assert bench.served.facts.wait(ChildDied, pid=child).how == how


@pytest.mark.parametrize("dies", [True, False], ids=["by itself", "by a signal"])
def test_case_36_a_program_in_a_session_of_its_own_ends_with_the_child_that_started_it(
    bench: Bench, tmp_path: Path, dies: bool
) -> None:
    path = tmp_path / "pid"
    job = bench.once.add("leaves-grandchild", {"path": str(path), "dies": dies})
    child = bench.served.facts.wait(Started, queue="once", job_id=job.id).pid
    program = int(eventually(lambda: path.exists() and path.read_text(), "the program was started"))
    if not dies:
        os.kill(child, signal.SIGKILL)
    bench.served.facts.wait(Settled, queue="once", job_id=job.id)
    wait_gone(child, 1.0)
    wait_gone(program, 1.0)


@both
def test_case_49_a_job_that_changes_folder_umask_environment_and_signals_leaves_its_child_clean(
    bench: Bench, start: str
) -> None:
    before = bench.end("look", queue=start)[0].returnvalue
    assert bench.end("changes", queue=start)[0].returnvalue == before["pid"]
    after = bench.end("look", queue=start)[0].returnvalue
    assert after.pop("jobs") == before.pop("jobs") + 1
    assert (after["setups"], after["pgid"]) == (1, after["pid"])
    assert after == before


# -- floods ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [200, pytest.param(1000, marks=pytest.mark.timeout(240))])
def test_case_40_a_flood_of_output_slows_nobody_but_its_own_job_and_is_told_in_part(
    queue: Queue, redis_url: str, prefix: str, megabytes: int
) -> None:
    rate = 32 << 20
    plan = handlers(processor=TALKERS, concurrency=2, spares=0, output_rate=rate)
    with serving({"render": plan}, redis_url, prefix) as served:
        flood = queue.add("floods", {"mb": megabytes})
        began = served.facts.time_of(Started, job_id=flood.id)
        walls = []
        for n in range(20):
            job = queue.add("ok", n)
            walls.append(served.facts.wait(Settled, job_id=job.id).wall_s)
        assert not served.facts.all(Settled, job_id=flood.id), "the other jobs ran beside it"
        ended = served.facts.wait(Settled, job_id=flood.id, limit_s=megabytes / 5)
        took = served.facts.time_of(Settled, job_id=flood.id) - began
        stats = served.supervisor.stats()
    assert ended.to == "completed"
    assert took > megabytes * 1e6 / rate - 2, "it was held to its rate"
    assert statistics.median(walls) < 1.0
    assert stats["locks_lost"] == 0
    assert stats["heartbeat"]["max_ms"] < 900, "two missed renewals would be too late"
    said = [fact.line for fact in served.facts.all(Output, job_id=flood.id)]
    assert len(said) <= (took + 2) * (LINES_PER_S + 1)
    assert "more lines were dropped" in said[-1]


@pytest.mark.parametrize(
    ("name", "data", "outcome", "reason"),
    [
        ("returns", "100 MB", "TooLarge", "result is 100000002 bytes, over the limit of 16777216 (16MiB)"),
        ("sends-100-mb", None, "Crashed", "claims 2+100000002 bytes"),
    ],
    ids=["returned", "sent"],
)
def test_case_41_a_result_of_100_mb_is_refused_and_does_not_hold_up_the_supervisor(
    bench: Bench, name: str, data: Any, outcome: str, reason: str
) -> None:
    bench.lag.worst_ms = 0.0
    job, settled = bench.end(name, data)
    print(f"{name} 100 MB: the event loop was late by at most {bench.lag.worst_ms:.1f} ms")
    assert (settled.outcome, settled.to) == (outcome, "failed")
    assert reason in (job.failed_reason or "")
    assert 0 < bench.lag.worst_ms < MAX_LAG_MS
    bench.child()


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["recursion-bomb", "eats-in-a-program"])
def test_case_45_a_job_that_eats_without_end_is_killed_at_its_memory_limit_and_the_next_one_runs(
    queue: Queue, redis_url: str, prefix: str, name: str
) -> None:
    plan = handlers(processor=GLUTTONS, concurrency=1, max_crashes=0, memory=MEMORY)
    with serving({"render": plan}, redis_url, prefix) as served:
        job = queue.add(name)
        end = served.facts.wait(Settled, job_id=job.id)
        assert (end.to, "of memory, 192MiB were allowed" in end.reason) == ("failed", True), end
        certificate = death(queue.job(job.id))
        assert (certificate["cause"], certificate["signal"]) == ("oom-limit", "SIGKILL")
        after = queue.add("ok", 1)
        assert queue.result(after, timeout=20) == 1
        assert served.facts.wait(Started, job_id=after.id).pid != certificate["pid"]
        assert served.supervisor.stats()["locks_lost"] == 0


def test_a_job_may_ask_for_less_memory_than_its_queue_allows(queue: Queue, redis_url: str, prefix: str) -> None:
    plan = handlers(processor=GLUTTONS, concurrency=1, max_crashes=0, memory=8 << 30)
    with serving({"render": plan}, redis_url, prefix) as served:
        job = queue.add("recursion-bomb", memory="128MiB")
        assert "of memory, 128MiB were allowed" in served.facts.wait(Settled, job_id=job.id).reason


@both
def test_case_46_a_child_that_keeps_more_memory_than_allowed_is_replaced_between_two_jobs(
    bench: Bench, start: str
) -> None:
    child = bench.child(start)
    job, settled = bench.end("leaves", "memory", start)
    assert (settled.to, job.returnvalue) == ("completed", child)
    assert bench.served.facts.wait(Recycled, pid=child).reason.startswith("kept ")
    assert bench.child(start) != child


def test_case_51_a_child_that_the_kernel_killed_for_memory_is_certified_so_and_its_supervisor_lives(
    queue: Queue, redis_url: str, prefix: str
) -> None:
    with (
        cgroup("memory") as group,
        SupervisorProcess(redis_url, prefix, processor=TALKERS, max_crashes=0, spares=0) as supervisor,
    ):
        (group / "memory.limit_in_bytes").write_text(str(400 << 20))
        enter(group, supervisor.pid)
        end = supervisor.facts.wait(Settled, job_id=queue.add("eats", {"mb": 2000}).id)
        supervisor.facts.wait(ChildReady, nth=2)
        assert supervisor.facts.wait(Settled, job_id=queue.add("ok", 1).id).to == "completed"
    assert end.outcome == "Crashed"
    assert "out of memory" in end.reason
    assert "likely" not in end.reason


# -- processes and cores -----------------------------------------------------------------------------------------------

END = b"#"


def heard(reader: int, seen: bytearray) -> bytearray:
    """What was written so far, and END once nobody is left who could write."""
    with contextlib.suppress(BlockingIOError):
        seen += os.read(reader, 4096) or END
    return seen


@pytest.mark.parametrize(
    "sessions",
    [pytest.param(False, id="in one session", marks=pytest.mark.slow), pytest.param(True, id="in a session each")],
)
def test_case_47_a_fork_bomb_is_gone_within_a_second_of_its_jobs_end_and_no_lock_is_lost(
    queue: Queue, redis_url: str, prefix: str, tmp_path: Path, sessions: bool
) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    reader, seen = os.open(held, os.O_RDONLY | os.O_NONBLOCK), bytearray()
    plan = {"processor": GLUTTONS, "max_crashes": 0, "isolation": 1, "spares": 0}
    try:
        with SupervisorProcess(redis_url, prefix, lock_s=5.0, **plan) as supervisor:
            job = queue.add("fork-bomb", {"held": str(held), "sessions": sessions}, timeout="2s")
            eventually(lambda: heard(reader, seen).count(b".") == BOMB, f"the bomb has become {BOMB} processes")
            assert supervisor.facts.wait(Settled, job_id=job.id).to == "failed"
            eventually(lambda: heard(reader, seen)[-1:] == END, "the last of them is gone", limit_s=1.0)
            assert queue.result(queue.add("ok", 1), timeout=20) == 1
            supervisor.signal(signal.SIGTERM)
            assert supervisor.wait() == 0
    finally:
        os.close(reader)
    beat = supervisor.stats["heartbeat"]
    print(f"a bomb of {BOMB} processes, sessions {sessions}: heartbeat {beat}")
    assert supervisor.stats["locks_lost"] == 0
    if not sessions:  # else the kernel (autogroup) shares the cores among sessions: a low priority counts within one
        assert beat["p99_ms"] < 100


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_case_55_64_burners_on_two_cores_for_a_minute_lose_no_lock_of_5_seconds(redis_url: str, prefix: str) -> None:
    supervisor = burn(redis_url, prefix, burners=64, jobs=64, seconds=60, lock_s=5)
    assert supervisor.stats["heartbeat"]["p99_ms"] < 100


# -- processors that break ---------------------------------------------------------------------------------------------


def status(url: str, prefix: str) -> str:
    """What `sandq status` says."""
    asked = [sys.executable, "-m", "sandq", "status", "render", "--redis", url, "--prefix", prefix]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "broken", "why"),
    [("exec", "import no_such_module\n", "no_such_module"), ("template", "def process(job:\n", "SyntaxError")],
)
def test_case_44_a_processor_that_breaks_pauses_its_queue_is_shown_and_charges_no_job(
    queue: Queue, redis_url: str, prefix: str, tmp_path: Path, start: str, broken: str, why: str
) -> None:
    processor = tmp_path / "jobs.py"
    good = "import os\nBY = os.getpid()\ndef process(job):\n    return BY\n"
    processor.write_text(good)
    plan = handlers(processor=str(processor), concurrency=1, start=start, spares=0, recycle_after=1)
    with serving({"render": plan}, redis_url, prefix) as served:
        imported_by = queue.result(queue.add("page"), timeout=20)
        served.facts.wait(ChildReady, nth=2)
        processor.write_text(broken)
        if start == "template":  # it has imported the file already; the next one will not be able to
            os.kill(imported_by, signal.SIGKILL)
            served.facts.wait(ChildDied, pid=imported_by)
        queue.result(queue.add("page"), timeout=20)
        assert why in served.facts.wait(ProcessorBroken).why
        waiting = queue.add("page")
        state = served.supervisor.stats()["queues"]["render"]
        assert why in state["broken"]
        assert 0 < state["broken_retry_s"] <= 1.0
        shown = rf"broken: .*{why}.* \(next try in [\d.]+s\)"
        eventually(lambda: re.search(shown, status(redis_url, prefix), re.DOTALL), "it is shown")
        first, second = (served.facts.wait(ProcessorBroken, nth=nth).retry_in_s for nth in (1, 2))
        assert first < second
        assert queue.state(waiting.id) == "waiting"
        processor.write_text(good)
        assert queue.result(waiting, timeout=20) > 0
        ended = queue.job(waiting.id)
        assert (ended.attempts_made, ended.attempts_started, ended.crashes, ended.interruptions) == (1, 1, 0, 0)
        state = served.supervisor.stats()["queues"]["render"]
        assert (state["broken"], state["broken_retry_s"]) == (None, None)
