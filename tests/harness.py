"""Supervisors for tests: in a thread, where it is cheap, or in a process that a test may stop, freeze and kill.

Tests wait for facts, never for time: every wait names what it waits for and has a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from sandq.clock import boottime
from sandq.config import Lease, QueueSettings, SupervisorSettings
from sandq.job import Job
from sandq.queue import Queue
from sandq.supervisor import facts as supervisor_facts
from sandq.supervisor.facts import ChildReady, Fact, Listener
from sandq.supervisor.loop import Supervisor

F = TypeVar("F")

HERE = Path(__file__).parent
HANDLERS = str(HERE / "handlers.py")
LIMIT_S = 20.0
LOOK_EVERY_S = 0.005


@dataclass(frozen=True)
class Placed:
    """A job is in the mailbox of a child; only `serve.py` says so, when it is asked to, and what comes of it there."""

    job_id: str


@dataclass(frozen=True)
class Begun:
    """The child has begun it by itself."""

    job_id: str


@dataclass(frozen=True)
class Returned:
    """It was taken out of the mailbox before that."""

    job_id: str


OF_MAILBOXES = {kind.__name__: kind for kind in (Placed, Begun, Returned)}


class Facts:
    """What a supervisor said, in order, each with the boottime at which it was said. Any thread may hear and wait."""

    def __init__(self) -> None:
        self._said: list[tuple[float, Any]] = []
        self._news = threading.Condition()

    def hear(self, fact: Any, at: float | None = None) -> None:
        with self._news:
            self._said.append((boottime() if at is None else at, fact))
            self._news.notify_all()

    def all(self, kind: type[F], **fields: Any) -> list[F]:
        """Every fact of a kind so far whose fields have these values."""
        with self._news:
            return [fact for _, fact in self._fitting(kind, fields)]

    def wait(self, kind: type[F], *, nth: int = 1, limit_s: float = LIMIT_S, **fields: Any) -> F:
        """The nth such fact, now or as soon as it is said."""
        return self._wait(kind, nth, limit_s, fields)[1]

    def time_of(self, kind: type[Any], *, nth: int = 1, limit_s: float = LIMIT_S, **fields: Any) -> float:
        """When the nth such fact was said."""
        return self._wait(kind, nth, limit_s, fields)[0]

    def _wait(self, kind: type[F], nth: int, limit_s: float, fields: Mapping[str, Any]) -> tuple[float, F]:
        with self._news:
            if self._news.wait_for(lambda: len(self._fitting(kind, fields)) >= nth, limit_s):
                return self._fitting(kind, fields)[nth - 1]
            said = "\n".join(f"  {at:.3f} {fact}" for at, fact in self._said[-40:])
        raise TimeoutError(f"no {kind.__name__} {fields} (number {nth}) within {limit_s:g}s; said so far:\n{said}")

    def _fitting(self, kind: type[F], fields: Mapping[str, Any]) -> list[tuple[float, F]]:
        return [
            (at, fact)
            for at, fact in self._said
            if isinstance(fact, kind) and all(getattr(fact, name) == value for name, value in fields.items())
        ]


@dataclass(frozen=True)
class Served:
    """A supervisor that serves in a thread of this process."""

    supervisor: Supervisor
    facts: Facts
    stop: Callable[[], None]


@contextlib.contextmanager
def serving(
    queues: Mapping[str, Any],
    url: str,
    prefix: str,
    *,
    lock_s: float = 2.0,
    burst: bool = False,
    listener: Listener = lambda _fact: None,
    **settings: Any,
) -> Iterator[Served]:
    """A supervisor in a thread, loaded and claiming; drained at the end."""
    facts = Facts()
    whole = SupervisorSettings(lease=Lease(lock_s), prefix=prefix, **settings)
    supervisor = Supervisor(queues, url, settings=whole, listeners=[facts.hear, listener], burst=burst)
    started, loops, failures = threading.Event(), [], []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await supervisor.start()
        started.set()
        await supervisor.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    def stop() -> None:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            loops[0].call_soon_threadsafe(supervisor.stop)

    thread = threading.Thread(target=run, name="supervisor")
    thread.start()
    assert started.wait(LIMIT_S), "the supervisor did not start"
    try:
        if not failures:
            yield Served(supervisor, facts, stop)
    finally:
        stop()
        stop()  # a test that failed leaves jobs behind that would never end
        thread.join(LIMIT_S)
    if failures:
        raise failures[0]
    assert not thread.is_alive(), "the supervisor did not end"


def handlers(**settings: Any) -> QueueSettings:
    """A queue served by `handlers.py`, with short ladders."""
    return QueueSettings(**{"processor": HANDLERS, "soft_stop_s": 0.2, "term_stop_s": 0.2, **settings})


class SupervisorProcess:
    """A supervisor in a process of its own (`serve.py`), and the processes that are its."""

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        queue: str = "render",
        lock_s: float = 1.0,
        mutation: str = "",
        settings: Mapping[str, Any] | None = None,
        python_path: tuple[Path, ...] = (),
        **queue_settings: Any,
    ) -> None:
        asked = {
            "redis": url,
            "prefix": prefix,
            "lock_s": lock_s,
            "mutation": mutation,
            "settings": dict(settings or {}),
            "queues": {
                queue: {
                    "processor": HANDLERS,
                    "concurrency": 1,
                    "soft_stop_s": 0.2,
                    "term_stop_s": 0.2,
                    **queue_settings,
                }
            },
        }
        path = os.pathsep.join([*map(str, python_path), str(HERE.parent)])
        self.facts = Facts()
        self.stats: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "serve.py"), json.dumps(asked)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.pid = self._process.pid
        self._family: set[int] = set()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> SupervisorProcess:
        try:
            self.facts.wait(ChildReady)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def launcher(self) -> int:
        """The pid of its launcher."""
        [launcher] = psutil.Process(self.pid).children()
        return launcher.pid

    def signal(self, number: signal.Signals, *pids: int) -> None:
        """Send a signal to the supervisor, or to processes of its; returns when it was delivered."""
        self._remember()
        for pid in pids or (self.pid,):
            os.kill(pid, number)
            if number is signal.SIGSTOP:
                eventually(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED, f"{pid} is stopped")
            elif number is signal.SIGTERM:
                eventually(lambda pid=pid: not _pending(pid), f"{pid} took its signal")

    def kill(self) -> None:
        """SIGKILL of the supervisor alone; returns when it is dead."""
        self._remember()
        self._process.kill()
        self._process.wait(LIMIT_S)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Its exit code."""
        code = self._process.wait(limit_s)
        self._reader.join(limit_s)
        return code

    def close(self) -> None:
        """End it with everything that it started, stopped or not."""
        self._remember()
        for pid in (self.pid, *self._family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(LIMIT_S)
        for pid in self._family:
            wait_gone(pid)
        self._reader.join(LIMIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _remember(self) -> None:
        with contextlib.suppress(psutil.Error):
            self._family |= {process.pid for process in psutil.Process(self.pid).children(recursive=True)}

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if said["kind"] == "stats":
                self.stats = said["fields"]
            else:
                self.facts.hear(_fact(said["kind"], said["fields"]), said["at"])


def _fact(kind: str, fields: dict[str, Any]) -> Fact | Placed | Begun | Returned:
    if kind in OF_MAILBOXES:
        return OF_MAILBOXES[kind](**fields)
    if "progress_json" in fields:
        fields["progress_json"] = fields["progress_json"].encode()
    if "job_ids" in fields:
        fields["job_ids"] = tuple(fields["job_ids"])
    made: Fact = getattr(supervisor_facts, kind)(**fields)
    return made


def eventually(true: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """What `true` returned when it first was; for what nobody announces, such as a line in a file."""
    deadline = boottime() + limit_s
    while not (found := true()):
        if boottime() > deadline:
            raise TimeoutError(f"not within {limit_s:g}s: {what}")
        time.sleep(LOOK_EVERY_S)
    return found


def wait_gone(pid: int, limit_s: float = LIMIT_S) -> None:
    """Until a process has ended; TimeoutError if it does not."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(limit_s * 1000):
            raise TimeoutError(f"process {pid} is still there after {limit_s:g}s")
    finally:
        os.close(pidfd)


def _pending(pid: int) -> bool:
    """Whether a process has signals that were not delivered yet."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return any(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd")))


def completions(queue: Queue, job: Job) -> int:
    """How often a job has ended as completed."""
    return sum(event.job_id == job.id for event in queue.events(since="0", block=0.01, names="completed"))


def lives(path: Path) -> dict[int, tuple[int, int]]:
    """The first and last stamp (boottime ns) of every process that wrote into a file of stamps, in order."""
    found: dict[int, tuple[int, int]] = {}
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            pid, stamp = map(int, line.split())
            found[pid] = (found.get(pid, (stamp, stamp))[0], stamp)
    return found
