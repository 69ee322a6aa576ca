"""The chaos run: supervisors, launchers, children, Redis and the network fail at random while jobs come in.

Everything random comes from one seed. Afterwards `verdicts.judge` says what the traces of the jobs and Redis tell.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from harness import Facts, SupervisorProcess, eventually
from network import Action, ChaosProxy
from redis.exceptions import RedisError

from sandq.clock import boottime
from sandq.errors import SandqError
from sandq.queue import Queue
from sandq.supervisor.facts import ChildReady

if TYPE_CHECKING:
    from conftest import RedisServer

LOCK_S = 2.0
SUPERVISORS = 2
JOBS = str(Path(__file__).with_name("stamped.py"))
# Of all requests on the way to Redis, all the time.
SHARES: dict[Action, float] = {"drop-reply": 0.02, "drop-request": 0.02, "cut": 0.01, "delay": 0.02, "drip": 0.02}
# A job that is killed by chaos is not to blame, and this run is about what becomes of it: forgive nearly all.
FORGIVING = {"max_crashes": 50, "max_interruptions": 100, "max_stalled_count": 50}
END_LIMIT_S = 60.0
OVERSTAYS_S = 0.5


# How often each fault comes, relative to the others.
WEIGHTS = {
    "kill_child": 10,
    "kill_launcher": 3,
    "kill_supervisor": 4,
    "drain_supervisor": 2,
    "freeze_supervisor": 6,
    "restart_server": 3,
    "pause_server": 2,
    "partition": 3,
    "refuse": 2,
    "kill_clients": 3,
    "flush_scripts": 2,
}


@dataclass(frozen=True)
class Work:
    """The jobs that come in: of which kinds (see `stamped`), how long, how many at once, and how often."""

    kinds: Mapping[str, int] = field(default_factory=lambda: {"ends": 5, "raises": 1, "fails": 1, "crashes": 1})
    short_s: tuple[float, float] = (0.05, 0.5)
    long_s: tuple[float, float] = (2.0, 4.0)  # such a one can outlive the lock of a frozen supervisor
    long_share: float = 0.12
    step_s: float = 0.005
    bunch: int = 1
    every_s: float = 0.25
    backlog: int = 60  # no more are added while so many wait: faults cost more than there is time for at the end
    cancels: int = 0  # of those that are active, each time that others are added


# All that makes a job wait in a child's mailbox, begin there by itself, and come back: they are so short that each
# child has one placed behind its job, and now and then one is not.
BRIEF = Work(
    {
        "ends": 140,
        "prints": 20,
        "raises": 12,
        "fails": 8,
        "reports": 12,
        "crashes": 2,
        "chatters": 2,
        "overstays": 2,
        "leaves a file": 2,
        "leaves a thread": 2,
    },
    short_s=(0.0, 0.02),
    long_s=(0.1, 0.6),
    long_share=0.005,
    step_s=0.001,
    bunch=60,
    every_s=0.1,
    backlog=240,
    cancels=2,
)


@dataclass(frozen=True)
class Mix:
    """What goes wrong how often and for how long, and the jobs meanwhile.

    `python_path` and `mutation` may weaken the supervisors.
    """

    weights: Mapping[str, int] = field(default_factory=lambda: WEIGHTS)
    shares: Mapping[Action, float] = field(default_factory=lambda: SHARES)
    work: Work = field(default_factory=Work)
    freeze_locks: tuple[float, float] = (0.1, 2.5)
    freeze_launcher: float = 0.5  # in so many of the cases together with the supervisor
    concurrency: int = 2
    keep_output: str = "failed"
    cancel_every_s: float = 1.0
    python_path: tuple[Path, ...] = ()
    mutation: str = "tells of mailboxes"


@dataclass
class Tally:
    """What was done and what came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    exchanges: Counter[str] = field(default_factory=Counter)
    added: dict[str, str] = field(default_factory=dict)  # job id -> kind
    cancelled: set[str] = field(default_factory=set)  # somebody asked for their end
    killed: set[int] = field(default_factory=set)  # children
    add_errors: int = 0
    ended_by_itself: int = 0
    recovered_in_s: float = 0.0


class Chaos:
    """A server that keeps its data, a bad way to it, and supervisors that are killed and replaced."""

    def __init__(self, server: RedisServer, prefix: str, folder: Path, seed: int, mix: Mix) -> None:
        self.server, self.prefix, self.folder, self.mix = server, prefix, folder, mix
        self.rng = random.Random(seed)
        self.proxy = ChaosProxy(server.socket, seed)
        self.queue = Queue("render", redis=server.url, prefix=prefix, redis_timeout=30.0)
        self.tally = Tally()
        self.said: list[Facts] = []  # by every supervisor there ever was
        self._supervisors: list[SupervisorProcess] = []
        self._stopping = threading.Event()
        self._server_busy = threading.Lock()
        # Every event is needed afterwards: the default keeps ten thousand.
        with server.client() as client:
            client.hset(f"{prefix}:render:meta", "opts.maxLenEvents", 10_000_000)

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Disturb for so long, then let everything end."""
        self._supervisors = [self._start() for _ in range(SUPERVISORS)]
        producer = threading.Thread(target=self._produce, name="producer")
        producer.start()
        self.proxy.chaos(self.mix.shares)
        ends_at = boottime() + seconds
        while boottime() < ends_at:
            self._disturb()
            self._revive()
            time.sleep(self.rng.uniform(0.1, 0.9))
        self._stopping.set()
        self.proxy.calm()
        self.proxy.heal()
        producer.join()
        self._count_exchanges()
        self._revive()
        calm_at = boottime()
        try:
            eventually(self._all_ended, "every job has ended", END_LIMIT_S)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; left: {self._left()}") from None
        self.tally.recovered_in_s = boottime() - calm_at

    def _left(self) -> list[str]:
        """What has not ended, and what is known of it."""
        unfinished = ("active", "waiting", "prioritized", "delayed")
        jobs = [(state, job) for state in unfinished for job in self.queue.jobs(state, limit=5)]
        return [str(self.queue.counts()), *(f"{state} {job}" for state, job in jobs)]

    def drain(self) -> list[int]:
        """Stop the supervisors in peace; their exit codes."""
        for supervisor in self._supervisors:
            supervisor.signal(signal.SIGTERM)
        return [supervisor.wait(40.0) for supervisor in self._supervisors]

    def close(self) -> None:
        self._stopping.set()
        self.proxy.close()
        for supervisor in self._supervisors:
            supervisor.close()
        self.queue.close()

    def _start(self) -> SupervisorProcess:
        mix = self.mix
        settings = {"redis_timeout_s": 5.0, "drain_timeout_s": 2.0, "cancel_every_s": mix.cancel_every_s}
        made = SupervisorProcess(
            self.proxy.url,
            self.prefix,
            lock_s=LOCK_S,
            mutation=mix.mutation,
            settings=settings,
            python_path=mix.python_path,
            processor=JOBS,
            concurrency=mix.concurrency,
            keep_output=mix.keep_output,
            **FORGIVING,
        )
        self.said.append(made.facts)
        return made

    def _all_ended(self) -> bool:
        return self._unfinished() <= 0

    def _is_full(self) -> bool:
        try:
            return self._unfinished() > self.mix.work.backlog
        except SandqError:  # away for longer than anybody waits
            return True

    def _unfinished(self) -> int:
        counts = self.queue.counts()
        return len(self.tally.added) - counts["completed"] - counts["failed"]

    def _produce(self) -> None:
        """Add jobs over the same bad way. An add whose outcome is unknown is repeated under the same job ids."""
        rng, work, number = random.Random(self.rng.random()), self.mix.work, 0
        with Queue("render", redis=self.proxy.url, prefix=self.prefix, redis_timeout=2.0) as queue:
            while not self._stopping.wait(work.every_s * rng.uniform(0.5, 1.5)):
                if self._is_full():
                    continue
                bunch = {f"c{number + nth}": self._job(rng) for nth in range(1, work.bunch + 1)}
                number += len(bunch)
                while True:
                    try:
                        queue.add_many([{"job_id": job_id, **asked} for job_id, asked in bunch.items()])
                    except SandqError:
                        self.tally.add_errors += 1
                    else:
                        self.tally.added |= {job_id: asked["name"] for job_id, asked in bunch.items()}
                        break
                self._cancel(rng)

    def _job(self, rng: random.Random) -> dict[str, Any]:
        """What to ask of `add` for the next job."""
        work = self.mix.work
        [kind] = rng.choices(list(work.kinds), list(work.kinds.values()))
        length = work.long_s if rng.random() < work.long_share else work.short_s
        data = {"folder": str(self.folder), "s": rng.uniform(*length), "step_s": work.step_s, "kind": kind}
        # Its own backoff: chaos kills some jobs many times, and sandq's grows with each crash.
        asked: dict[str, Any] = {"name": kind, "data": data, "attempts": 2, "backoff": "fixed:500ms"}
        asked |= {"remove_on_complete": False, "remove_on_fail": False, "priority": rng.choice([0, 0, 1, 5])}
        if kind == "overstays":
            asked["timeout"] = rng.uniform(0.01, 0.05)
            data["s"] = OVERSTAYS_S
        if rng.random() < 0.2:
            asked["delay"] = rng.uniform(0.1, 2.0)
        return asked

    def _cancel(self, rng: random.Random) -> None:
        """Some that run, or wait for a child with a supervisor; nobody needs to know whether it was asked in time."""
        with contextlib.suppress(SandqError):
            active = self.queue.jobs("active", limit=20)
            for job in rng.sample(active, min(self.mix.work.cancels, len(active))):
                self.tally.cancelled.add(job.id)
                self.queue.cancel(job, "by chaos")

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def _disturb(self) -> None:
        [name] = self.rng.choices(list(self.mix.weights), list(self.mix.weights.values()))
        self.tally.faults[name] += 1
        fault: Callable[[], None] = getattr(self, f"_{name}")
        with contextlib.suppress(psutil.Error, ProcessLookupError, RedisError):
            fault()

    def _one(self) -> SupervisorProcess:
        return self.rng.choice(self._supervisors)

    def _kill_child(self) -> None:
        launchers = psutil.Process(self._one().pid).children()
        children = [child for launcher in launchers for child in launcher.children()]
        if children:
            child = self.rng.choice(children)
            self.tally.killed.add(child.pid)
            child.kill()

    def _kill_launcher(self) -> None:
        for launcher in psutil.Process(self._one().pid).children():
            launcher.kill()

    def _kill_supervisor(self) -> None:
        self._replace(self._one(), SupervisorProcess.kill)

    def _drain_supervisor(self) -> None:
        def drain(supervisor: SupervisorProcess) -> None:
            os.kill(supervisor.pid, signal.SIGTERM)
            supervisor.wait(40.0)

        self._replace(self._one(), drain)

    def _freeze_supervisor(self) -> None:
        """Alone, or together with its launcher: then only the kernel can fence its children."""
        pids = [self._one().pid]
        if self.rng.random() < self.mix.freeze_launcher:
            self.tally.faults["freeze_launcher"] += 1
            pids += [launcher.pid for launcher in psutil.Process(pids[0]).children()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(self.rng.uniform(*self.mix.freeze_locks) * LOCK_S)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _restart_server(self) -> None:
        self.server.kill()
        time.sleep(self.rng.uniform(0.0, 1.0) * LOCK_S)
        self.server.start()

    def _pause_server(self) -> None:
        self.server.pause()
        time.sleep(self.rng.uniform(0.1, 1.5) * LOCK_S)
        self.server.resume()

    def _partition(self) -> None:
        self.proxy.partition()
        time.sleep(self.rng.uniform(0.1, 2.0) * LOCK_S)
        self.proxy.heal()

    def _refuse(self) -> None:
        self.proxy.refuse()
        time.sleep(self.rng.uniform(0.1, 1.0) * LOCK_S)
        self.proxy.heal()

    def _kill_clients(self) -> None:
        with self.server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _flush_scripts(self) -> None:
        with self.server.client() as client:
            client.script_flush()

    def _replace(self, supervisor: SupervisorProcess, end: Callable[[SupervisorProcess], None]) -> None:
        end(supervisor)
        self._supervisors.remove(supervisor)
        supervisor.close()
        self._supervisors.append(self._start())

    def _revive(self) -> None:
        """Replace a supervisor whose start was refused in the chaos. One that had started must never end by itself."""
        for supervisor in list(self._supervisors):
            if psutil.Process(supervisor.pid).status() != psutil.STATUS_ZOMBIE:
                continue
            if supervisor.facts.all(ChildReady):
                self.tally.ended_by_itself += 1
            self.tally.faults["start_refused"] += 1
            self._replace(supervisor, lambda dead: None)

    def _count_exchanges(self) -> None:
        for (action, _), count in self.proxy.seen.items():
            self.tally.exchanges[action] += count
