"""A real supervisor with real children inside a test, and the faults that it has to live with."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil

from sandq.config import Lease, QueueSettings, SupervisorSettings
from sandq.embedded import find_redis
from sandq.job import Job
from sandq.store.call import Read
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.supervisor.facts import Fact, Settled, Started
from sandq.supervisor.loop import Supervisor
from sandq.testing.aside import LoopThread

LIMIT_S = 20.0
LOOK_EVERY_S = 0.002
DRAIN_S = 5.0

Source = str | Callable[..., Any] | QueueSettings


@contextlib.contextmanager
def running_supervisor(
    queues: Mapping[str, Source],
    redis: str | None = None,
    *,
    prefix: str = "bull",
    lock: float = 2.0,
    **settings: Any,
) -> Iterator[RunningSupervisor]:
    """A supervisor that serves in a thread, its children being processes, until the block is left.

    It is loaded and ready when the block begins. Jobs that still run at the end have a few seconds to end; after a
    failure in the block they are killed. `settings` are those of SupervisorSettings. `lock` is short here, so that what
    a lost lock brings about is soon seen.
    """
    whole = SupervisorSettings(prefix=prefix, lease=Lease(lock), **{"drain_timeout_s": DRAIN_S, **settings})
    running = RunningSupervisor(queues, redis, whole)
    try:
        yield running
    except BaseException:
        running.stop(at_once=True)
        raise
    running.stop()


class RunningSupervisor:
    """A supervisor, and faults for the jobs that it runs. Each waits until the job really runs."""

    def __init__(self, queues: Mapping[str, Source], redis: str | None, settings: SupervisorSettings) -> None:
        self.facts: list[Fact] = []  # what it said, in order (sandq.supervisor.facts)
        self._prefix = settings.prefix
        self._running: dict[tuple[str, str], int] = {}  # pids of children, by queue and job
        self._news = threading.Condition()
        self._frozen: set[int] = set()
        self._stopped = False
        url, self._server = find_redis(redis)
        self._store = SyncExecutor(url)
        self._aside = LoopThread("sandq-supervisor")
        try:
            self.supervisor = Supervisor(queues, url, settings=settings, listeners=[self._hear])
            self._aside.run(self.supervisor.start())
        except BaseException:
            self._close()
            raise

    def wait_until_running(self, job: Job | str, limit_s: float = LIMIT_S, *, other_than: int | None = None) -> int:
        """The pid of the child that runs the job, now or as soon as one does; AssertionError after `limit_s`.

        `other_than`: a pid that has run it, and is not meant.
        """
        return self._wait(job, limit_s, other_than)[1]

    def kill_child(self, job: Job | str) -> int:
        """SIGKILL the child that runs the job, as the kernel does when memory is short; its pid, once that is settled.

        A child that had not read the job when it died is no crash of the job's: then the next one is killed.
        """
        grace_s = LOOK_EVERY_S
        while True:
            (queue, job_id), pid = self._wait(job)
            grace_s *= 2  # nobody hears when a child has read its job, and a job is not interrupted for ever
            time.sleep(grace_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if self._settled(queue, job_id, pid) != "Interrupted":
                return pid

    def freeze(self, job: Job | str) -> int:
        """Stop the child that runs the job where it stands, as a debugger or a frozen container does; its pid."""
        pid = self._signal(job, signal.SIGSTOP)
        self._frozen.add(pid)
        deadline = time.monotonic() + LIMIT_S
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
                time.sleep(LOOK_EVERY_S)  # a signal is delivered when the kernel comes to it
        return pid

    def thaw(self, job: Job | str) -> int:
        """Let a frozen child go on; its pid."""
        pid = self._signal(job, signal.SIGCONT)
        self._frozen.discard(pid)
        return pid

    def lose_lock(self, job: Job | str) -> None:
        """Take the job's lock away, as if it had run out: the supervisor finds out at its next renewal."""
        (queue, job_id), _ = self._wait(job)
        self._store.run(Read((("DEL", QueueKeys(queue, self._prefix).lock(job_id)),), bool))

    def stop(self, *, at_once: bool = False) -> None:
        """Drain and end the supervisor; `at_once` kills what runs. It is over when this returns."""
        if self._stopped:
            return
        self._stopped = True
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for _ in range(2 if at_once else 1):
            self._aside.call(self.supervisor.stop)
        try:
            self._aside.run(self.supervisor.wait())
        finally:
            self._close()

    def _close(self) -> None:
        self._aside.close()
        self._store.close()
        if self._server is not None:
            self._server.close()

    def _signal(self, job: Job | str, number: signal.Signals) -> int:
        _, pid = self._wait(job)
        os.kill(pid, number)
        return pid

    def _settled(self, queue: str, job_id: str, pid: int) -> str:
        """How the attempt on that child ended: the name of its Outcome."""
        with self._news:
            if not self._news.wait_for(lambda: self._running.get((queue, job_id)) != pid, LIMIT_S):
                raise AssertionError(f"the death of child {pid} was not noticed within {LIMIT_S:g}s")
            ends = (fact for fact in self.facts if isinstance(fact, Settled))
            return [end.outcome for end in ends if (end.queue, end.job_id) == (queue, job_id)][-1]

    def _wait(
        self, job: Job | str, limit_s: float = LIMIT_S, other_than: int | None = None
    ) -> tuple[tuple[str, str], int]:
        with self._news:
            if found := self._news.wait_for(lambda: self._find(job, other_than), limit_s):
                return found
            said = "\n".join(f"  {fact}" for fact in self.facts[-10:])
        job_id = job.id if isinstance(job, Job) else job
        raise AssertionError(f"job {job_id} did not run within {limit_s:g}s; the supervisor last said:\n{said}")

    def _find(self, job: Job | str, other_than: int | None) -> tuple[tuple[str, str], int] | None:
        for (queue, job_id), pid in self._running.items():
            meant = (queue, job_id) == (job.queue, job.id) if isinstance(job, Job) else job_id == job
            if meant and pid != other_than:
                return (queue, job_id), pid
        return None

    def _hear(self, fact: Fact) -> None:
        with self._news:
            self.facts.append(fact)
            if isinstance(fact, Started):
                self._running[fact.queue, fact.job_id] = fact.pid
            elif isinstance(fact, Settled):
                self._running.pop((fact.queue, fact.job_id), None)
            self._news.notify_all()
