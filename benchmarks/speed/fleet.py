"""The worker processes of one cell: started, held back, released, counted, and gone with everything they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks.speed.spec import Spec
from benchmarks.speed.system import ROOT, System
from sandq.supervisor.kernel import die_with_parent

STOP_LIMIT_S = 5.0
IDLE_LOOK_S = 0.15
IDLE_SHARE = 0.1  # of one core; the kernel counts in hundredths of a second


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of CPU that a fleet has used: the processes that were started, and all below them."""

    roots: float
    below: float

    @property
    def total(self) -> float:
        """Both."""
        return self.roots + self.below

    def since(self, before: Cpu) -> Cpu:
        """What came in between."""
        return Cpu(self.roots - before.roots, self.below - before.below)


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB of a whole fleet."""

    pss: float
    private: float
    rss: float
    processes: int
    roots_pss: float  # of the processes that were started here alone


def environment(**extra: str) -> dict[str, str]:
    """What programs of a benchmark see: this repository first on their path, and no settings of the user's."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {name: value for name, value in os.environ.items() if not name.startswith("SANDQ_")}
    return {**own, "PYTHONPATH": path, **extra}


class Fleet:
    """Processes of one command."""

    def __init__(self, command: list[str], count: int, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        self._orphans: list[psutil.Process] = []
        with log.open("ab") as output:
            self._processes = [
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=log.parent,
                    env=env or environment(),
                    preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  # one thread only
                )
                for _ in range(count)
            ]

    @property
    def roots(self) -> list[int]:
        """The processes that were started here."""
        return [process.pid for process in self._processes]

    @property
    def dead(self) -> int:
        """How many of them ended on their own."""
        return sum(process.poll() is not None for process in self._processes)

    def tree(self) -> list[psutil.Process]:
        """All processes, those started here first."""
        roots = [psutil.Process(pid) for pid in self.roots if psutil.pid_exists(pid)]
        below = []
        for root in roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                below += root.children(recursive=True)
        return [*roots, *below]

    def below(self, root: int) -> list[int]:
        """The processes that one of them started, and those started in turn."""
        return [process.pid for process in psutil.Process(root).children(recursive=True)]

    def hold(self) -> None:
        """Stop all processes where they stand: jobs can be added, and none is begun."""
        self._signal(self.tree(), signal.SIGSTOP)

    def release(self) -> float:
        """Let all go on; the moment at which they could."""
        tree = self.tree()
        at = time.monotonic()
        self._signal(list(reversed(tree)), signal.SIGCONT)  # those that claim jobs last: their children can run then
        return at

    def kill(self, pid: int) -> float:
        """SIGKILL one of the roots, and nothing else; the moment before. What it leaves behind ends with `stop`."""
        process = next(process for process in self._processes if process.pid == pid)
        self._orphans += psutil.Process(pid).children(recursive=True)
        at = time.monotonic()
        process.kill()
        return at

    def cpu(self) -> Cpu:
        """CPU used so far, of ended children that were reaped too."""
        roots, below = 0.0, 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                below += times.children_user + times.children_system
                if process.pid in self.roots:
                    roots += times.user + times.system
                else:
                    below += times.user + times.system
        return Cpu(roots, below)

    def await_idle(self, limit_s: float) -> None:
        """Until all together use next to no CPU for a moment, or the limit passes."""
        deadline, used = time.monotonic() + limit_s, self.cpu().total
        while time.monotonic() < deadline:
            time.sleep(IDLE_LOOK_S)
            before, used = used, self.cpu().total
            if used - before <= IDLE_SHARE * IDLE_LOOK_S:
                return

    def memory(self) -> Memory:
        """Memory of all processes, shared pages divided by those who share them in `pss`."""
        shown = {process.pid: process.memory_full_info() for process in self.tree()}
        roots = [shown[pid] for pid in self.roots if pid in shown]
        pss, private, rss = (sum(getattr(info, name) for info in shown.values()) for name in ("pss", "uss", "rss"))
        return Memory(_mib(pss), _mib(private), _mib(rss), len(shown), _mib(sum(info.pss for info in roots)))

    def last_line(self) -> str:
        """The last thing a worker had to say."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "no message")

    def stop(self) -> None:
        """Ask all to end, end those that do not, and what they started."""
        tree = self.tree()
        self._signal(tree, signal.SIGCONT)
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + STOP_LIMIT_S
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_LIMIT_S)
        for left in [
            *tree,
            *self._orphans,
        ]:  # psutil compares start times: a pid that was given to somebody else is left alone
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()

    @staticmethod
    def _signal(tree: list[psutil.Process], number: signal.Signals) -> None:
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


@contextlib.contextmanager
def running(system: System, spec: Spec, log: Path) -> Iterator[Fleet]:
    """A system's workers, all gone at the end of the block."""
    fleet = Fleet(system.work_command(spec), system.workers(spec), log)
    try:
        yield fleet
    finally:
        fleet.stop()
