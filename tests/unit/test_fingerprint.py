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
report = os.dup(1)
{before}
own = Fingerprint()
{job}
left = own.restore({may_leave})
os.write(report, json.dumps([left, {after}]).encode())
"""

# As Linux was before 6.2: the size of /proc/self/fd says nothing.
NO_COUNT = "import gc, sandq.child.fingerprint; sandq.child.fingerprint._fd_count = lambda _: 0"


FULL_COLLECTIONS = "gc.get_stats()[2]['collections']"  # only what has to look for something pays for one


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
        ("os.environ = {'GIVEN': '2'}", "os.environ['GIVEN']", "1"),
        ("os.environb.clear()", "os.environ['GIVEN']", "1"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "signal.getsignal(signal.SIGTERM) == signal.SIG_DFL", True),
        ("signal.signal(signal.SIGWINCH, print)", "signal.getsignal(signal.SIGWINCH) == signal.SIG_DFL", True),
        ("signal.signal(signal.SIGUSR2, signal.SIG_IGN)", "signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL", True),
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
            "len(signal.pthread_sigmask(signal.SIG_BLOCK, []))",
            0,
        ),
        ("signal.alarm(60)", "signal.alarm(0)", 0),
        ("signal.setitimer(signal.ITIMER_VIRTUAL, 60)", "signal.getitimer(signal.ITIMER_VIRTUAL)[0]", 0),
        ("signal.setitimer(signal.ITIMER_PROF, 60)", "signal.getitimer(signal.ITIMER_PROF)[0]", 0),
        ("os.set_blocking(2, False); signal.set_wakeup_fd(2)", "signal.set_wakeup_fd(-1)", -1),
        ("sys.stdout = open('/dev/null', 'w')", "sys.stdout is sys.__stdout__", True),
        ("sys.stderr = None", "sys.stderr is sys.__stderr__", True),
        ("sys.stdin = open('/dev/null')", "sys.stdin is sys.__stdin__", True),
        ("faulthandler.disable()", "faulthandler.is_enabled()", True),
    ],
)
def test_what_can_be_put_back_is_and_the_child_stays_fit(job: str, after: str, expected: Any) -> None:
    assert left_by(job, after) == ("", expected)


@pytest.mark.parametrize(
    "job",
    [
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "signal.signal(signal.SIGUSR1, signal.SIG_DFL)",
        "faulthandler.unregister(signal.SIGUSR1)",
        "pass",
    ],
    ids=["ignored", "default", "unregistered", "untouched"],
)
def test_a_stack_can_be_asked_for_after_any_job(job: str) -> None:
    read = "read, write = os.pipe(); kept = os.dup(2); os.dup2(write, 2)"
    dumped = "(os.kill(os.getpid(), signal.SIGUSR1), os.dup2(kept, 2), os.read(read, 99).decode())[2]"
    left, stack = left_by(job, dumped, before=read)
    assert (left, stack[:14]) == ("", "Current thread")


@pytest.mark.parametrize("handler", ["SIG_IGN", "SIG_DFL"])
def test_a_crash_in_c_code_leaves_a_stack_after_any_job(handler: str) -> None:
    """Seen in a forked process, which crashes in the place of this one."""
    before = """
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        read, write = os.pipe()
        """
    job = f"""
        signal.signal(signal.SIGSEGV, signal.{handler})
        own.restore()
        os.waitpid(os.fork() or (os.dup2(write, 2), os.kill(os.getpid(), signal.SIGSEGV)), 0)
        """
    left, stack = left_by(job, "os.read(read, 999).decode()", before)
    assert stack.startswith("Fatal Python error: Segmentation fault"), left


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
        ("os.close(1)", "closed what is not its own: file descriptor 1"),
        ("os.dup2(os.open('/dev/zero', os.O_RDONLY), 0)", "replaced its standard input, output or error"),
        ("os.dup2(2, 1)", "replaced its standard input, output or error"),
        ("os.dup2(os.open('/dev/null', os.O_WRONLY), 2)", "replaced its standard input, output or error"),
        ("os.dup2(os.pipe()[0], 0)", "replaced its standard input, output or error"),
        (
            "import subprocess; program = subprocess.Popen(['sleep', '0.5'])",
            r"left 1 process running: \d+ \(\w+\)",  # its name, or still ours: it may not have come that far
        ),
        (
            "import tempfile; gone = tempfile.mkdtemp(); os.chdir(gone); was, own = own, Fingerprint(); os.rmdir(gone)",
            "cannot return to its working directory: No such file or directory",
        ),
    ],
)
def test_what_cannot_be_put_back_is_told(job: str, said: str) -> None:
    left, _ = left_by(job)
    assert re.fullmatch(said, left), left


@pytest.mark.parametrize("fd", [0, 1, 2])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_another_file_in_the_place_of_a_standard_one_is_told_whatever_kind_it_is(fd: int, kind: str) -> None:
    """A pipe and a file each in place of one of its own kind: as many are open, and nothing else differs."""
    make = {"pipe": "pipes.append(os.pipe()); end = pipes[-1][0]", "file": "end = os.memfd_create('x')"}[kind]
    place = f"{make}; os.dup2(end, {fd}); end > 2 and {kind == 'file'} and os.close(end)"
    left, _ = left_by(place, before=f"pipes = []; {place}")
    assert left == "replaced its standard input, output or error"


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_standard_file_that_was_opened_anew_is_the_same_file(fd: int) -> None:
    before = f"import gc; pipe = os.pipe(); os.dup2(pipe[1], {fd})"
    job = f"again = os.open('/proc/self/fd/{fd}', os.O_WRONLY); os.dup2(again, {fd}); os.close(again)"
    job += f"; before = {FULL_COLLECTIONS}"
    assert left_by(job, f"{FULL_COLLECTIONS} - before", before) == ("", 0)


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


def test_what_takes_the_place_of_the_childs_own_is_not_taken_for_it() -> None:
    """As many threads and as many files as before are not enough."""
    start = "threading.Thread(target={0}.wait, name='{0}', daemon=True).start()"
    before = f"""
        first, second = threading.Event(), threading.Event()
        {start.format("first")}
        os.dup2(0, 50)
        """
    job = f"{start.format('second')}; first.set(); os.close(50); kept = open('/etc/passwd')"
    wait = "; [thread.join() for thread in threading.enumerate() if thread.name == 'first']"
    said = "left 1 thread running: second; closed what is not its own: file descriptor 50"
    assert left_by(job + wait, before=before) == (said, None)


def test_a_thread_that_has_always_been_there_is_no_news_to_a_job_that_imports_threading() -> None:
    assert left_by("import threading", "'threading' in sys.modules", "del threading, sys.modules['threading']") == (
        "",
        True,
    )


def test_a_pipe_of_its_own_that_hung_up_is_still_the_childs_own() -> None:
    before = "import gc; read, write = os.pipe(); os.close(write)"
    assert left_by(f"before = {FULL_COLLECTIONS}", f"{FULL_COLLECTIONS} - before", before) == ("", 0)
    assert left_by("os.close(read)", before=before)[0].startswith("closed what is not its own")
    assert left_by("kept = os.dup(read)", before=before)[0].startswith("left 1 file open")


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("pass", ""),
        ("kept = os.dup(place)", r"left 1 file open: .*"),
        ("os.close(place)", r"closed what is not its own: .*"),
    ],
)
def test_a_place_of_its_own_that_cannot_be_polled_is_compared_like_any_other_file(job: str, said: str) -> None:
    before = "import gc; place = os.open('/', os.O_PATH)"
    left, looked = left_by(f"before = {FULL_COLLECTIONS}; {job}", f"{FULL_COLLECTIONS} - before", before)
    assert re.fullmatch(said, left), left
    assert looked == bool(said)


def test_a_file_in_the_place_of_the_one_that_counts_files_is_not_taken_for_a_count() -> None:
    """As long as there are files open, with one that was left among them."""
    job = """
        kept = open('/etc/passwd')
        other = os.memfd_create('x')
        os.truncate(other, own._fd_folder_was[2])
        os.dup2(other, own._fd_folder)
        os.close(other)
        """
    assert left_by(job)[0].startswith("left 1 file open: ")


def test_what_is_kept_open_for_looking_is_out_of_the_way_where_the_limit_of_files_allows_that() -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    next_one = "os.dup(0) - report"  # the report's was the last to be opened
    assert left_by("pass", next_one) == ("", 1)
    assert left_by("pass", next_one, limited) == ("", 2)


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("pass", ""),
        ("kept = open('/etc/passwd')", r"left 1 file open: \d+ \(/etc/passwd\)"),
        ("os.close(0)", "closed what is not its own: file descriptor 0"),
    ],
)
def test_a_kernel_that_does_not_count_files_is_asked_for_their_list(job: str, said: str) -> None:
    left, looked = left_by(f"before = {FULL_COLLECTIONS}; {job}", f"{FULL_COLLECTIONS} - before", NO_COUNT)
    assert re.fullmatch(said, left), left
    assert looked == bool(said)


def test_what_a_job_may_leave_by_its_settings_is_not_held_against_it_and_nothing_else() -> None:
    both = "kept = open('/etc/passwd'); threading.Thread(target=time.sleep, args=[9], name='t', daemon=True).start()"
    assert left_by(both, may_leave=("threads", "files")) == ("", None)
    assert left_by(both, may_leave=("files",)) == ("left 1 thread running: t", None)
    assert left_by(both, may_leave=("threads",))[0].startswith("left 1 file open: ")
    assert left_by("os.close(0)", may_leave=("files",))[0].startswith("closed what is not its own")


def test_a_clean_job_costs_less_than_50_us() -> None:
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
    assert us < 50
