"""A processor that tries to do what its confinement must deny. Nothing counts as denied before it was tried."""

from __future__ import annotations

import errno
import math
import mmap
import os
import resource
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CPU_WAIT_S = 3.0


def process(job: Any) -> dict[str, str]:
    """Each layer in `job.data` (with its limit) and why it does not hold; "" if it does."""
    return {layer: _TRIALS[layer](limit) for layer, limit in job.data.items()}


def _no_new_privs(_limit: None) -> str:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return "" if "\nNoNewPrivs:\t1\n" in status else "NoNewPrivs is not set: a setuid program could gain privileges"


def _open_files(limit: int) -> str:
    opened: list[int] = []
    try:
        while len(opened) <= limit:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return "" if error.errno == errno.EMFILE else f"opening files failed with {error}"
    finally:
        for fd in opened:
            os.close(fd)
    return f"{limit + 1} files could be opened"


def _data(limit: int) -> str:
    try:
        mmap.mmap(-1, limit + mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        return "" if error.errno == errno.ENOMEM else f"taking memory failed with {error}"
    return f"{limit + mmap.PAGESIZE} bytes of memory could be had"


def _file_size(limit: int) -> str:
    """A hole costs no disk space, and the limit counts it."""
    with tempfile.TemporaryFile() as file:
        try:
            file.truncate(limit + 1)
        except OSError as error:
            return "" if error.errno == errno.EFBIG else f"growing a file failed with {error}"
    return f"a file could grow to {limit + 1} bytes"


def _cpu(_limit: float) -> str:
    """The job's limit must be there, and a lower one must be acted on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if soft == resource.RLIM_INFINITY:
        return "no limit of CPU seconds is set"
    fired: list[int] = []
    signal.signal(signal.SIGXCPU, lambda number, _frame: fired.append(number))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + 0.01), hard))
    enough = time.process_time() + CPU_WAIT_S  # not of wall time: on a busy host that proves nothing
    while not fired and time.process_time() < enough:
        pass
    return "" if fired else f"no SIGXCPU came within {CPU_WAIT_S:g}s of work"


def _tmp(_limit: None) -> str:
    folder, asked = tempfile.gettempdir(), os.environ.get("TMPDIR")
    if folder != asked:
        return f"temporary files go to {folder}: {asked} cannot be written to; a wrapper needs --bind {{tmp}} {{tmp}}"
    mode = Path(folder).stat().st_mode
    return "" if stat.S_IMODE(mode) & 0o077 == 0 else f"others may enter {folder}"


def _work(seconds: float) -> str:
    """No trial: something to be busy with."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return ""


_TRIALS: dict[str, Callable[[Any], str]] = {
    "no_new_privs": _no_new_privs,
    "open_files": _open_files,
    "data": _data,
    "file_size": _file_size,
    "cpu": _cpu,
    "tmp": _tmp,
    "work": _work,
}
