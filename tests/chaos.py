"""The chaos run: supervisors, launchers, children, Redis and the network fail at random while jobs come in.

Everything random comes from one seed. Afterwards `Verdict` holds what the traces of the jobs and Redis say.
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
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from harness import LIMIT_S, Facts, SupervisorProcess, eventually
from network import Action, ChaosProxy
from redis.exceptions import RedisError

from sandq.clock import boottime
from sandq.errors import SandqError
from sandq.queue import Queue
from sandq.supervisor.facts import ChildReady, StoreTrouble

if TYPE_CHECKING:
    from conftest import RedisServer

LOCK_S = 2.0
SUPERVISORS = 2
JOB_EVERY_S = 0.25
BACKLOG = 60  # no more are added while so many wait: faults cost more time than there is, and the end has a limit
SHORT_S = (0.05, 0.5)
JOBS = str(Path(__file__).with_name("stamped.py"))
KINDS = ("ends", "ends", "ends", "ends", "ends", "raises", "fails", "crashes")
# Of all requests on the way to Redis, all the time.
SHARES: dict[Action, float] = {"drop-reply": 0.02, "drop-request": 0.02, "cut": 0.01, "delay": 0.02, "drip": 0.02}
# A job that is killed by chaos is not to blame, and this run is about what becomes of it: forgive nearly all.
FORGIVING = {"max_crashes": 50, "max_interruptions": 100, "max_stalled_count": 50}
END_LIMIT_S = 60.0


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
class Mix:
    """What goes wrong how often and for how long, and the jobs meanwhile; `python_path` may weaken the supervisors."""

    weights: Mapping[str, int] = field(default_factory=lambda: WEIGHTS)
    long_s: tuple[float, float] = (2.0, 4.0)  # such a one can outlive the lock of a frozen supervisor
    long_share: float = 0.12
    freeze_locks: tuple[float, float] = (0.1, 2.5)
    freeze_launcher: float = 0.5  # in so many of the cases together with the supervisor
    concurrency: int = 2
    python_path: tuple[Path, ...] = ()


@dataclass
class Run:
    """One run of a job, as its trace tells it."""

    fence: int
    first: int
    last: int
    ended: bool


@dataclass
class Tally:
    """What was done and what came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    exchanges: Counter[str] = field(default_factory=Counter)
    added: dict[str, str] = field(default_factory=dict)  # job id -> kind
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
        self.proxy.chaos(SHARES)
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
        settings = {"redis_timeout_s": 5.0, "drain_timeout_s": 2.0}
        plan: dict[str, Any] = {"processor": JOBS, "concurrency": self.mix.concurrency, **FORGIVING}
        path = self.mix.python_path
        made = SupervisorProcess(
            self.proxy.url, self.prefix, lock_s=LOCK_S, settings=settings, python_path=path, **plan
        )
        self.said.append(made.facts)
        return made

    def _all_ended(self) -> bool:
        return self._unfinished() <= 0

    def _is_full(self) -> bool:
        try:
            return self._unfinished() > BACKLOG
        except SandqError:  # away for longer than anybody waits
            return True

    def _unfinished(self) -> int:
        counts = self.queue.counts()
        return len(self.tally.added) - counts["completed"] - counts["failed"]

    def _produce(self) -> None:
        """Add jobs over the same bad way. An add whose outcome is unknown is repeated under the same job id."""
        rng, number = random.Random(self.rng.random()), 0
        with Queue("render", redis=self.proxy.url, prefix=self.prefix, redis_timeout=2.0) as queue:
            while not self._stopping.wait(JOB_EVERY_S * rng.uniform(0.5, 1.5)):
                if self._is_full():
                    continue
                number += 1
                kind = rng.choice(KINDS)
                length = self.mix.long_s if rng.random() < self.mix.long_share else SHORT_S
                data = {"folder": str(self.folder), "s": rng.uniform(*length), "kind": kind}
                # Its own backoff: chaos kills some jobs many times, and sandq's grows with each crash.
                asked: dict[str, Any] = {"job_id": f"c{number}", "attempts": 2, "backoff": "fixed:500ms"}
                asked |= {"remove_on_complete": False, "remove_on_fail": False, "priority": rng.choice([0, 0, 1, 5])}
                if rng.random() < 0.2:
                    asked["delay"] = rng.uniform(0.1, 2.0)
                while True:
                    try:
                        queue.add(kind, data, **asked)
                    except SandqError:
                        self.tally.add_errors += 1
                    else:
                        self.tally.added[f"c{number}"] = kind
                        break

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
            self.rng.choice(children).kill()

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


# -- what came of it ---------------------------------------------------------------------------------------------------


def runs_of(trace: Path) -> list[Run]:
    """The runs of a job in the order in which they began; a half-written last line is not counted."""
    found: dict[int, Run] = {}
    for line in trace.read_text().splitlines(keepends=True) if trace.exists() else ():
        if not line.endswith("\n"):
            continue
        fence, at, mark = line.split()
        run = found.setdefault(int(fence), Run(int(fence), int(at), int(at), ended=False))
        run.last, run.ended = max(run.last, int(at)), run.ended or mark == "E"
    return sorted(found.values(), key=lambda run: run.first)


def overlaps(job_id: str, runs: list[Run]) -> list[str]:
    """I2: where a run began before the one before it had ended, or with a fence that had not grown."""
    broken: list[str] = []
    for before, after in pairwise(runs):
        if after.first <= before.last:
            overlap_ms = (before.last - after.first) / 1e6
            broken.append(f"I2: job {job_id} ran twice at once for {overlap_ms:.1f} ms (fence {after.fence})")
        if after.fence <= before.fence:
            broken.append(f"I2: job {job_id} has fence {after.fence} after {before.fence}")
    return broken


@dataclass
class Verdict:
    """Every invariant that does not hold, in words; and the figures of the run."""

    broken: list[str]
    figures: dict[str, Any]


def judge(chaos: Chaos) -> Verdict:
    """Hold the traces, the events and the keys against what was promised."""
    broken: list[str] = []
    ends = Counter(
        (event.job_id, event.name) for event in chaos.queue.events(since="0", block=0.01, names=("completed", "failed"))
    )
    total = Counter[str]()
    for job_id in chaos.tally.added:
        broken += _judge_job(chaos, job_id, ends, total)
    broken += [f"P7: {fact.why}" for said in chaos.said for fact in said.all(StoreTrouble) if "internal" in fact.why]
    if chaos.tally.ended_by_itself:
        broken.append(f"P7: {chaos.tally.ended_by_itself} supervisors ended by themselves")
    counts = chaos.queue.counts()
    expected = {"completed": total["completed"], "failed": total["failed"]}
    rest = {state: count for state, count in counts.items() if count and state not in expected}
    if (
        rest
        or {state: counts[state] for state in expected} != expected
        or sum(expected.values()) != len(chaos.tally.added)
    ):
        broken.append(f"I4: Redis counts {counts}, {len(chaos.tally.added)} jobs were added, {dict(total)} found")
    figures = {
        **total,
        "jobs": len(chaos.tally.added),
        "faults": dict(chaos.tally.faults),
        "exchanges": dict(chaos.tally.exchanges),
        "adds repeated": chaos.tally.add_errors,
        "all ended after calm (s)": round(chaos.tally.recovered_in_s, 1),
    }
    return Verdict(broken, figures)


def _judge_job(chaos: Chaos, job_id: str, ends: Counter[tuple[str, str]], total: Counter[str]) -> list[str]:
    broken: list[str] = []
    job, runs = chaos.queue.job(job_id), runs_of(chaos.folder / job_id)
    state = str(chaos.queue.state(job_id))
    total[state] += 1
    total["runs"] += len(runs)
    total["runs cut short"] += sum(not run.ended for run in runs)
    if (ends[job_id, "completed"], ends[job_id, "failed"]) != (state == "completed", state == "failed"):
        told = {event: count for (id_, event), count in ends.items() if id_ == job_id}
        broken.append(f"I1: job {job_id} is {state} and was said to have ended as {told}")
    broken += overlaps(job_id, runs)
    if state == "failed" and chaos.tally.added[job_id] != "fails":
        broken.append(f"I1: job {job_id} ({chaos.tally.added[job_id]}) failed: {job.failed_reason}")
    if state == "completed":
        fence = job.returnvalue["fence"]
        if fence not in [run.fence for run in runs if run.ended]:
            broken.append(f"I3: job {job_id} has the result of run {fence}, which did not end")
        if runs and fence != runs[-1].fence:
            broken.append(f"I3: job {job_id} ran again after the run {fence} whose result it has")
    return broken


def left_behind(chaos: Chaos, mark: str) -> list[str]:
    """I5: locks, processes and zombies that outlived the run."""
    with chaos.server.client() as client:
        locks = [key.decode() for key in client.scan_iter(f"{chaos.prefix}:*:lock", count=1000)]
    found = [f"I5: lock {lock}" for lock in locks]
    with contextlib.suppress(TimeoutError):
        eventually(lambda: not marked(mark), "no process is left", LIMIT_S)
    found += [f"I5: process {process}" for process in marked(mark)]
    zombies = [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]
    return found + [f"I5: zombie {zombie}" for zombie in zombies]


def marked(mark: str) -> list[str]:
    """Living processes with this folder for temporary files, other than our own."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("TMPDIR") == mark:
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found
