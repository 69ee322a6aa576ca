"""Deleting and moving many jobs from the command line: what is done, what is said, and what is asked first."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import pytest
from test_cli import Sandq, assert_refused, said

from sandq.queue import Queue

LIMIT_S = 30


@pytest.fixture
def waiting(queue: Queue) -> Queue:
    """A queue with two jobs that wait and one that is delayed."""
    queue.add_many([("page", 1), ("page", 2), {"name": "page", "delay": "1h"}])
    return queue


def test_drain_says_what_it_deleted_and_what_it_left(sandq: Sandq, waiting: Queue) -> None:
    done = sandq("drain", "render")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 jobs deleted from render; 1 still delayed: --delayed takes those, too\n"
    assert said(sandq("drain", "render", "--delayed", "--json")) == {"queue": "render", "drained": 1}
    assert sum(waiting.counts().values()) == 0


def test_clean_deletes_what_is_older_than_its_grace(sandq: Sandq, waiting: Queue) -> None:
    kept = sandq("clean", "render", "--state", "waiting", "--grace", "1h")
    assert (kept.returncode, kept.stdout) == (0, "0 waiting jobs deleted from render\n")
    command = ("clean", "render", "--state", "waiting", "--grace", "0s", "--limit", "1", "--json")
    assert said(sandq(*command)) == {"queue": "render", "state": "waiting", "cleaned": 1, "ids": ["1"]}
    assert waiting.counts()["waiting"] == 1


def test_clean_wants_to_know_what_and_how_old(sandq: Sandq, waiting: Queue) -> None:
    assert_refused(sandq("clean", "render", "--grace", "1h"), 2, "--state")
    assert_refused(sandq("clean", "render", "--state", "failed"), 2, "--grace")
    assert_refused(sandq("clean", "render", "--state", "failed", "--grace", "long"), 2, "not a duration")
    assert waiting.counts()["waiting"] == 2


def test_obliterate_in_a_script_wants_a_yes(sandq: Sandq, waiting: Queue) -> None:
    assert_refused(sandq("obliterate", "render"), 2, "this deletes render with 3 jobs; say --yes")
    assert waiting.counts()["waiting"] == 2
    assert said(sandq("obliterate", "render", "--yes", "--json")) == {"queue": "render", "obliterated": 3}
    assert sandq("status").stdout == ""


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 2), ("y", 0, 0)])
def test_obliterate_on_a_terminal_asks_first(
    waiting: Queue, redis_url: str, prefix: str, tmp_path: Path, answer: str, code: int, left: int
) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "SANDQ_REDIS_URL": redis_url, "SANDQ_PREFIX": prefix}
    command = [sys.executable, "-m", "sandq", "obliterate", "render"]
    with Popen(command, stdin=theirs, stdout=DEVNULL, stderr=PIPE, env=env, cwd=tmp_path, text=True) as process:
        os.write(ours, f"{answer}\n".encode())
        _, told = process.communicate(timeout=LIMIT_S)
    os.close(ours)
    os.close(theirs)
    assert "Delete render with 3 jobs for good?" in told
    assert (process.returncode, waiting.counts()["waiting"]) == (code, left)


@pytest.mark.parametrize(
    "command",
    [
        ("drain",),
        ("clean", "--state", "failed", "--grace", "1h"),
        ("obliterate", "--yes"),
        ("promote", "--all"),
        ("retry", "--all"),
    ],
)
def test_a_mistyped_queue_is_not_made_and_a_near_one_is_named(
    sandq: Sandq,
    waiting: Queue,
    command: tuple[str, ...],
) -> None:
    name, *rest = command
    assert_refused(sandq(name, "rendre", *rest), 2, "did you mean render?")
    assert waiting.counts()["waiting"] == 2


def test_all_delayed_jobs_are_promoted_at_once(sandq: Sandq, waiting: Queue) -> None:
    assert_refused(sandq("promote", "render"), 2, "name one job ID, or --all")
    assert said(sandq("promote", "render", "--all", "--json")) == {"promoted": 1}  # as for one job that is named
    assert sandq("promote", "render", "--all").stdout == "0 jobs no longer wait for their time\n"
    assert waiting.counts()["waiting"] == 3


def test_a_job_is_removed_without_its_children_on_request(sandq: Sandq, queue: Queue) -> None:
    mother = queue.add("mother")
    child = queue.add("child", parent=mother)
    assert sandq("remove", "render", mother.id, "--keep-children").returncode == 0
    assert queue.state(child) == "waiting"
