"""What a job may have changed about its process: put back what can be put back, and tell what cannot.

Taken once, when the processor is loaded: what an import or `setup()` opened and started is the child's own. After each
job everything is compared with it; some 30 us, most of them for the environment and the signal handlers.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threading import Thread

THREAD_WAIT_S = 0.05  # a thread that was told to end, but not joined, gets this long
_SIGNALS = tuple(number for number in range(1, 32) if number not in (signal.SIGKILL, signal.SIGSTOP))
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_SHOWN = 3


def dump_on_request() -> None:
    """A stack on stderr when C code crashes and on SIGUSR1, whatever was installed over it."""
    faulthandler.enable(2)
    faulthandler.register(signal.SIGUSR1, 2)  # written even while C code holds the GIL


class Fingerprint:
    """The state of this process as it was when this was made."""

    def __init__(self) -> None:
        self._folder = Path.cwd()
        self._umask = _umask()
        self._environ = dict(os.environ)
        self._handlers = [(number, signal.getsignal(number)) for number in _SIGNALS]
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._threads = _threads()
        self._standard = _standard_files()
        self._fd_names = _fd_names()
        self._fds = _open_fds(self._fd_names)

    def restore(self, may_leave: Collection[str] = ()) -> str:
        """Put back what a job changed; what is left of it and cannot be put back, in words, or "".

        `may_leave` names what is not held against a job: `threads`, `files`.
        """
        try:
            self._restore_signals()
            self._restore_environ()
            os.umask(self._umask)
            sys.stdin, sys.stdout, sys.stderr = self._streams
            # Files last: a thread or a program that is ending closes its own.
            left = (
                self._left_folder(),
                "" if "threads" in may_leave else self._left_threads(),
                left_programs(),
                self._left_fds("files" in may_leave),
            )
        except Exception as error:  # noqa: BLE001  # a job that took all files, or patched what we call, ends here
            return f"left a process that cannot be looked at: {type(error).__name__}: {error}"
        return "; ".join(text for text in left if text)

    def _restore_signals(self) -> None:
        """Timers first: what fires while we work would meet the job's handler."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        changed = [(number, was) for number, was in self._handlers if signal.getsignal(number) != was]
        for number, was in changed:
            if was is not None:  # None is a handler that Python did not install and cannot put back
                signal.signal(number, was)
        if changed:  # Python's handler stood in the place of faulthandler's, which believes to be there still
            faulthandler.unregister(signal.SIGUSR1)
            faulthandler.disable()
        dump_on_request()
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _restore_environ(self) -> None:
        now = dict(os.environ)
        if now == self._environ:
            return
        for name in now.keys() - self._environ.keys():
            del os.environ[name]
        os.environ.update(self._environ)
        if now.get("TZ") != self._environ.get("TZ"):
            time.tzset()

    def _left_folder(self) -> str:
        try:
            os.chdir(self._folder)
        except OSError as error:
            return f"cannot return to its working directory: {error.strerror}"
        return ""

    def _left_threads(self) -> str:
        deadline = time.monotonic() + THREAD_WAIT_S
        while (new := _threads() - self._threads) and time.monotonic() < deadline:
            time.sleep(0.001)
        names = sorted(thread.name for thread in new)
        return f"left {_count(names, 'thread')} running: {_some(names)}" if names else ""

    def _left_fds(self, may_open: bool) -> str:
        names = _fd_names()
        if names == self._fd_names and _standard_files() == self._standard:
            return ""
        gc.collect()  # an open file in a reference cycle is not left open, only not collected yet
        fds = _open_fds(_fd_names())
        if closed := self._fds - fds:
            return f"closed what is not its own: file descriptor {_some(sorted(closed))}"
        if _standard_files() != self._standard:
            return "replaced its standard input, output or error"
        new = [] if may_open else sorted(fds - self._fds)
        shown = [_target(fd) for fd in new[:_SHOWN]]
        return f"left {_count(new, 'file')} open: {_some(shown, len(new))}" if new else ""


def left_programs() -> str:
    """The living children of this process. What has ended is reaped: whoever started it did not wait for it.

    A child is its own subreaper, so this also sees what daemonised itself.
    """
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ""
        if pid == 0:
            break
    pids = _children()
    return f"left {_count(pids, 'process', 'processes')} running: {_some([_program(pid) for pid in pids])}"


def _umask() -> int:
    was = os.umask(0o077)
    os.umask(was)
    return was


def _threads() -> set[Thread]:
    """Python's threads. Native ones (OpenMP, BLAS) are pools that a library keeps, not what a job left."""
    threading = sys.modules.get("threading")  # without it there is only this one
    return set() if threading is None else {*threading.enumerate()} - {threading.main_thread()}


def _fd_names() -> list[str]:
    return os.listdir("/proc/self/fd")  # noqa: PTH208  # names are enough, and twenty times as fast


def _open_fds(names: list[str]) -> set[int]:
    """The open ones among them: the listing shows its own, which is closed by now."""
    found = set()
    for fd in map(int, names):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.add(fd)
    return found


def _standard_files() -> list[tuple[int, int] | None]:
    """What stands behind 0, 1 and 2."""
    found: list[tuple[int, int] | None] = []
    for fd in (0, 1, 2):
        try:
            stat = os.fstat(fd)
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_dev, stat.st_ino))
    return found


def _children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(word) for word in path.read_text(encoding="ascii").split()] if path.exists() else []


def _program(pid: int) -> str:
    try:
        return f"{pid} ({Path(f'/proc/{pid}/comm').read_text(encoding='utf-8', errors='replace').strip()})"
    except OSError:
        return str(pid)


def _target(fd: int) -> str:
    try:
        return f"{fd} ({os.readlink(f'/proc/self/fd/{fd}')})"  # noqa: PTH115
    except OSError:
        return str(fd)


def _count(things: list[int] | list[str], one: str, many: str = "") -> str:
    return f"1 {one}" if len(things) == 1 else f"{len(things) or 'some'} {many or one + 's'}"


def _some(things: list[int] | list[str], total: int = 0) -> str:
    more = max(len(things), total) - _SHOWN
    return ", ".join(map(str, things[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
