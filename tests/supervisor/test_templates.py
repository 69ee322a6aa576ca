"""A template runs user code, so the launcher believes nothing it cannot check."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandq.supervisor.spawn import Started
from sandq.supervisor.templates import Answer, Templates

NUMBER, CHILD = 3, 4
FRAME = """
import json, os, socket, sys, time
control = socket.socket(fileno=int(sys.argv[1]))
packet, fds, _, _ = socket.recv_fds(control, 4096, 4)
say = lambda **message: control.send(json.dumps(message).encode())
child = json.loads(packet)["child"]
{answer}
time.sleep(60)
"""
HONEST = """
if os.fork() == 0:
    pid = os.fork()
    if pid:
        say(child=child, pid=pid)
        os.read(fds[3], 1)
        os._exit(0)
"""

Fake = Callable[[str], tuple[Templates, Started]]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    """Start a template that answers as told, and ask it for a child."""
    started: list[tuple[Templates, Started]] = []

    def start(answer: str) -> tuple[Templates, Started]:
        script = tmp_path / "template.py"
        script.write_text(FRAME.format(answer=answer))
        templates = Templates()
        started.append((templates, templates.start(NUMBER, [sys.executable, "-S", str(script)], {})))
        templates.ask(NUMBER, CHILD)
        return started[-1]

    yield start
    for templates, template in started:
        os.killpg(template.pid, signal.SIGKILL)
        os.waitpid(template.pid, 0)
        template.close_supervisor_ends()
        os.close(template.pidfd)
        list(templates.end(NUMBER))


def heard(templates: Templates) -> list[Answer]:
    """What the launcher makes of the next thing that is said."""
    ready, _, _ = select.select(templates.fds(), [], [], 10)
    assert ready
    return list(templates.answers(set(ready)))


def test_a_grandchild_is_believed_and_its_ends_are_handed_over(fake: Fake) -> None:
    templates, template = fake(HONEST)
    [(number, child)] = heard(templates)
    assert isinstance(child, Started)
    assert number == CHILD
    assert os.getpgid(child.pid) == template.pid
    os.close(child.pidfd)
    child.close_supervisor_ends()


@pytest.mark.parametrize(
    "pid",
    ["os.getpid()", "os.getppid()", "1", "os.fork() or time.sleep(60)", "-1", "0", "None", "'1'", "True", "1 << 40"],
    ids=["itself", "the launcher", "init", "a child", "minus one", "zero", "none", "text", "true", "too large"],
)
def test_any_other_pid_is_refused(fake: Fake, pid: str) -> None:
    templates, _ = fake(f"say(child=child, pid={pid})")
    [(number, why)] = heard(templates)
    assert number == CHILD
    assert isinstance(why, str)


def test_why_it_cannot_fork_is_passed_on(fake: Fake) -> None:
    templates, _ = fake("say(child=child, error='no processes left')")
    assert heard(templates) == [(CHILD, "no processes left")]


@pytest.mark.parametrize(
    "junk",
    ["control.send(b'{')", "control.send(b'[' * 4000)", "say(child=[])", "say(pid=1)", "say(child=99, pid=1)"],
)
def test_what_answers_nothing_that_was_asked_is_ignored(fake: Fake, junk: str) -> None:
    templates, _ = fake(f"{junk}; say(child=child, error='at last')")
    assert heard(templates) == []
    assert heard(templates) == [(CHILD, "at last")]


def test_a_template_that_closes_its_end_brings_no_child_any_more(fake: Fake) -> None:
    templates, _ = fake("control.close()")
    assert heard(templates) == [(CHILD, "its template has ended")]
    assert templates.fds() == []
    with pytest.raises(ProcessLookupError, match="has ended"):
        templates.ask(NUMBER, CHILD)


def test_the_end_of_a_template_answers_what_was_asked_of_it_and_leaves_no_file_open(fake: Fake) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    templates, template = fake("")
    assert list(templates.end(NUMBER)) == [(CHILD, "its template has ended")]
    assert list(templates.end(NUMBER)) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before + len(template.supervisor_ends)
