"""What a child can reach, and that isolation which a host cannot give refuses the start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from harness import HERE, Served, SupervisorProcess, eventually, serving, wait_gone
from redis import Redis
from redis.exceptions import NoPermissionError

from sandq.config import Limits, QueueSettings
from sandq.errors import StartRefused, StoreRefused
from sandq.job import Job
from sandq.queue import Queue
from sandq.supervisor.facts import Output, Settled, Started, StoreTrouble

if TYPE_CHECKING:
    from conftest import RedisServer

TALKERS = str(HERE / "talkers.py")
needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
BWRAP = ("bwrap", "--dev-bind", "/", "/", "--proc", "/proc", "--unshare-pid", "--unshare-net", "--die-with-parent")
SECRET = "s3cr3t-of-redis"


def talkers(**settings: Any) -> QueueSettings:
    base = {"processor": TALKERS, "concurrency": 1, "spares": 0, "soft_stop_s": 0.5, "term_stop_s": 0.2}
    return QueueSettings(**{**base, **settings})


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as queue:
        yield queue


def settled(served: Served, job: Job) -> Settled:
    return served.facts.wait(Settled, job_id=job.id)


# -- what reaches a child ----------------------------------------------------------------------------------------------


def test_neither_child_nor_launcher_carries_a_url_a_token_or_a_credential(
    queue: Queue, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDQ_REDIS_URL", f"redis://worker:{SECRET}@db.example:6379/0")
    monkeypatch.setenv("REDIS_URL", f"redis://worker:{SECRET}@db.example:6379/0")
    monkeypatch.setenv("DATABASE_PASSWORD", SECRET)
    monkeypatch.setenv("DECLARED", "yes")
    with serving({"render": talkers(env=("DECLARED", "SANDQ_REDIS_URL"))}, redis_url, prefix) as served:
        seen: dict[str, str] = queue.result(queue.add("reads-all"), timeout=20)
        supervisor = served.supervisor.id
    everything = json.dumps(seen)
    assert "DECLARED=yes" in seen["self/environ"], "what a queue declares does reach its children"
    for secret in (SECRET, "redis://", redis_url, redis_url.removeprefix("unix://"), f"{supervisor}:", "SANDQ_REDIS"):
        assert secret not in everything
    assert {name for name in seen if name.startswith("fd ")} >= {"fd 0", "fd 1", "fd 2"}
    assert seen["fd 0"] == "/dev/null"
    others = [at for name, at in seen.items() if name.startswith("fd ") and int(name[3:]) > 2]
    assert len([at for at in others if at.startswith("socket:")]) == 2, "its own channel and mailbox, no other socket"
    assert not [at for at in others if not at.startswith("socket:") and not at.startswith("/proc/")]


# -- level 1 -----------------------------------------------------------------------------------------------------------


def test_level_1_limits_files_and_their_size_and_gains_no_privileges(queue: Queue, redis_url: str, prefix: str) -> None:
    asked = {"files": 200, "size": 3 << 20}
    with serving({"render": talkers()}, redis_url, prefix):
        assert queue.result(queue.add("tries", asked), timeout=20) == {"files": "ok", "size": "ok", "NoNewPrivs": "0"}
    limits = Limits(open_files=100, file_size=2 << 20)
    with serving({"render": talkers(isolation=1, rlimits=limits)}, redis_url, prefix):
        denied = {"files": "Too many open files", "size": "File too large", "NoNewPrivs": "1"}
        assert queue.result(queue.add("tries", asked), timeout=20) == denied


def test_level_1_gives_each_child_a_temporary_folder_that_goes_with_it(
    queue: Queue, redis_url: str, prefix: str
) -> None:
    with serving({"render": talkers(isolation=1, recycle_after=1)}, redis_url, prefix):
        folder, *before = queue.result(queue.add("leaves-a-file"), timeout=20)
        another, *inherited = queue.result(queue.add("leaves-a-file"), timeout=20)
        eventually(lambda: not Path(folder).exists(), "the first child's folder is gone")
    assert (before, inherited) == ([], [])
    assert folder != another
    assert not Path(another).parent.exists(), "the supervisor leaves none behind"


def test_what_a_killed_supervisor_left_the_next_one_sweeps(queue: Queue, redis_url: str, prefix: str) -> None:
    with SupervisorProcess(redis_url, prefix, processor=TALKERS, isolation=1) as killed:
        folder, *_ = queue.result(queue.add("leaves-a-file"), timeout=20)
        killed.kill()
        assert Path(folder).exists()
    with serving({"render": talkers(isolation=1)}, redis_url, prefix):
        eventually(lambda: not Path(folder).parent.exists(), "swept")


@pytest.mark.slow
def test_cpu_seconds_are_counted_anew_for_each_job(queue: Queue, redis_url: str, prefix: str) -> None:
    settings = talkers(isolation=1, rlimits=Limits(cpu_s=1.0), max_crashes=0)
    with serving({"render": settings}, redis_url, prefix) as served:
        for _ in range(3):
            assert settled(served, queue.add("burns", {"s": 0.6})).to == "completed"
        spent = settled(served, queue.add("burns", {"s": 60}))
        pids = {fact.pid for fact in served.facts.all(Started)}
    assert (spent.outcome, spent.to) == ("Crashed", "failed")
    assert "SIGXCPU" in spent.reason
    assert len(pids) == 1, "one child ran them all: together they used more than the limit"


def test_a_level_that_the_host_cannot_give_refuses_the_start_and_says_why(redis_url: str, prefix: str) -> None:
    wrap = ("sh", "-c", 'unset TMPDIR TEMP TMP; exec "$@"', "sh")
    with (
        pytest.raises(StartRefused, match=r"queue render.*tmp: temporary files go to"),
        serving({"render": talkers(isolation=1, wrap=wrap)}, redis_url, prefix),
    ):
        pass


def test_doctor_proves_each_level_and_fails_on_one_that_a_queue_asks_for(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "sandq.toml").write_text(
        f'''
        redis = "{redis_url}"
        [queues.strict]
        processor = "{TALKERS}"
        isolation = 1
        rlimits = {{ open_files = 100 }}
        [queues.broken]
        processor = "{TALKERS}"
        wrap = ["false"]
        '''
    )
    done = subprocess.run(
        [sys.executable, "-m", "sandq", "doctor", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        check=False,
    )
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert [found[what]["level"] for what in ("isolation 0", "isolation 1", "queue strict")] == ["ok"] * 3
    assert found["queue broken"]["level"] == "fail"
    assert "exit 1" in found["queue broken"]["text"]
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("wrap", "why"), [(("no-such-program",), "no program 'no-such-program'"), (("false",), "exit 1")]
)
def test_a_wrapper_that_does_not_start_children_refuses_the_start(
    redis_url: str, prefix: str, wrap: tuple[str, ...], why: str
) -> None:
    with pytest.raises(StartRefused, match=why), serving({"render": talkers(wrap=wrap)}, redis_url, prefix):
        pass


# -- wrap --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_bwrap
def test_a_wrapper_that_lets_its_child_outlive_the_launcher_refuses_the_start(redis_url: str, prefix: str) -> None:
    careless = tuple(part for part in BWRAP if part != "--die-with-parent")
    with (
        pytest.raises(StartRefused, match="--die-with-parent"),
        serving({"render": talkers(wrap=careless)}, redis_url, prefix),
    ):
        pass


@pytest.fixture
def wrapped(redis_url: str, prefix: str) -> Iterator[Served]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    with serving({"render": talkers(wrap=BWRAP, max_crashes=0)}, redis_url, prefix) as served:
        yield served


def test_a_wrapped_child_runs_jobs_and_sees_no_other_process(queue: Queue, wrapped: Served) -> None:
    job = queue.add("every-way")
    assert settled(wrapped, job).to == "completed"
    assert wrapped.facts.all(Output, job_id=job.id, line="from a program")
    seen = queue.result(queue.add("reads-all"), timeout=20)
    assert "sandq.supervisor.launcher" not in json.dumps(seen)


def test_a_wrapped_handler_still_hears_a_soft_stop(queue: Queue, wrapped: Served) -> None:
    job = queue.add("stops-softly", timeout=0.3)
    assert settled(wrapped, job).to == "completed"
    assert queue.result(job, timeout=5) == "stopped softly"


@pytest.mark.slow
def test_killing_a_wrapped_child_ends_everything_inside(queue: Queue, wrapped: Served) -> None:
    job = queue.add("ignores-all")
    wrapped.facts.wait(Output, job_id=job.id)
    outer = wrapped.facts.wait(Started, job_id=job.id).pid
    inside = [process.pid for process in psutil.Process(outer).children(recursive=True)]
    assert inside
    queue.cancel(job.id)
    assert settled(wrapped, job).outcome == "Cancelled"
    for pid in inside:
        wait_gone(pid)


def test_a_signal_that_ends_a_wrapped_child_is_named(queue: Queue, wrapped: Served) -> None:
    end = settled(wrapped, queue.add("kills-itself"))
    assert end.outcome == "Crashed"
    assert "SIGKILL" in end.reason


@needs_bwrap
def test_a_wrapped_child_is_dead_when_its_launcher_was_killed(queue: Queue, redis_url: str, prefix: str) -> None:
    with SupervisorProcess(redis_url, prefix, processor=TALKERS, wrap=BWRAP, lock_s=2.0) as supervisor:
        job = queue.add("ignores-all")
        started = supervisor.facts.wait(Started, job_id=job.id)
        supervisor.facts.wait(Output, job_id=job.id)
        inside = psutil.Process(started.pid).children(recursive=True)
        supervisor.signal(signal.SIGKILL, supervisor.launcher)
        for process in inside:
            wait_gone(process.pid)
        supervisor.facts.wait(Started, job_id=job.id, nth=2)


# -- redis -------------------------------------------------------------------------------------------------------------


def test_the_redis_users_of_the_docs_can_do_their_work_and_nothing_else(server: RedisServer) -> None:
    text = (HERE.parent / "docs" / "security.md").read_text()
    with server.client() as admin:
        for line in text.splitlines():
            if line.startswith("ACL SETUSER"):
                admin.execute_command(*line.split())

    def url(user: str) -> str:
        return server.url.replace("unix://", f"unix://{user}:PASSWORD@")

    with (
        serving({"render": talkers()}, url("worker"), "bull") as served,
        Queue("render", redis=url("producer")) as producer,
        Queue("render", redis=url("reader")) as reader,
        Redis.from_url(url("worker"), protocol=2) as worker,
    ):
        assert producer.result(producer.add("ok", 5), timeout=20) == 5
        failed = producer.add("raises")
        assert settled(served, failed).to == "failed"
        assert served.facts.all(StoreTrouble) == []
        assert reader.counts()["failed"] == 1
        assert reader.state(failed.id) == "failed"
        with pytest.raises(StoreRefused):
            reader.add("ok")
        for command in ("FLUSHALL", "CONFIG GET *", "GET other", "KEYS *"):
            with pytest.raises(NoPermissionError):
                worker.execute_command(*command.split())
