"""Whatever a job writes, by whichever way, is its own; and no other job feels it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import HERE, Served, eventually, serving

from sandq.config import QueueSettings
from sandq.queue import Queue
from sandq.supervisor.facts import Output, OutputLost, Settled
from sandq.supervisor.output import LEFT_OUT, TAIL

TALKERS = str(HERE / "talkers.py")


def talkers(**settings: object) -> QueueSettings:
    return QueueSettings(**{"processor": TALKERS, "concurrency": 1, "spares": 0, **settings})  # type: ignore[arg-type]


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as queue:
        yield queue


@pytest.fixture
def served(redis_url: str, prefix: str) -> Iterator[Served]:
    with serving({"render": talkers()}, redis_url, prefix) as served:
        yield served


def lines(served: Served, job_id: str) -> list[tuple[str, str]]:
    return [(said.stream, said.line) for said in served.facts.all(Output, job_id=job_id)]


def test_python_c_code_and_programs_are_heard_as_the_jobs_own(queue: Queue, served: Served) -> None:
    job = queue.add("every-way")
    queue.result(job, timeout=20)
    served.facts.wait(Settled, job_id=job.id)
    said = lines(served, job.id)
    assert {
        ("stdout", "from python"),
        ("stdout", "from c"),
        ("stdout", "from a program"),
        ("stderr", "and its errors"),
        ("stdout", "no newline"),
    } == set(said)


def test_what_is_written_while_no_job_runs_belongs_to_no_job(queue: Queue, redis_url: str, prefix: str) -> None:
    with serving({"render": talkers(recycle_after=1)}, redis_url, prefix) as served:
        served.facts.wait(Output, job_id="", line="loading talkers")
        job = queue.add("ok")
        served.facts.wait(Settled, job_id=job.id)
        served.facts.wait(Output, job_id="", line="leaving")
        assert lines(served, job.id) == []


def test_what_still_stands_in_the_pipe_when_a_job_ends_is_the_jobs(queue: Queue, redis_url: str, prefix: str) -> None:
    with serving({"render": talkers(output_rate=20_000)}, redis_url, prefix) as served:
        jobs = [queue.add("lines", 60), queue.add("ok")]
        for job in jobs:
            served.facts.wait(Settled, job_id=job.id)
        assert [line.lstrip("0") or "0" for _, line in lines(served, jobs[0].id)] == [str(n) for n in range(60)]
        assert lines(served, jobs[1].id) == []


def test_a_failed_job_keeps_the_end_of_its_output_in_its_log(queue: Queue, served: Served) -> None:
    job = queue.add("raises")
    served.facts.wait(Settled, job_id=job.id)
    assert set(queue.logs(job.id)) == {"[stdout] about to fail", "[stderr] an error without newline"}


def test_a_completed_job_keeps_none(queue: Queue, served: Served) -> None:
    job = queue.add("every-way")
    served.facts.wait(Settled, job_id=job.id)
    assert queue.logs(job.id) == []


@pytest.mark.parametrize(("keep", "completed", "failed"), [("always", 5, 2), ("never", 0, 0)])
def test_a_queue_may_keep_all_output_or_none(
    queue: Queue, redis_url: str, prefix: str, keep: str, completed: int, failed: int
) -> None:
    with serving({"render": talkers(keep_output=keep)}, redis_url, prefix) as served:
        for name, count in (("every-way", completed), ("raises", failed)):
            job = queue.add(name)
            served.facts.wait(Settled, job_id=job.id)
            assert len(queue.logs(job.id)) == count


def test_kept_output_honours_keep_logs(queue: Queue, served: Served) -> None:
    job = queue.add("raises", keep_logs=1)
    served.facts.wait(Settled, job_id=job.id)
    assert len(queue.logs(job.id)) == 1


def test_every_attempt_that_crashed_leaves_its_last_64_kib(queue: Queue, redis_url: str, prefix: str) -> None:
    with serving({"render": talkers(max_crashes=0)}, redis_url, prefix) as served:
        job = queue.add("floods", {"mb": 2, "dies": True})
        served.facts.wait(Settled, job_id=job.id)
        kept = queue.logs(job.id)
    assert kept[0] == LEFT_OUT
    assert kept[-1] == "[stdout] the last line"
    assert TAIL - 200 < sum(map(len, kept[1:])) <= TAIL


def test_records_of_logging_come_with_their_level_also_from_threads_and_forks(queue: Queue, served: Served) -> None:
    job = queue.add("logs")
    served.facts.wait(Settled, job_id=job.id)
    said = [(line.stream, line.level, line.line) for line in served.facts.all(Output, job_id=job.id)]
    assert said[:4] == [
        ("stderr", "INFO", f"talker: going on with {job.id}"),
        ("stderr", "WARNING", "talker: from a thread"),
        ("stderr", "ERROR", "talker: from a fork"),
        ("stderr", "ERROR", "talker: it failed"),
    ]
    assert ("stderr", "ERROR", "ValueError: invalid literal for int() with base 10: 'inner'") in said
    assert ("log", "WARNING", "kept in redis") in said
    assert queue.logs(job.id) == ["kept in redis"], "what is logged goes to Redis only by job.log"


def test_a_processor_that_configures_logging_has_it_its_own_way(queue: Queue, served: Served) -> None:
    job = queue.add("configures")
    served.facts.wait(Settled, job_id=job.id)
    assert lines(served, job.id) == [("stderr", "mine in my own way")]


def test_a_job_file_has_every_byte_of_all_attempts(queue: Queue, redis_url: str, prefix: str, tmp_path: Path) -> None:
    with serving({"render": talkers(output_dir=str(tmp_path), max_crashes=1)}, redis_url, prefix) as served:
        job = queue.add("floods", {"mb": 1, "dies": True})
        served.facts.wait(Settled, job_id=job.id, to="failed")
        text = (tmp_path / "render" / f"{job.id}.log").read_text()
    assert text.count("--- attempt 1, ") == 2, "a crash does not spend an attempt"
    assert text.count("x" * 99 + "\n") == 20_000
    assert text.count("the last line\n") == 2


def test_case_73_a_full_disk_costs_the_file_and_not_the_job(
    queue: Queue, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    try:
        with serving({"render": talkers(output_dir=str(tmp_path))}, redis_url, prefix) as served:
            job = queue.add("floods", {"mb": 1})
            assert served.facts.wait(Settled, job_id=job.id).to == "completed"
            [lost] = served.facts.all(OutputLost)
            assert "No space left" in lost.why
    finally:
        eventually(lambda: subprocess.run(["umount", str(tmp_path)], check=False).returncode == 0, "unmounted")
