"""The launcher: starts children, fences them with a deadline the kernel keeps, reaps every descendant. No user code.

`python -m sandq.supervisor.launcher CONTROL_FD LEASE_FD SUPERVISOR_PID KILL_AFTER_NS FENCE_NS`

It is small and single-threaded on purpose: PR_SET_PDEATHSIG is bound to the thread that forks, and a process that runs
nothing else keeps its deadlines. Messages are JSON, one per packet, on two SOCK_SEQPACKET sockets:

    control, in    {"op": "spawn", "child": 7, "argv": [...], "env": {...}, "forks": false, "confine": null}
                   {"op": "fork", "child": 8, "template": 7}        from a child that was spawned with "forks"
                   {"op": "kill", "child": 7, "why": "..."}
    control, out   {"op": "spawned", "child": 7, "pid": 4711} with its socket, stdout, stderr and pidfd
                   {"op": "spawn-failed", "child": 7, "error": "..."}
                   {"op": "exited", "child": 7, "status": 9, "rusage": {...}, "why": "lease"}
    lease, in      {"pulse": <boottime ns>, "leases": {"7": <boottime ns>}}      all leases, each time

Three things end children here: a lease deadline, a kill request, and the end of the supervisor. Two more need no code
to run: when this process is stopped or frozen, its kernel timer kills it at the earliest deadline plus a little, and
every child goes with it by PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

from sandq.clock import boottime_ns
from sandq.supervisor.kernel import KillTimer, adopt_orphans
from sandq.supervisor.spawn import Started, start
from sandq.supervisor.templates import Answer, Templates
from sandq.supervisor.tree import kill_orphans, kill_tree

MAX_PACKET = 1 << 20


@dataclass(slots=True)
class _Child:
    number: int
    pid: int
    pidfd: int
    why: str = ""  # why we killed it, if we did


class Launcher:
    """The state of one launcher process: its children by number, and how long each may live."""

    def __init__(
        self, control: socket.socket, leases: socket.socket, supervisor: int, kill_after: int, fence: int
    ) -> None:
        self._control = control
        self._lease_socket = leases
        self._kill_after = kill_after
        self._fence = fence
        self._children: dict[int, _Child] = {}
        self._templates = Templates()
        self._leases: dict[int, int] = {}
        self._pulse = boottime_ns()
        self._timer = KillTimer()
        self._supervisor = os.pidfd_open(supervisor)
        self._woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._arm()

    def run(self) -> None:
        """Serve until the supervisor ends or closes its sockets; leaves no descendant behind."""
        try:
            while self._turn(self._ready()):
                pass
        finally:
            self._kill_all()

    def _ready(self) -> set[int]:
        """Wait for news, at most until the next deadline."""
        poll = select.poll()  # made anew each time: templates come and go
        own = (self._control.fileno(), self._lease_socket.fileno(), self._supervisor, self._woken)
        for fd in (*own, *self._templates.fds()):
            poll.register(fd, select.POLLIN)
        return {fd for fd, _ in poll.poll(self._wait_ms())}

    def _turn(self, fds: set[int]) -> bool:
        """One round: leases before deadlines, deadlines before requests, so that no kill acts on old news."""
        if self._supervisor in fds:
            return False
        if self._lease_socket.fileno() in fds and not self._read_leases():
            return False
        self._kill_overdue()
        for answer in self._templates.answers(fds):
            self._forked(answer)
        if self._woken in fds:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
            self._reap()
        return self._control.fileno() not in fds or self._read_control()

    def _wait_ms(self) -> int | None:
        if not self._leases:
            return None
        return max(0, (min(self._leases.values()) - boottime_ns()) // 1_000_000 + 1)

    def _arm(self) -> None:
        """Also without a lease: a job frame may overtake its lease; then the last pulse is what fences the child."""
        self._timer.set(min((*self._leases.values(), self._pulse + self._kill_after)) + self._fence)

    def _read_leases(self) -> bool:
        message = _receive(self._lease_socket)
        if message is None:
            return False
        self._pulse = message["pulse"]
        told = {int(number): at for number, at in message["leases"].items()}
        # A child that is being killed needs no lease. The timer is armed once those that are over have been acted on:
        # armed with one of them, it would kill us and every other child.
        self._leases = {
            number: told[number] for number, child in self._children.items() if number in told and not child.why
        }
        return True

    def _kill_overdue(self) -> None:
        now = boottime_ns()
        for number in [number for number, at in self._leases.items() if at <= now]:
            del self._leases[number]
            self._kill(number, "lease")
        self._arm()

    def _read_control(self) -> bool:
        message = _receive(self._control)
        if message is None:
            return False
        if message["op"] == "spawn":
            self._spawn(message)
        elif message["op"] == "fork":
            self._fork(message["child"], message["template"])
        elif message["op"] == "kill":
            self._kill(message["child"], message["why"])
        return True

    def _spawn(self, message: dict[str, Any]) -> None:
        number = message["child"]
        try:
            if message["forks"]:
                started = self._templates.start(number, message["argv"], message["env"])
            else:
                started = start(message["argv"], message["env"], message["confine"])
        except OSError as error:
            self._say({"op": "spawn-failed", "child": number, "error": str(error)})
        else:
            self._register(number, started)

    def _fork(self, number: int, template: int) -> None:
        """Ask a template for a child; it answers in its own time."""
        try:
            self._templates.ask(template, number)
        except OSError as error:
            self._say({"op": "spawn-failed", "child": number, "error": str(error)})

    def _forked(self, answer: Answer) -> None:
        number, started = answer
        if isinstance(started, str):
            self._say({"op": "spawn-failed", "child": number, "error": started})
        else:
            self._register(number, started)

    def _register(self, number: int, started: Started) -> None:
        self._children[number] = _Child(number, started.pid, started.pidfd)
        try:
            self._say({"op": "spawned", "child": number, "pid": started.pid}, started)
        finally:
            started.close_supervisor_ends()

    def _kill(self, number: int, why: str) -> None:
        child = self._children.get(number)
        if child is not None:
            child.why = child.why or why
            kill_tree(child.pid, child.pidfd)

    def _reap(self) -> None:
        """Reap whatever ended: children are reported, adopted orphans only buried."""
        by_pid = {child.pid: child for child in self._children.values()}
        while (pid := _ended()) is not None:
            child = by_pid.get(pid)
            if child is not None:
                # Its group may outlive it. The pid is still ours until we reap it, so the group's id is, too.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            if child is not None:
                self._bury(child, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
        kill_orphans({child.pid: child.number for child in self._children.values()})

    def _bury(self, child: _Child, status: int, cpu_s: float, peak_rss: int) -> None:
        del self._children[child.number]
        self._leases.pop(child.number, None)
        os.close(child.pidfd)
        for answer in self._templates.end(child.number):
            self._forked(answer)
        rusage = {"cpu_s": round(cpu_s, 4), "peak_rss": peak_rss}
        self._say({"op": "exited", "child": child.number, "status": status, "rusage": rusage, "why": child.why})

    def _kill_all(self) -> None:
        for child in self._children.values():
            kill_tree(child.pid, child.pidfd)
        for child in self._children.values():
            os.waitpid(child.pid, 0)
        kill_orphans({})

    def _say(self, message: dict[str, Any], started: Started | None = None) -> None:
        fds = started.supervisor_ends if started is not None else []
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then poll() tells us that it has gone
            socket.send_fds(self._control, [json.dumps(message).encode()], fds)


def _receive(sock: socket.socket) -> dict[str, Any] | None:
    try:
        packet = sock.recv(MAX_PACKET)
    except ConnectionResetError:
        return None
    return json.loads(packet) if packet else None


def _ended() -> int | None:
    """The pid of a child of ours that has ended and is not reaped yet."""
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return info.si_pid if info is not None else None


def main() -> None:
    """Take the inherited sockets, become the parent of all orphans, and serve."""
    control, leases, supervisor, kill_after, fence = (int(arg) for arg in sys.argv[1:6])
    for fd in (control, leases):
        os.set_inheritable(fd, False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor decides when we end; its end is our end
    adopt_orphans()
    if os.getppid() != supervisor:
        return
    # All children share our session, hence one autogroup: it competes for the CPU as one, not once per child. Its
    # weight stays as it is: we are in it too, and beside other busy sessions a lighter one starves us past our timer.
    Launcher(socket.socket(fileno=control), socket.socket(fileno=leases), supervisor, kill_after, fence).run()


if __name__ == "__main__":
    main()
