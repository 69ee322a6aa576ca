"""Entry of a template: `python -m sandq.child.template CONTROL_FD FD`. It imports a processor once and forks children.

The launcher started it, fenced and niced; all of that is inherited. On CONTROL it asks for a child and passes what the
child is to have: its channel, stdout, stderr, and a gate that stays shut until the launcher holds the child's pidfd.

    template -> fork -> go-between -> fork -> child       the go-between tells the child's pid and waits at the gate
                        ends at the gate                   the child passes to the launcher, the nearest subreaper

So the launcher is the parent of every child, however it was started: it reaps it, kills its tree, and takes it along.
A fork copies one thread. What other threads hold is held for ever in the copy, so a template that has any refuses.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from sandq.child.__main__ import prepare
from sandq.child.channel import FILES_FROM, Channel
from sandq.child.loop import find, load, serve
from sandq.child.resolve import Processor
from sandq.errors import ProcessorError
from sandq.protocol import Frame

MARK = "SANDQ_CHILD"
_PARENT_LOOKS_S = 0.0002
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FIX = 'use start = "exec" for this processor'

_libc = ctypes.CDLL(None, use_errno=True)
_libc.getenv.restype = ctypes.c_void_p


@dataclass(frozen=True, slots=True)
class Request:
    """A child that is wanted: its number and its ends, in the order in which they are passed."""

    child: int
    channel: int
    stdout: int
    stderr: int
    gate: int

    def close(self) -> None:
        """Drop this process's copies of the ends."""
        for fd in (self.channel, self.stdout, self.stderr, self.gate):
            os.close(fd)


class Template:
    """One loaded processor, and the launcher that asks for children of it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._launcher = os.getppid()
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)  # every child is one; here that would keep them from it
        # /proc shows the environment as it was at exec. The launcher reads the mark there, so it is changed in place.
        self._mark: int = _libc.getenv(MARK.encode())

    def serve(self, channel: Channel) -> Request | None:
        """Fork a child for each request. Returns in every child, its request; in the template None, at its end."""
        poll = select.poll()
        for end in (self._control.fileno(), channel.fileno()):
            poll.register(end, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if channel.fileno() in ready:  # goodbye, or the end of the supervisor
                return None
            request = self._receive()
            if request is None or self._forked(request):
                return request
            request.close()

    def _receive(self) -> Request | None:
        packet, fds, _, _ = socket.recv_fds(self._control, 1 << 12, 4)
        for fd in fds:
            os.set_inheritable(fd, False)
        return Request(json.loads(packet)["child"], *fds) if packet else None

    def _forked(self, request: Request) -> bool:
        """True in the new child, once the launcher is its parent; False in the template."""
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            between = os.fork()
        except OSError as error:
            self._say({"child": request.child, "error": str(error)})
            return False
        if between:
            os.waitpid(between, 0)
            return False
        if self._between(request, os.getpid()):
            return True
        os._exit(0)

    def _between(self, request: Request, own_pid: int) -> bool:
        """In the go-between: fork the child and wait at the gate. True in the child."""
        try:
            pid = os.fork()
            if pid == 0:
                self._pass_to_launcher(own_pid)
                self._become(request)
                return True
            os.setpgid(pid, pid)
            self._say({"child": request.child, "pid": pid})
            os.read(request.gate, 1)  # end of file: the launcher has its pidfd, or has gone
        except BaseException as error:  # noqa: BLE001  # neither of the two may ever return into the template's code
            self._say({"child": request.child, "error": str(error)})
        return False

    def _pass_to_launcher(self, between: int) -> None:
        """Wait for the end of the go-between, then be fenced: die with the launcher, keep what daemonises itself."""
        while (parent := os.getppid()) != self._launcher:
            if parent != between:
                os._exit(1)
            time.sleep(_PARENT_LOOKS_S)
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if os.getppid() != self._launcher:
            os._exit(1)

    def _become(self, request: Request) -> None:
        os.setpgid(0, 0)
        mark = f"{request.child:0{len(os.environ[MARK])}}"
        ctypes.memmove(self._mark, mark.encode(), len(mark))
        os.environ[MARK] = mark
        os.dup2(request.stdout, 1)
        os.dup2(request.stderr, 2)

    def _say(self, message: dict[str, Any]) -> None:
        self._control.send(json.dumps(message).encode())


def unforkable() -> str:
    """Why this process must not fork now, or ""."""
    if threads := len(os.listdir("/proc/self/task")) - 1:  # noqa: PTH208  # names are enough
        threading = sys.modules.get("threading")
        names = [] if threading is None else [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        if names:
            return f"its import left threads running ({', '.join(names)}); start them in setup(), or {_FIX}"
        tame = "set OPENBLAS_NUM_THREADS=1 and OMP_NUM_THREADS=1"
        return f"its import started {threads} native threads, as numeric libraries do; {tame}, or {_FIX}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return f"its import initialised CUDA, which no fork survives; do that in setup(), or {_FIX}"
    return ""


def _import(frame: Frame) -> Processor:
    processor = find(frame)
    if why := unforkable():
        raise ProcessorError(f"cannot be a template: {why}")
    return processor


def main() -> None:
    """Load the processor that LOAD names, then fork children of it until told goodbye."""
    control, fd = int(sys.argv[1]), int(sys.argv[2])
    own = socket.socket(fileno=fcntl.fcntl(control, fcntl.F_DUPFD_CLOEXEC, FILES_FROM))
    os.close(control)
    prepare()
    channel = Channel(fd)
    template = Template(own)
    processor = load(channel, partial(_import, channel.receive()))
    if processor is None:
        return
    gc.collect()
    gc.freeze()  # what is never collected is never written to, and stays shared
    request = template.serve(channel)
    if request is None:
        return
    own.close()
    channel.close()
    fd = fcntl.fcntl(request.channel, fcntl.F_DUPFD_CLOEXEC, FILES_FROM)
    request.close()
    serve(Channel(fd), processor)


if __name__ == "__main__":
    main()
