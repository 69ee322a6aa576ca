"""What a job changed about its process is put back or told. Each case runs in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FRAME = """
import faulthandler, json, os, signal, sys, threading, time
from pathlib import Path
from sandq.child.fingerprint import Fingerprint, dump_on_request

dump_on_request()
{before}
own = Fingerprint()
{job}
left = own.restore({may_leave})
print(json.dumps([left, {after}]))
"""


def left_by(job: str, after: str = "None", before: str = "", may_leave: tuple[str, ...] = ()) -> tuple[str, Any]:
    """What a fresh process says after `job`, and the value of `after`."""
    job, before = textwrap.dedent(job), textwrap.dedent(before)
    code = FRAME.format(job=job, after=after, before=before, may_leave=may_leave)
    path = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "GIVEN": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=path, capture_output=True, text=True, cwd=ROOT, timeout=20
    )
    assert done.returncode == 0, done.stderr
    left, value = json.loads(done.stdout)
    return left, value


# -- put back ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "after", "expected"),
    [
        ("os.chdir('/')", "os.getcwd()", str(ROOT)),
        ("os.umask(0)", "os.umask(0) != 0", True),
        (
            "os.environ.update(GIVEN='2', NEW='x'); del os.environ['PATH']",
            "[os.environ.get(name) for name in ('GIVEN', 'NEW', 'PATH')]",
            ["1", None, "/usr/bin:/bin"],
        ),
        ("os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()", "time.timezone", 0),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "signal.getsignal(signal.SIGTERM) == signal.SIG_DFL", True),
        ("signal.signal(signal.SIGUSR2, signal.SIG_IGN)", "signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL", True),
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
            "len(signal.pthread_sigmask(signal.SIG_BLOCK, []))",
            0,
        ),
        ("signal.alarm(60)", "signal.alarm(0)", 0),
        ("sys.stdout = open('/dev/null', 'w')", "sys.stdout is sys.__stdout__", True),
        ("sys.stderr = None", "sys.stderr is sys.__stderr__", True),
        ("faulthandler.disable()", "faulthandler.is_enabled()", True),
    ],
)
def test_what_can_be_put_back_is_and_the_child_stays_fit(job: str, after: str, expected: Any) -> None:
    assert left_by(job, after) == ("", expected)


@pytest.mark.parametrize(
    "job",
    ["signal.signal(signal.SIGUSR1, signal.SIG_IGN)", "faulthandler.unregister(signal.SIGUSR1)", "pass"],
    ids=["ignored", "unregistered", "untouched"],
)
def test_a_stack_can_be_asked_for_after_any_job(job: str) -> None:
    read = "read, write = os.pipe(); kept = os.dup(2); os.dup2(write, 2)"
    dumped = "(os.kill(os.getpid(), signal.SIGUSR1), os.dup2(kept, 2), os.read(read, 99).decode())[2]"
    left, stack = left_by(job, dumped, before=read)
    assert (left, stack[:14]) == ("", "Current thread")


# -- told --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("threading.Thread(target=time.sleep, args=[9], name='t', daemon=True).start()", "left 1 thread running: t"),
        (
            "for n in range(5): threading.Thread(target=time.sleep, args=[9], name=f't{n}', daemon=True).start()",
            "left 5 threads running: t0, t1, t2 and 2 more",
        ),
        ("kept = open('/etc/passwd')", r"left 1 file open: \d+ \(/etc/passwd\)"),
        ("pipes = [os.pipe() for _ in range(5)]", r"left 10 files open: \d+ \(pipe:.*\), .* and 7 more"),
        ("os.close(0)", "closed what is not its own: file descriptor 0"),
        ("os.dup2(os.open('/dev/null', os.O_WRONLY), 2)", "replaced its standard input, output or error"),
        (
            "import subprocess; program = subprocess.Popen(['sleep', '0.5'])",
            r"left 1 process running: \d+ \(\w+\)",  # its name, or still ours: it may not have come that far
        ),
        (
            "import tempfile; gone = tempfile.mkdtemp(); os.chdir(gone); own = Fingerprint(); os.rmdir(gone)",
            "cannot return to its working directory: No such file or directory",
        ),
    ],
)
def test_what_cannot_be_put_back_is_told(job: str, said: str) -> None:
    left, _ = left_by(job)
    assert re.fullmatch(said, left), left


@pytest.mark.parametrize(
    "job",
    [
        "thread = threading.Thread(target=time.sleep, args=[0.01]); thread.start()",
        "circle = []; circle += [open('/etc/passwd'), circle]; del circle",
        "import subprocess; program = subprocess.Popen(['true'], stdout=subprocess.PIPE); program.communicate()",
        "os.fork() or os._exit(0); time.sleep(0.05)",
    ],
    ids=["thread about to end", "file in a cycle", "program that was waited for", "program that ended unseen"],
)
def test_what_goes_by_itself_is_not_held_against_a_job(job: str) -> None:
    assert left_by(job) == ("", None)


@pytest.mark.parametrize(
    "before",
    [
        "threading.Thread(target=time.sleep, args=[9], daemon=True).start()",
        "kept = open('/etc/passwd'); pipes = [os.pipe() for _ in range(3)]",
    ],
    ids=["thread", "files"],
)
def test_what_was_there_before_the_first_job_is_the_childs_own(before: str) -> None:
    assert left_by("pass", before=before) == ("", None)


def test_what_a_job_may_leave_by_its_settings_is_not_held_against_it_and_nothing_else() -> None:
    both = "kept = open('/etc/passwd'); threading.Thread(target=time.sleep, args=[9], name='t', daemon=True).start()"
    assert left_by(both, may_leave=("threads", "files")) == ("", None)
    assert left_by(both, may_leave=("files",)) == ("left 1 thread running: t", None)
    assert left_by(both, may_leave=("threads",))[0].startswith("left 1 file open: ")
    assert left_by("os.close(0)", may_leave=("files",))[0].startswith("closed what is not its own")


def test_a_clean_job_costs_less_than_100_us() -> None:
    measure = """
        def once():
            started = time.perf_counter()
            own.restore()
            return time.perf_counter() - started
        took = sorted(once() for _ in range(300))[150]
        """
    left, us = left_by(measure, "took * 1e6")
    print(f"fingerprint: {us:.0f} us")
    assert left == ""
    assert us < 100
