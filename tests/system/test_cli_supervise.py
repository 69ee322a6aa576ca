"""The commands that start children: supervise, run, check, doctor, demo."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import eventually, wait_gone
from redis import Redis

from sandq.cli.supervise import STOPPED_EARLY
from sandq.queue import Queue

LIMIT_S = 45.0
PROCESSOR = """
import os, time

def process(job):
    print("working on", job.name)
    return {"twice": 2 * job.data["n"]}

def fails(job):
    raise ValueError("no such page")

def dies(job):
    os._exit(3)

def no_json(job):
    return {1, 2}

def waits(job):
    job.progress(1)
    while not os.path.exists(job.data["until"]):
        time.sleep(0.01)
    return "seen"
"""

SLOW = """
import os, time
from pathlib import Path

note = Path(__file__).with_name("note")
note.write_text(str(os.getpid()))
note.rename(note.with_name("pid"))
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(PROCESSOR)
    (tmp_path / "typo.py").write_text("def process(job:\n")
    (tmp_path / "slow.py").write_text(SLOW)
    return tmp_path


@pytest.fixture
def environ(redis_url: str, prefix: str) -> dict[str, str]:
    return {**os.environ, "SANDQ_REDIS_URL": redis_url, "SANDQ_PREFIX": prefix, "SANDQ_LOCK": "2s"}


@pytest.fixture
def sandq(folder: Path, environ: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sandq", *args]
        env = environ | more
        return subprocess.run(
            command, capture_output=True, text=True, env=env, cwd=folder, timeout=LIMIT_S, check=False
        )

    return run


@pytest.fixture
def start(folder: Path, environ: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `sandq ARGS` and go on; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sandq", *args]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environ, cwd=folder))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate(timeout=LIMIT_S)


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as opened:
        yield opened


def facts(lines: Any, wanted: str) -> Iterator[dict[str, Any]]:
    """The facts of one class in a JSON log, as they come."""
    return (fact for fact in map(json.loads, lines) if fact["fact"] == wanted)


def test_burst_runs_everything_that_waits_and_exits_0(sandq: Any, queue: Queue) -> None:
    jobs = queue.add_many([("page", {"n": n}) for n in range(5)])
    done = sandq("supervise", "render=jobs.py", "--burst", "--concurrency", "2", "--log-format", "json")
    assert (done.returncode, done.stdout) == (0, "")
    assert [queue.result(job, timeout=1) for job in jobs] == [{"twice": 2 * n} for n in range(5)]
    settled = [fact["job_id"] for fact in facts(done.stderr.splitlines(), "Settled")]
    assert sorted(settled) == sorted(job.id for job in jobs)
    announced = [fact["text"] for fact in facts(done.stderr.splitlines(), "Starting")]
    assert "lock 2s" in announced[0]
    assert "concurrency 2, keeps completed jobs 24h (at most 1000) and failed ones 7d" in announced[1]


def test_burst_on_a_paused_queue_fails_with_what_to_do(sandq: Any, queue: Queue) -> None:
    job = queue.add("page", {"n": 1})
    queue.pause()
    done = sandq("supervise", "render=jobs.py", "--burst")
    assert done.returncode == 1
    assert "sandq resume render" in done.stderr.splitlines()[-1]
    assert queue.state(job.id) == "waiting"


def test_on_a_terminal_the_live_view_shows_queues_and_happenings(
    folder: Path, environ: dict[str, str], queue: Queue
) -> None:
    queue.add("page", {"n": 1})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sandq", "supervise", "render=jobs.py", "--burst", "--concurrency", "1"]
    env = environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=env, cwd=folder) as serving:
        os.close(theirs)
        shown = b"".join(iter(lambda: read_terminal(ours), b"")).decode()
        assert serving.wait(LIMIT_S) == 0
        assert serving.stderr is not None
        assert b"Traceback" not in serving.stderr.read()
    os.close(ours)
    assert "heartbeat lag" in shown
    assert "job 1 (page) completed" in shown


def read_terminal(fd: int) -> bytes:
    """What the other side wrote; nothing once it closed, which a terminal reports as an error."""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""


def test_add_wait_prints_the_result_or_ends_with_the_reason(sandq: Any, start: Any) -> None:
    start("supervise", "render=jobs.py", "bad=jobs.py:fails", "--concurrency", "1", "--log-format", "text")
    good = sandq("add", "render", "page", "--data", '{"n": 21}', "--wait")
    assert (good.returncode, json.loads(good.stdout)) == (0, {"twice": 42})
    bad = sandq("add", "bad", "page", "--wait")
    assert (bad.returncode, bad.stdout) == (1, "")
    last = bad.stderr.splitlines()[-1]
    assert last == "sandq: job 1 failed: ValueError: no such page; see `sandq why bad 1`"


def test_sigterm_lets_a_running_job_finish_and_exits_0(sandq: Any, start: Any, queue: Queue, folder: Path) -> None:
    until = folder / "until"
    job = queue.add("page", {"until": str(until)})
    args = ("--concurrency", "1", "--lock", "1m", "--log-format", "json")  # such a lock is told of every 20 s
    serving = start("supervise", "render=jobs.py:waits", *args)
    next(facts(serving.stderr, "Progressed"))
    told = sandq("why", "render", job.id).stdout
    assert "This is attempt 1 of 1, its last" in told
    assert "its progress is 1" in told
    serving.send_signal(signal.SIGTERM)
    stopping = next(facts(serving.stderr, "Stopping"))
    assert (stopping["running"], stopping["run_on_s"], stopping["limit_s"]) == (1, {"render": 15.0}, 25.0)
    eventually(lambda: [info["state"] for info in queue.supervisors()] == ["stopping"], "status shows it", 10.0)
    assert sandq("status", "render").stdout.partition("\n\n")[0].endswith("  stopping")
    until.touch()
    assert serving.wait(LIMIT_S) == 0
    assert queue.result(job, timeout=1) == "seen"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_processor_loads_ends_the_start_in_order(
    start: Any, queue: Queue, folder: Path, number: signal.Signals
) -> None:
    job = queue.add("page", {"n": 1})
    serving = start("supervise", "render=slow.py", "--concurrency", "1", "--log-format", "json")
    eventually((folder / "pid").exists, "the processor loads")
    serving.send_signal(number)
    assert serving.wait(LIMIT_S) == 0
    assert json.loads(serving.stderr.read().splitlines()[-1])["text"] == STOPPED_EARLY
    wait_gone(int((folder / "pid").read_text()))
    assert (queue.state(job.id), queue.supervisors()) == ("waiting", [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_redis_is_asked_ends_the_start_in_order(
    start: Any, folder: Path, number: signal.Signals
) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "silent.sock"))
        silent.listen()
        serving = start("supervise", "render=jobs.py", "--redis", f"unix://{folder}/silent.sock")
        silent.settimeout(LIMIT_S)
        connection, _ = silent.accept()
        with connection:
            serving.send_signal(number)
            assert serving.wait(LIMIT_S) == 0
    assert serving.stderr.read() == f"sandq: {STOPPED_EARLY}\n"


def test_status_names_who_serves_a_queue(sandq: Any, start: Any) -> None:
    serving = start("supervise", "render=jobs.py", "--name", "box-7", "--concurrency", "1", "--log-format", "json")
    next(facts(serving.stderr, "ChildReady"))
    shown = json.loads(sandq("status", "render", "--json").stdout)["queues"]["render"]["supervisors"]
    assert [supervisor["name"] for supervisor in shown] == ["box-7"]
    assert "box-7" in sandq("status", "render").stdout


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        ([], 2, "nothing to serve"),
        (["render"], 2, "is not QUEUE=PATH"),
        (["render=missing.py"], 2, "missing.py"),
        (["render=typo.py"], 2, "typo.py"),
        (["render=jobs.py:nothing"], 2, "nothing"),
        (["render=jobs.py", "--lock", "1ms"], 2, "--lock"),
        (["render=jobs.py", "--config", "missing.toml"], 2, "missing.toml"),
        (["render=jobs.py", "--redis", "unix:///nowhere.sock"], 3, "nowhere.sock"),
    ],
)
def test_a_refused_start_is_one_line_and_touches_no_job(
    sandq: Any, queue: Queue, args: list[str], code: int, told: str
) -> None:
    job = queue.add("page", {"n": 1})
    done = sandq("supervise", *args, SANDQ_REDIS_TIMEOUT="300ms")
    assert done.returncode == code
    last = done.stderr.splitlines()[-1]
    assert last.startswith("sandq: ")
    assert told in last
    assert "Traceback" not in done.stderr
    assert queue.state(job.id) == "waiting"


def test_a_mistyped_variable_is_told_of_in_the_form_of_the_log(sandq: Any) -> None:
    slip = "the variable SANDQ_LOK is not a setting; did you mean SANDQ_LOCK?"
    served = sandq("supervise", "render=jobs.py", "--burst", "--log-format", "json", SANDQ_LOK="3s")
    assert served.returncode == 0
    assert [fact["text"] for fact in facts(served.stderr.splitlines(), "Starting")].count(slip) == 1
    ran = sandq("run", "jobs.py", "--data", '{"n": 4}', SANDQ_LOK="3s")
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (0, f"sandq: {slip}")


def test_a_drain_timeout_that_leaves_jobs_no_time_is_said_at_the_start(sandq: Any) -> None:
    done = sandq("supervise", "render=jobs.py", "--burst", "--drain-timeout", "8s", "--log-format", "json")
    assert done.returncode == 0
    announced = [fact["text"] for fact in facts(done.stderr.splitlines(), "Starting")]
    assert any("running jobs are stopped at once" in text and "drain_timeout 8s" in text for text in announced)


def test_an_evicting_redis_is_refused_with_the_fix(sandq: Any, make_server: Any) -> None:
    evicting = make_server("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb")
    done = sandq("supervise", "render=jobs.py", "--redis", evicting.url)
    assert done.returncode == 2
    assert "noeviction" in done.stderr.splitlines()[-1]


def test_run_prints_the_result_of_one_job_without_redis(sandq: Any) -> None:
    done = sandq("run", "jobs.py", "--data", '{"n": 4}', SANDQ_REDIS_URL="redis://nowhere.invalid")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"twice": 8})
    assert "working on" in done.stderr


NOISY = """
import sys

print("imported")

def setup():
    print("set up", file=sys.stderr)

def teardown():
    print("torn down")

def process(job):
    print("handled")
    return 1
"""


def test_run_shows_what_is_written_around_the_job_too_in_its_order(sandq: Any, folder: Path) -> None:
    (folder / "noisy.py").write_text(NOISY)
    done = sandq("run", "noisy.py")
    assert (done.returncode, done.stdout) == (0, "1\n")
    lines = done.stderr.splitlines()
    assert sorted(lines[:2]) == ["imported", "set up"]  # two pipes
    assert lines[2:] == ["handled", "torn down"]


def test_run_shows_what_a_processor_wrote_before_it_failed_to_load(sandq: Any, folder: Path) -> None:
    (folder / "noisy.py").write_text(NOISY.replace("def teardown", "    raise OSError('no model')\n\ndef teardown"))
    done = sandq("run", "noisy.py")
    assert (done.returncode, done.stdout) == (2, "")
    *lines, why = done.stderr.splitlines()
    assert sorted(lines) == ["imported", "set up"]
    assert "OSError: no model" in why


@pytest.mark.parametrize(
    ("function", "told"),
    [("fails", "ValueError: no such page"), ("dies", "exit code 3"), ("no_json", "of type set, is not JSON")],
)
def test_run_says_in_english_why_a_job_did_not_complete(sandq: Any, function: str, told: str) -> None:
    done = sandq("run", f"jobs.py:{function}")
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr


@pytest.mark.parametrize("processor", ["jobs.py:nothing", "missing.py", "typo.py"])
def test_run_refuses_what_it_cannot_load_in_one_line(sandq: Any, processor: str) -> None:
    done = sandq("run", processor)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert processor.rpartition(":")[2] in done.stderr


def test_check_loads_every_configured_processor_and_fails_if_one_is_broken(sandq: Any, folder: Path) -> None:
    (folder / "sandq.toml").write_text('[queues.render]\nprocessor = "jobs.py"\n')
    good = sandq("check")
    assert (good.returncode, good.stdout.count("\n")) == (0, 1)
    assert "ok: any job name" in good.stdout
    processors = {"render": "jobs.py", "bad": "typo.py", "worse": "no.py"}
    tables = (f'[queues.{queue}]\nprocessor = "{path}"\n' for queue, path in processors.items())
    (folder / "sandq.toml").write_text("".join(tables))
    bad = sandq("check", "--json")
    assert bad.returncode == 1
    assert {queue: result["ok"] for queue, result in json.loads(bad.stdout).items()} == {
        "render": True,
        "bad": False,
        "worse": False,
    }


def test_check_with_nothing_configured_is_a_usage_error(sandq: Any) -> None:
    done = sandq("check")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no queue is configured" in done.stderr


def test_doctor_looks_at_host_and_redis(sandq: Any) -> None:
    found = {finding["what"]: finding["level"] for finding in json.loads(sandq("doctor", "--json").stdout)}
    assert found["pidfd"] == found["timer"] == found["redis"] == found["eviction"] == "ok"
    assert found["persistence"] == "warn"


def test_doctor_fails_on_a_redis_that_evicts_or_does_not_answer(sandq: Any, make_server: Any) -> None:
    evicting = make_server("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb")
    done = sandq("doctor", "--redis", evicting.url)
    assert done.returncode == 1
    assert "CONFIG SET maxmemory-policy noeviction" in done.stdout
    gone = sandq("doctor", "--redis", "unix:///nowhere.sock")
    assert gone.returncode == 1
    assert "fail  redis" in gone.stdout


@pytest.mark.slow
def test_the_demo_loses_nothing_and_measures_it(sandq: Any) -> None:
    done = sandq("demo", "--packages", "4", "--concurrency", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 jobs completed" in done.stdout
    assert "stalled: 0" in done.stdout
    assert "demo: killing busy child" in done.stderr
    assert "(killed once)" in done.stdout
    assert "nothing was lost" in done.stdout


def test_a_demo_that_is_killed_leaves_no_server_behind(start: Any) -> None:
    demo = start("demo", "--packages", "4")
    folder = Path(demo.stderr.readline().strip().partition("private Redis in ")[2])
    with Redis.from_url(f"unix://{folder}/redis.sock") as client:
        server = int(client.info("server")["process_id"])
    demo.kill()
    wait_gone(server)
    shutil.rmtree(folder)  # what nobody was left to do
