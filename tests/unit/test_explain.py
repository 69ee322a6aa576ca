"""What `sandq why` says of a job."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sandq.cli.certificate import explain_death
from sandq.cli.explain import Scene, explain, show_age
from sandq.config import QueueSettings
from sandq.decide import decide
from sandq.errands.family import FailedChild
from sandq.job import Job, JobState
from sandq.outcome import Cause, Crashed, Death, Interrupted, Outcome, UnknownName

NOW_MS = 1_000_000
SERVED = Scene(now_ms=NOW_MS, supervisors=({"id": "s1", "name": "box-7", "host": "vm"},))


def make(**fields: Any) -> Job:
    return Job(queue="render", id="7", name="page", **fields)


@pytest.mark.parametrize(
    ("death", "told"),
    [
        ({"cause": "exit", "exit_code": 3}, "exit code 3 before it gave a result"),
        ({"cause": "exit", "exit_code": 0}, "did something call os._exit?"),
        ({"cause": "exit"}, "its exit status is not known"),
        ({"cause": "signal", "signal": "SIGSEGV"}, "segmentation fault"),
        ({"cause": "signal", "signal": "SIGKILL"}, "which sandq did not send"),
        ({"cause": "signal", "signal": "SIGUSR2"}, "ended by SIGUSR2"),
        ({"cause": "oom-kernel", "peak_rss": 3 << 30}, "memory ran out at a peak of 3GiB"),
        ({"cause": "oom-limit", "peak_rss": 1 << 20}, "more memory than its limit at a peak of 1MiB"),
        (
            {"cause": "oom-limit", "detail": "used 9MiB of memory, 4MiB were allowed"},
            "its limit (used 9MiB of memory, 4M",
        ),
        ({"cause": "timeout-soft", "detail": "limit 5s"}, "stopped when it was asked to (limit 5s)"),
        ({"cause": "timeout-hard"}, "did not stop when asked, and was killed"),
        ({"cause": "cancelled"}, "Somebody cancelled it"),
        ({"cause": "lock-lost"}, "lock could not be renewed in time"),
        ({"cause": "protocol", "detail": "half a frame"}, "broke the protocol with its supervisor (half a frame)"),
        ({"cause": "init"}, "processor could not be loaded"),
        ({"cause": "launcher"}, "the job is not to blame"),
        ({"cause": "drain"}, "the job is not to blame"),
        ({"cause": "something-newer"}, "something-newer"),
        ({}, "cause unknown"),
    ],
)
def test_every_cause_of_death_has_its_sentence(death: dict[str, Any], told: str) -> None:
    assert told in explain_death(death)[0]


def test_a_certificate_is_read_with_its_evidence() -> None:
    death = {
        "cause": "signal",
        "signal": "SIGSEGV",
        "wall_s": 1.25,
        "child_cpu_s": 1.0,
        "peak_rss": 64 << 20,
        "pid": 4242,
        "host": "box",
        "child_age_s": 30.0,
        "child_jobs": 3,
        "stderr": "Fatal Python error\n",
        "stack": "File x.py, line 3\n",
    }
    told = "\n".join(explain_death(death))
    expected = "Measured: ran 1.25s; its process, with all of its 3 jobs and loading: 1s of CPU, peak memory 64MiB."
    assert expected in told
    assert "process 4242 on box, 30s old, job number 3 of that process" in told
    assert "    Fatal Python error" in told
    assert "    File x.py, line 3" in told


@pytest.mark.parametrize(
    ("death", "expected"),
    [
        ({"wall_s": 1.0}, "Measured: ran 1s."),
        ({"child_cpu_s": 2.0, "child_jobs": 1}, "Measured: its process, with this job and loading: 2s of CPU."),
        ({"child_cpu_s": 2.0}, "Measured: its process, with all of its jobs and loading: 2s of CPU."),
    ],
)
def test_what_is_known_of_the_child_is_not_told_as_if_it_were_of_the_run(death: dict[str, Any], expected: str) -> None:
    assert expected in explain_death(death)


@pytest.mark.parametrize(
    ("state", "fields", "told"),
    [
        (JobState.FAILED, {"attempts_made": 3, "opts": {"attempts": 3}}, "`sandq retry render 7` puts it back"),
        (JobState.FAILED, {"attempts_made": 3, "opts": {"attempts": 3}}, "all of its 3 attempts are used up"),
        (JobState.FAILED, {"attempts_made": 1}, "its only attempt is used up"),
        (JobState.FAILED, {"attempts_made": 2}, "2 attempts were made, 1 of them asked for by hand"),
        (JobState.FAILED, {"attempts_made": 1, "opts": {"attempts": 3}}, "could not help (1 of 3 attempts used)"),
        (JobState.FAILED, {"attempts_made": 1, "failed_reason": "cancelled: too late"}, "it was cancelled"),
        (JobState.DELAYED, {"attempts_made": 1, "opts": {"attempts": 3}}, "Its next run is attempt 2 of 3;"),
        (JobState.WAITING, {"attempts_made": 2, "opts": {"attempts": 3}}, "Its next run is attempt 3 of 3, its last"),
        (JobState.WAITING, {"attempts_made": 1}, "one run more than its 1 attempt, asked for by hand"),
        (JobState.ACTIVE, {}, "This is attempt 1 of 1, its last"),
        (JobState.COMPLETED, {}, "Nothing further happens"),
        (JobState.UNKNOWN, {}, "none of the queue's lists"),
    ],
)
def test_the_last_line_says_what_happens_next(state: JobState, fields: dict[str, Any], told: str) -> None:
    assert told in explain(make(**fields), state, SERVED)[-1]


def test_the_first_line_counts_what_the_job_went_through() -> None:
    job = make(attempts_started=4, crashes=2, interruptions=1, stalled_count=1)
    expected = (
        "Job 7 (page) of queue render is waiting for a free worker after 4 starts, 2 crashes, 1 interruption, 1 stall."
    )
    assert explain(job, JobState.WAITING, SERVED)[0] == expected


def test_a_finished_job_tells_the_counters_that_its_certificate_kept() -> None:
    job = make(attempts_started=3, death={"cause": "exit", "exit_code": 1, "crashes": 3})
    assert "3 starts, 3 crashes" in explain(job, JobState.FAILED, SERVED)[0]


def test_a_job_that_raised_tells_its_reason_and_only_the_last_traceback() -> None:
    job = make(failed_reason="ValueError: no such page", stacktrace=("first try", "second try"))
    told = "\n".join(explain(job, JobState.FAILED, SERVED))
    assert "Reason: ValueError: no such page." in told
    assert "    second try" in told
    assert "first try" not in told


STOPPED = {"death": {"cause": "drain", "wall_s": 12.7, "stack": "File x.py, line 3"}}
RAISED = {"failed_reason": "ValueError: torn", "stacktrace": ("Traceback of torn",)}


@pytest.mark.parametrize(("fields", "evidence"), [(STOPPED, "Its supervisor was stopping"), (RAISED, "Reason: Value")])
@pytest.mark.parametrize("state", [JobState.ACTIVE, JobState.WAITING, JobState.DELAYED, JobState.COMPLETED])
def test_what_is_told_of_an_earlier_run_is_set_apart_from_the_run_at_hand(
    fields: dict[str, Any], evidence: str, state: JobState
) -> None:
    told = explain(make(**fields), state, SERVED)
    begin = told.index("An earlier run ended like this:")
    assert evidence in told[begin + 1]
    assert all(line.startswith("    ") for line in told[begin + 1 : -1])
    assert not [line for line in told[:begin] if evidence in line]


@pytest.mark.parametrize("fields", [STOPPED, RAISED])
def test_what_is_told_of_a_failed_job_is_its_last_run(fields: dict[str, Any]) -> None:
    assert "earlier run" not in "\n".join(explain(make(**fields), JobState.FAILED, SERVED))


def test_a_condemned_job_tells_why_it_will_not_run() -> None:
    job = make(deferred_failure="job stalled more than allowable limit")
    assert "job stalled more than allowable limit" in "\n".join(explain(job, JobState.WAITING, SERVED))


@pytest.mark.parametrize(
    ("outcome", "fields", "settings", "told"),
    [
        (Crashed(Death(cause=Cause.EXIT)), {"crashes": 2}, {}, "used up its crashes, 3 where max_crashes allows 2"),
        (Crashed(Death(cause=Cause.EXIT)), {}, {"max_crashes": 0}, "used up its crashes, 1 where max_crashes allows 0"),
        (Interrupted(Death(cause=Cause.DRAIN)), {"interruptions": 10}, {}, "11 where max_interruptions allows 10"),
        (UnknownName(("page",)), {"unknown_names": 9}, {}, "claimed 10 times by workers without a handler"),
    ],
)
def test_a_job_over_a_budget_of_its_own_does_not_blame_its_attempts(
    outcome: Outcome, fields: dict[str, Any], settings: dict[str, Any], told: str
) -> None:
    job = make(opts={"attempts": 3}, **fields)
    settlement = decide(job, outcome, QueueSettings(**settings), random.Random(0))
    assert settlement is not None
    failed = make(opts={"attempts": 3}, attempts_made=1, failed_reason=settlement.reason)
    assert told in explain(failed, JobState.FAILED, SERVED)[-1]


def test_a_running_job_tells_who_runs_it_for_how_long_and_how_far_it_is() -> None:
    running = {"queues": {"render": {"running": [{"id": "7", "pid": 42}]}}}
    scene = Scene(now_ms=NOW_MS, supervisors=({"name": "box-7", "host": "vm"} | running,))
    job = make(processed_on=NOW_MS - 12_000, progress_json=b"41")
    expected = "It has run for 12s as process 42 of supervisor box-7 on vm; its progress is 41."
    assert explain(job, JobState.ACTIVE, scene)[1] == expected
    assert "no supervisor has told of it yet" in explain(job, JobState.ACTIVE, SERVED)[1]
    assert "No sandq supervisor serves the queue" in explain(job, JobState.ACTIVE, Scene(now_ms=NOW_MS))[1]


def test_an_active_job_that_nobody_holds_is_not_said_to_run() -> None:
    scene = Scene(now_ms=NOW_MS, held=False)
    told = explain(make(processed_on=NOW_MS - 6_000, attempts_started=2), JobState.ACTIVE, scene)
    assert told[0] == "Job 7 (page) of queue render is active without a holder after 2 starts."
    assert "Its lock ran out" in told[1]
    assert "It began 6.0s ago" in told[1]
    assert "start one: `sandq supervise render" in told[2]
    assert told[3].startswith("This was attempt 1 of 1")


@pytest.mark.parametrize(
    ("scene", "told"),
    [
        (
            Scene(now_ms=NOW_MS, paused=True, supervisors=SERVED.supervisors),
            "nothing of it starts before `sandq resume",
        ),
        (Scene(now_ms=NOW_MS), "No sandq supervisor serves queue render; start one"),
        (
            Scene(now_ms=NOW_MS, supervisors=({"name": "box-7", "queues": {"render": {"broken": "no module x"}}},)),
            "box-7 cannot load the queue's processor: no module x",
        ),
    ],
)
@pytest.mark.parametrize("state", [JobState.WAITING, JobState.DELAYED])
def test_what_keeps_a_waiting_job_from_running_is_said(scene: Scene, told: str, state: JobState) -> None:
    assert told in "\n".join(explain(make(), state, scene))
    assert told not in "\n".join(explain(make(), state, SERVED))


def test_a_finished_job_without_certificate_tells_how_long_it_ran() -> None:
    job = make(processed_on=NOW_MS - 3200, finished_on=NOW_MS, failed_reason="cancelled: too late")
    assert explain(job, JobState.FAILED, SERVED)[1] == "Its last run took 3.2s."


def test_a_stack_that_a_fatal_error_left_on_stderr_is_told_once() -> None:
    told = explain_death({"cause": "signal", "stack": "File x.py, line 3\n", "stderr": "Fatal\nFile x.py, line 3\n"})
    assert "\n".join(told).count("File x.py") == 1


DUMP = """Fatal Python error: Segmentation fault

Thread 0x00007f1 (most recent call first):
  File "/lib/python3.11/threading.py", line 1 in wait

Current thread 0x00007f2 (most recent call first):
  File "/lib/python3.11/ctypes.py", line 519 in string_at
  File "/app/jobs.py", line 3 in process
  File "/site-packages/sandq/child/loop.py", line 180 in _call
  File "/site-packages/sandq/child/__main__.py", line 30 in <module>
  File "<frozen runpy>", line 88 in _run_code

Extension modules: numpy"""
OURS = """Current thread 0x00007f2 (most recent call first):
  File "/site-packages/sandq/child/loop.py", line 180 in _flush
  File "<frozen runpy>", line 88 in _run_code"""
TRACEBACK = """Traceback (most recent call last):
  File "/site-packages/sandq/child/loop.py", line 180, in _call
    result = function(*args)
  File "/app/jobs.py", line 3, in process
    sleep(9)"""


@pytest.mark.parametrize(
    ("stack", "expected"),
    [(DUMP, [*DUMP.splitlines()[:8], "", "Extension modules: numpy"]), (OURS, OURS.splitlines()), (TRACEBACK, None)],
)
def test_a_stack_is_told_down_to_the_handler_and_whole_where_there_is_none(
    stack: str, expected: list[str] | None
) -> None:
    told = explain_death({"cause": "signal", "stack": stack})
    shown = told[told.index("Python stack at its end:") + 1 :]
    assert [line[4:] for line in shown] == (expected or stack.splitlines())


@pytest.mark.parametrize(
    ("kind", "reason", "told"),
    [
        ("failed", "torn.\nand more", "Its child 3 of queue leaves failed: torn; `sandq why leaves 3` says more."),
        ("failed", "", "Its child 3 of queue leaves failed: no reason was kept; `sandq why leaves 3` says more."),
        ("failed", None, "Its child 3 of queue leaves failed; it has run again since, or is gone."),
        (
            "pending",
            "torn",
            "It is held up by its child 3 of queue leaves, which failed: torn; "
            "`sandq why leaves 3` says more, `sandq retry leaves 3` runs it again.",
        ),
        (
            "ignored",
            "torn",
            "It goes on without its child 3 of queue leaves, which failed: torn; `sandq why leaves 3` says more.",
        ),
    ],
)
def test_a_child_that_failed_is_named_with_its_reason_and_what_it_is_to_its_parent(
    kind: Any, reason: str | None, told: str
) -> None:
    child = FailedChild(queue="leaves", id="3", kind=kind, reason=reason)
    assert told in explain(make(), JobState.WAITING_CHILDREN, Scene(now_ms=NOW_MS, failed_children=(child,)))


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [(-1, "0.0s"), (0.44, "0.4s"), (12, "12s"), (185, "3m 5s"), (7620, "2h 7m"), (273600, "3d 4h")],
)
def test_an_age_is_told_in_units_that_fit_it(age_s: float, expected: str) -> None:
    assert show_age(1000 * age_s) == expected
