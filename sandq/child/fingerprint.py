"""What a job may have changed about its process: put back what can be put back, and tell what cannot.

Taken once, when the processor is loaded: what an import or `setup()` opened and started is the child's own. After each
job everything is compared with it, which is a good part of what a short job costs (some 7 us): each thing in the
cheapest way that is certain, and by name only where something has changed.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import importlib
import os
import select
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandq.child.channel import FILES_FROM

if TYPE_CHECKING:
    from threading import Thread

THREAD_WAIT_S = 0.05  # a thread that was told to end, but not joined, gets this long
_SIGNALS = tuple(number for number in range(1, 32) if number not in (signal.SIGKILL, signal.SIGSTOP))
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_SHOWN = 3
_FD_FOLDER = "/proc/self/fd"
# What `signal` wraps: its conversions to enums would cost more than all else here.
_signal = importlib.import_module("_signal")
_handler_of = _signal.getsignal
_set_timer = _signal.setitimer


def dump_on_request() -> None:
    """A stack on stderr when C code crashes and on SIGUSR1, whatever was installed over it."""
    # It believes to be there still when another handler, even the default one, stands in its place: it has to go first.
    faulthandler.disable()
    faulthandler.unregister(signal.SIGUSR1)
    faulthandler.enable(2)
    faulthandler.register(signal.SIGUSR1, 2)  # written even while C code holds the GIL


class Fingerprint:
    """The state of this process as it was when this was made."""

    def __init__(self) -> None:
        self._folder = os.getcwd()  # noqa: PTH109  # a Path would be made a text of for every job
        self._umask = _umask()
        self._variables = os.environ
        self._environ: dict[bytes, bytes] = vars(os.environ)["_data"]  # the living one, before any decoding
        self._was_environ = dict(self._environ)
        self._handlers = _handlers()
        self._mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._threads = _threads()
        self._standard = _standard_files()
        self._fd_folder = _out_of_the_way(os.open(_FD_FOLDER, os.O_RDONLY))
        self._fd_names = _fd_names()
        self._fds = _open_fds(self._fd_names)
        # The listing shows its own fd, too. Before Linux 6.2, and elsewhere, this size is no count.
        self._fds_are_counted = _fd_count(self._fd_folder) == len(self._fds) == len(self._fd_names) - 1
        self._fd_folder_was = _file_and_size(self._fd_folder)
        self._fd_poll = select.poll()
        for fd in self._fds:
            self._fd_poll.register(fd, 0)
        if any(event & select.POLLNVAL for _, event in self._fd_poll.poll(0)):  # O_PATH: open, and nothing to poll
            self._fds_are_counted = False

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
        return "; ".join(filter(None, left)) if any(left) else ""

    def _restore_signals(self) -> None:
        """Timers first: what fires while we work would meet the job's handler."""
        for timer in _TIMERS:
            _set_timer(timer, 0)
        if (now := _handlers()) != self._handlers:
            for number, was, handler in zip(_SIGNALS, self._handlers, now, strict=True):
                if handler != was and was is not None:  # None: one that Python did not install and cannot put back
                    signal.signal(number, was)
        dump_on_request()
        _signal.set_wakeup_fd(-1)
        _signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _restore_environ(self) -> None:
        os.environ = self._variables  # noqa: B003  # the object, in case that it was replaced
        if self._environ == self._was_environ:
            return
        zone = self._environ.get(b"TZ")
        for name in self._environ.keys() - self._was_environ.keys():
            del os.environb[name]
        os.environb.update(self._was_environ)
        if zone != self._was_environ.get(b"TZ"):
            time.tzset()

    def _left_folder(self) -> str:
        try:
            os.chdir(self._folder)
        except OSError as error:
            return f"cannot return to its working directory: {error.strerror}"
        return ""

    def _left_threads(self) -> str:
        if _threads() == self._threads:
            return ""
        deadline = time.monotonic() + THREAD_WAIT_S
        while (new := self._new_threads()) and time.monotonic() < deadline:
            time.sleep(0.001)
        names = sorted(thread.name for thread in new)
        return f"left {_count(names, 'thread')} running: {_some(names)}" if names else ""

    def _new_threads(self) -> set[Thread]:
        """Never the main one, which was not seen before if it was the job that imported `threading`."""
        threading = sys.modules["threading"]
        return {*threading.enumerate()} - {*self._threads, threading.main_thread()}

    def _left_fds(self, may_open: bool) -> str:
        if _standard_files() == self._standard and self._has_its_fds():
            return ""
        if not may_open:
            gc.collect()  # an open file in a reference cycle is not left open, only not collected yet
        fds = _open_fds(_fd_names())
        if closed := self._fds - fds:
            return f"closed what is not its own: file descriptor {_some(sorted(closed))}"
        if _standard_files() != self._standard:
            return "replaced its standard input, output or error"
        new = [] if may_open else sorted(fds - self._fds)
        shown = [_target(fd) for fd in new[:_SHOWN]]
        return f"left {_count(new, 'file')} open: {_some(shown, len(new))}" if new else ""

    def _has_its_fds(self) -> bool:
        """Whether exactly those fds are open that were: as many, and each of those. A listing takes thrice the time."""
        if not self._fds_are_counted:
            return _fd_names() == self._fd_names
        if _file_and_size(self._fd_folder) != self._fd_folder_was:
            return False
        said = self._fd_poll.poll(0)  # that one has hung up, at most
        return not said or not any(event & select.POLLNVAL for _, event in said)


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


def _handlers() -> list[Any]:
    return list(map(_handler_of, _SIGNALS))


def _threads() -> list[Thread]:
    """Python's threads. Native ones (OpenMP, BLAS) are pools that a library keeps, not what a job left."""
    threading = sys.modules.get("threading")  # without it there is only this one
    return [] if threading is None else threading.enumerate()


def _fd_names() -> list[str]:
    return os.listdir(_FD_FOLDER)  # noqa: PTH208  # names are enough, and twenty times as fast


def _fd_count(folder: int) -> int:
    return os.fstat(folder).st_size


def _file_and_size(fd: int) -> tuple[int, int, int]:
    """That it is the same file says that its size is still the count."""
    stat = os.fstat(fd)
    return stat.st_ino, stat.st_dev, stat.st_size


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


def _out_of_the_way(fd: int) -> int:
    """The same under a higher number, where the limit of open files allows that."""
    try:
        higher = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FILES_FROM)
    except OSError:
        return fd
    os.close(fd)
    return higher


def _standard_files() -> list[tuple[int, int] | None]:
    """What stands behind 0, 1 and 2."""
    return [_file(0), _file(1), _file(2)]


def _file(fd: int) -> tuple[int, int] | None:
    try:
        stat = os.fstat(fd)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


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
