"""The few Linux calls that Python does not wrap: prctl and timer_create. Nothing here decides anything."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CLOCK_BOOTTIME = 7
_TIMER_ABSTIME = 1
_NS = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)


class _SigEvent(ctypes.Structure):
    """struct sigevent, padded to its 64 bytes; sigev_notify 0 is SIGEV_SIGNAL."""

    _fields_ = (
        ("value", ctypes.c_uint64),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("pad", ctypes.c_char * 48),
    )


class _TimerSpec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with_parent(parent: int) -> None:
    """Have the kernel SIGKILL this process when its parent ends; exits at once if the parent already has."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none can slip away by forking twice."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def no_new_privileges() -> None:
    """From here on no program that this process starts gains rights from its file: no setuid, no capabilities."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


class KillTimer:
    """A kernel timer that SIGKILLs this very process. It fires even while the process is stopped."""

    def __init__(self) -> None:
        event = _SigEvent(value=0, signo=int(signal.SIGKILL), notify=0)
        self._timer = ctypes.c_void_p()
        _check(_libc.timer_create(_CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(self._timer)))

    def set(self, at_ns: int) -> None:
        """Fire at this boottime; an earlier setting is replaced, a time that has passed fires now."""
        at_ns = max(at_ns, 1)  # zero would disarm it
        spec = _TimerSpec(0, 0, at_ns // _NS, at_ns % _NS)
        _check(_libc.timer_settime(self._timer, _TIMER_ABSTIME, ctypes.byref(spec), None))
