"""What `sandq why` says of a job."""

from __future__ import annotations

from typing import Any

import pytest

from sandq.cli.explain import explain, explain_death
from sandq.job import Job, JobState


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
        "cpu_s": 1.0,
        "peak_rss": 64 << 20,
        "pid": 4242,
        "host": "box",
        "child_age_s": 30.0,
        "child_jobs": 3,
        "stderr": "Fatal Python error\n",
        "stack": "File x.py, line 3\n",
    }
    told = "\n".join(explain_death(death))
    assert "ran 1.25s, used 1s of CPU, peak memory 64MiB" in told
    assert "process 4242 on box, 30s old, job number 3 of that process" in told
    assert "    Fatal Python error" in told
    assert "    File x.py, line 3" in told


@pytest.mark.parametrize(
    ("state", "fields", "told"),
    [
        (JobState.FAILED, {"attempts_made": 3, "opts": {"attempts": 3}}, "`sandq retry render 7` puts it back"),
        (JobState.DELAYED, {"attempts_made": 1, "opts": {"attempts": 3}}, "2 attempts left (1 of 3 attempts used)"),
        (JobState.WAITING, {"attempts_made": 2, "opts": {"attempts": 3}}, "its last attempt"),
        (JobState.WAITING, {}, "its last attempt (0 of 1 attempts used)"),
        (JobState.COMPLETED, {}, "Nothing further happens"),
        (JobState.UNKNOWN, {}, "none of the queue's lists"),
    ],
)
def test_the_last_line_says_what_happens_next(state: JobState, fields: dict[str, Any], told: str) -> None:
    assert told in explain(make(**fields), state)[-1]


def test_the_first_line_counts_what_the_job_went_through() -> None:
    job = make(attempts_started=4, crashes=2, interruptions=1, stalled_count=1)
    expected = (
        "Job 7 (page) of queue render is waiting for a free worker after 4 starts, 2 crashes, 1 interruption, 1 stall."
    )
    assert explain(job, JobState.WAITING)[0] == expected


def test_a_finished_job_tells_the_counters_that_its_certificate_kept() -> None:
    job = make(attempts_started=3, death={"cause": "exit", "exit_code": 1, "crashes": 3})
    assert "3 starts, 3 crashes" in explain(job, JobState.FAILED)[0]


def test_a_job_that_raised_tells_its_reason_and_only_the_last_traceback() -> None:
    job = make(failed_reason="ValueError: no such page", stacktrace=("first try", "second try"))
    told = "\n".join(explain(job, JobState.FAILED))
    assert "Reason: ValueError: no such page." in told
    assert "    second try" in told
    assert "first try" not in told


def test_a_condemned_job_tells_why_it_will_not_run() -> None:
    job = make(deferred_failure="job stalled more than allowable limit")
    assert "job stalled more than allowable limit" in "\n".join(explain(job, JobState.WAITING))
