"""The command line as people and scripts use it: a process with arguments, two outputs and an exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_gone

from sandq.queue import Queue

LIMIT_S = 30.0
Sandq = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sandq(redis_url: str, prefix: str, tmp_path: Path) -> Sandq:
    """Run `sandq ARGS` in an empty folder, on the shared server and a prefix of this test's own."""

    def run(*args: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "SANDQ_REDIS_URL": redis_url, "SANDQ_PREFIX": prefix, **environ}
        command = [sys.executable, "-m", "sandq", *args]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=LIMIT_S, check=False
        )

    return run


@pytest.fixture
def queue(redis_url: str, prefix: str, queue_name: str) -> Iterator[Queue]:
    with Queue(queue_name, redis=redis_url, prefix=prefix) as opened:
        yield opened


def said(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command printed; it must have succeeded, and silently."""
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def assert_refused(done: subprocess.CompletedProcess[str], code: int, told: str) -> None:
    """One line on stderr, nothing on stdout, this exit code."""
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("sandq: ")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr


def test_an_added_job_is_shown_with_all_that_was_said_about_it(sandq: Sandq) -> None:
    options = ["--attempts", "3", "--backoff", "exponential:1s", "--timeout", "2m", "--priority", "5"]
    added = sandq("add", "render", "page", "--data", '{"n": 1}', *options)
    assert added.returncode == 0
    job = said(sandq("job", "render", added.stdout.strip(), "--json"))
    assert (job["name"], job["state"], job["data"]) == ("page", "prioritized", {"n": 1})
    assert (job["attempts"], job["priority"]) == (3, 5)
    assert job["opts"]["backoff"] == {"type": "exponential", "delay": 1000}
    assert job["opts"]["sq"] == {"timeout": 120000}
    shown = sandq("job", "render", job["id"], "--logs").stdout
    assert "name" in shown
    assert "prioritized" in shown


def test_data_comes_from_an_argument_a_file_or_stdin(sandq: Sandq, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"from": "file"}')
    by_file = said(sandq("add", "render", "page", "--data", "@data.json", "--json"))["ids"][0]
    by_stdin = said(sandq("add", "render", "page", "--data", "-", "--json", stdin='{"from": "stdin"}'))["ids"][0]
    waiting = said(sandq("jobs", "render", "--state", "waiting", "--json"))
    assert {job["id"]: job["data"]["from"] for job in waiting} == {by_file: "file", by_stdin: "stdin"}


def test_status_counts_what_was_added_in_bulk_and_finds_the_queues_itself(sandq: Sandq) -> None:
    ids = sandq("add", "render", "page", "--count", "1500").stdout.split()
    assert len(set(ids)) == 1500
    assert sandq("add", "mail", "send", "--delay", "1h").returncode == 0
    found = said(sandq("status", "--json"))["queues"]
    assert sorted(found) == ["mail", "render"]
    assert found["render"]["counts"]["waiting"] == 1500
    assert found["mail"]["counts"]["delayed"] == 1
    table = sandq("status").stdout.splitlines()
    assert table[0].split()[:2] == ["QUEUE", "WAITING"]
    assert table[2].split()[:2] == ["render", "1500"]
    assert "no supervisor" in table[2]


def test_status_of_an_empty_redis_says_so_and_succeeds(sandq: Sandq) -> None:
    done = sandq("status")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no queue under the prefix" in done.stderr


def test_a_cancelled_job_is_failed_and_told_why_and_can_be_retried(sandq: Sandq, queue: Queue) -> None:
    job_id = queue.add("page").id
    cancelled = said(sandq("cancel", "render", job_id, "--reason", "wrong colour", "--json"))
    assert cancelled == {"id": job_id, "cancelled": "was_waiting"}
    assert queue.state(job_id) == "failed"
    told = sandq("why", "render", job_id).stdout
    assert "wrong colour" in told
    assert f"sandq retry render {job_id}" in told
    assert "was cancelled" in told
    kept = sandq("retry", "render", "--all")
    assert (kept.returncode, kept.stdout.split(";")[0]) == (0, "0 jobs wait again")
    assert "--cancelled" in kept.stdout
    assert said(sandq("retry", "render", "--all", "--cancelled", "--json")) == {"retried": 1}
    assert queue.state(job_id) == "waiting"


def test_a_second_cancel_is_refused(sandq: Sandq, queue: Queue) -> None:
    job_id = queue.add("page").id
    queue.cancel(job_id)
    assert_refused(sandq("cancel", "render", job_id), 1, "already done")


def test_a_delayed_job_is_promoted_and_a_waiting_one_removed(sandq: Sandq, queue: Queue) -> None:
    job_id = queue.add("page", delay="1h").id
    assert said(sandq("promote", "render", job_id, "--json")) == {"promoted": 1}
    assert queue.state(job_id) == "waiting"
    assert said(sandq("remove", "render", job_id, "--json")) == {"removed": job_id}
    assert queue.counts()["waiting"] == 0


def test_pause_and_resume_are_seen_by_everybody(sandq: Sandq, queue: Queue) -> None:
    job_id = queue.add("page").id
    assert said(sandq("pause", "render", "--json")) == {"queue": "render", "paused": True}
    assert queue.paused()
    assert "paused" in sandq("status", "render").stdout
    assert "`sandq resume render`" in sandq("why", "render", job_id).stdout
    assert said(sandq("resume", "render", "--json")) == {"queue": "render", "paused": False}
    assert not queue.paused()
    assert sandq("resume", "render").stdout == "render was not paused\n"


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_typo_makes_no_queue(sandq: Sandq, queue: Queue, command: str) -> None:
    queue.add("page")
    assert_refused(sandq(command, "rende"), 2, "there is no queue rende under the prefix")
    assert "did you mean render?" in sandq(command, "rende").stderr
    assert list(said(sandq("status", "--json"))["queues"]) == ["render"]


UNKNOWN = "there is no queue rende under the prefix"


@pytest.mark.parametrize(
    ("args", "printed"),
    [
        (["jobs", "rende", "--json"], "[]\n"),
        (["jobs", "rende"], ""),
        (["schedule", "list", "rende"], ""),
        (["status", "rende", "--json"], '"waiting": 0'),
    ],
)
def test_a_queue_that_nobody_knows_is_read_as_empty_with_a_hint(
    sandq: Sandq, queue: Queue, args: list[str], printed: str
) -> None:
    queue.add("page")
    done = sandq(*args)
    assert done.returncode == 0
    assert printed in done.stdout
    assert bool(printed) == bool(done.stdout)
    assert done.stderr.startswith(f"sandq: {UNKNOWN}")
    assert done.stderr.endswith("it has no job and no worker yet; did you mean render?\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "why",
        "schedule remove",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("job", "cancel", "retry", "promote", "remove")),
    ],
)
def test_an_id_in_a_queue_that_nobody_knows_is_missing_for_that_reason(
    sandq: Sandq, queue: Queue, command: str
) -> None:
    job_id = queue.add("page").id
    done = sandq(*command.split(), "rende", job_id)
    assert_refused(done, 1, UNKNOWN)
    assert "did you mean render?" in done.stderr
    known = sandq(*command.split(), "render", "404")
    assert_refused(known, 1, "404")
    assert "did you mean" not in known.stderr


def test_a_queue_that_a_file_names_or_that_was_used_is_known(sandq: Sandq, queue: Queue, tmp_path: Path) -> None:
    queue.remove(queue.add("page"))
    assert said(sandq("jobs", "render", "--json")) == []
    assert sandq("jobs", "render").stderr == "sandq: no failed job in render\n"
    (tmp_path / "sandq.toml").write_text('[queues.later]\nprocessor = "later.py"\n')
    assert said(sandq("jobs", "later", "--json")) == []


def test_events_of_a_queue_that_nobody_knows_yet_begin_with_its_first_job(
    redis_url: str, prefix: str, queue: Queue, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "sandq", "events", "render", "--since", "0", "--json"]
    env = {**os.environ, "SANDQ_REDIS_URL": redis_url, "SANDQ_PREFIX": prefix}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=env, cwd=tmp_path, text=True) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert following.stderr.readline().startswith("sandq: there is no queue render under the prefix")
        job_id = queue.add("page").id
        assert json.loads(following.stdout.readline())["jobId"] == job_id
        following.send_signal(signal.SIGINT)
        assert ended(following).returncode == 0


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """What it wrote last, once it has ended; it is killed if it does not."""
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_who_waits_learns_that_nobody_serves_and_on_ctrl_c_which_job_stays(
    redis_url: str, prefix: str, queue: Queue, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "sandq", "add", "render", "page", "--wait"]
    env = {**os.environ, "SANDQ_REDIS_URL": redis_url, "SANDQ_PREFIX": prefix}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=env, cwd=tmp_path, text=True) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "sandq: job 1 waits; no supervisor serves queue render\n"
        waiting.send_signal(signal.SIGINT)
        told = ended(waiting).stderr
        assert waiting.returncode == 130
    assert told.startswith("sandq: job 1 stays in queue render; see `sandq why render 1`")
    assert told.count("\n") == 1
    assert queue.state("1") == "waiting"


def test_events_are_one_json_line_each_and_ctrl_c_ends_them_well(
    redis_url: str, prefix: str, queue: Queue, tmp_path: Path
) -> None:
    job_id = queue.add("page").id
    command = [sys.executable, "-m", "sandq", "events", "render", "--since", "0", "--json"]
    env = {**os.environ, "SANDQ_REDIS_URL": redis_url, "SANDQ_PREFIX": prefix}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, cwd=tmp_path, text=True) as following:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        assert (first["event"], first["jobId"]) == ("added", job_id)
        assert (first["event_id"].count("-"), first["after_gap"]) == (1, False)
        following.send_signal(signal.SIGINT)
        assert ended(following).returncode == 0


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["job", "render", "404"], 1, "404"),
        (["retry", "render", "404"], 1, "404"),
        (["retry", "render"], 2, "--all"),
        (["retry", "render", "1", "--cancelled"], 2, "--all"),
        (["add", "render"], 2, "NAME"),
        (["add", "render", "page", "--data", "{oops"], 2, "--data is not JSON"),
        (["add", "render", "page", "--data", "@nowhere.json"], 2, "nowhere.json cannot be read"),
        (["add", "render", "page", "--delay", "soon"], 2, "'soon' is not a duration"),
        (["add", "render", "page", "--count", "2", "--job-id", "a"], 2, "--job-id names one job"),
        (["add", "ren:der", "page"], 2, "ren:der"),
        (["jobs", "render", "--state", "lost"], 2, "lost"),
        (["stauts"], 2, "stauts"),
        (["status", "--redis", "http://x"], 2, "redis://"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(sandq: Sandq, args: list[str], code: int, told: str) -> None:
    assert_refused(sandq(*args), code, told)


def test_a_redis_that_is_not_there_is_exit_code_3(sandq: Sandq, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nowhere.sock"
    assert_refused(sandq("status", "render", SANDQ_REDIS_URL=nowhere, SANDQ_REDIS_TIMEOUT="300ms"), 3, "nowhere.sock")


def test_debug_shows_the_traceback(sandq: Sandq) -> None:
    done = sandq("job", "render", "404", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_reader_that_leaves_early_is_no_error(redis_url: str, prefix: str, queue: Queue, tmp_path: Path) -> None:
    queue.add_many([("page", {"text": "x" * 10_000})] * 100)
    command = f"{sys.executable} -m sandq jobs render --state waiting --limit 100 --json | head -c 1"
    env = {**os.environ, "SANDQ_REDIS_URL": redis_url, "SANDQ_PREFIX": prefix}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        env=env,
        cwd=tmp_path,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"[", b"")


def test_without_any_url_a_private_server_is_used_and_named_in_one_line(sandq: Sandq, tmp_path: Path) -> None:
    added = sandq("add", "render", "page", SANDQ_REDIS_URL="", SANDQ_HOME=str(tmp_path / "home"))
    assert added.returncode == 0
    assert added.stderr.count("\n") == 1
    assert str(tmp_path / "home") in added.stderr
    wrong = sandq("add", "render", "page", "--data", "{oops", SANDQ_REDIS_URL="", SANDQ_HOME=str(tmp_path / "home"))
    assert_refused(wrong, 2, "--data is not JSON")
    again = sandq("status", "--json", SANDQ_REDIS_URL="", SANDQ_HOME=str(tmp_path / "home"))
    assert again.stderr == ""
    assert json.loads(again.stdout)["queues"]["render"]["counts"]["waiting"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_command_that_is_told_to_end_leaves_no_private_server_behind(tmp_path: Path, number: int) -> None:
    home = tmp_path / "home"
    env = {**os.environ, "SANDQ_REDIS_URL": "", "SANDQ_HOME": str(home)}
    command = [sys.executable, "-m", "sandq", "add", "render", "page", "--wait"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=env, cwd=tmp_path, text=True) as waiting:
        assert waiting.stderr is not None
        assert "private one" in waiting.stderr.readline()
        assert "no supervisor serves" in waiting.stderr.readline()
        server = int((home / "server.pid").read_text())
        waiting.send_signal(number)
        assert ended(waiting).returncode == 128 + number
    wait_gone(server)


def test_help_costs_no_more_than_twice_an_interpreter_with_click() -> None:
    def took(*args: str) -> float:
        started = time.perf_counter()
        # No timeout here: subprocess would then poll, in steps as long as what is measured. The test has its own.
        subprocess.run([sys.executable, *args], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started

    # Taken in turns and the fastest of each: a busy machine only ever adds.
    pairs = [(took("-m", "sandq", "--help"), took("-c", "import click")) for _ in range(7)]
    ours, floor = (min(times) for times in zip(*pairs, strict=True))
    assert ours <= 2 * floor


def test_help_names_every_command_and_each_command_has_its_own() -> None:
    from click.testing import CliRunner

    from sandq.cli.main import COMMANDS, group

    runner = CliRunner()
    listed = runner.invoke(group, ["--help"]).output
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        assert f"Usage: sandq {name} " in runner.invoke(group, [name, "--help"], prog_name="sandq").output
