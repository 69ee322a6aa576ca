"""What may happen to a supervisor itself: blocked, frozen, killed at a bad moment, out of files or processes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from cgroup import cgroup, enter
from harness import Served, SupervisorProcess, eventually, handlers, lives, serving, wait_gone
from network import FOREVER, ChaosProxy
from redis import Redis

from sandq.clock import boottime
from sandq.config import Lease, SupervisorSettings
from sandq.queue import Queue
from sandq.store import work
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.script import load_all
from sandq.supervisor.facts import Fact, LauncherDied, ProcessorBroken, Progressed, Settled, Started
from sandq.supervisor.loop import Supervisor

LOCK_S = 1.5


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as made:
        yield made


@pytest.fixture
def serve(redis_url: str, prefix: str) -> Iterator[Callable[..., Served]]:
    """Start supervisors in threads of this process; they end with the test."""
    with ExitStack() as ends:

        def start(url: str = redis_url, *, lock_s: float = LOCK_S, concurrency: int = 1, **settings: Any) -> Served:
            queues = {"render": handlers(concurrency=concurrency)}
            return ends.enter_context(serving(queues, url, prefix, lock_s=lock_s, **settings))

        yield start


@pytest.fixture
def supervise(redis_url: str, prefix: str) -> Iterator[Callable[..., SupervisorProcess]]:
    """Start supervisors as processes; they end with the test."""
    with ExitStack() as ends:

        def start(url: str = redis_url, **asked: Any) -> SupervisorProcess:
            return ends.enter_context(SupervisorProcess(url, prefix, **{"lock_s": LOCK_S, **asked}))

        yield start


@pytest.fixture
def end(tmp_path: Path) -> Iterator[Path]:
    """The file that jobs wait for; there at the latest when the test is over."""
    path = tmp_path / "end"
    yield path
    path.touch()


@pytest.fixture
def way(redis_url: str) -> Iterator[ChaosProxy]:
    """A way to the shared server, which knows every script: else what is lost is an answer that says NOSCRIPT."""
    with Redis.from_url(redis_url, protocol=2) as client:
        for script in load_all():
            client.script_load(script.source)
    proxy = ChaosProxy(Path(redis_url.removeprefix("unix://")))
    try:
        yield proxy
    finally:
        proxy.close()


def completions(queue: Queue, job_id: str) -> int:
    return sum(event.job_id == job_id for event in queue.events(since="0", block=0.01, names="completed"))


# -- blocked -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_case_62_a_callback_that_blocks_the_event_loop_for_two_locks_costs_no_job_anything(
    queue: Queue, serve: Callable[..., Served], end: Path
) -> None:
    only = serve()
    blocked = threading.Event()

    def block(fact: Fact) -> None:
        if isinstance(fact, Started):
            time.sleep(2 * LOCK_S)
            blocked.set()

    only.supervisor._listeners.append(block)
    job = queue.add("waits", {"until": str(end)})
    assert blocked.wait(10)
    end.touch()
    assert queue.result(job, timeout=10) == "seen"
    assert only.supervisor.stats()["locks_lost"] == 0
    assert len(only.facts.all(Started, job_id=job.id)) == 1


@pytest.mark.slow
def test_case_63_a_host_that_holds_the_gil_loses_its_children_and_lives_on(
    queue: Queue,
    serve: Callable[..., Served],
    supervise: Callable[..., SupervisorProcess],
    tmp_path: Path,
    end: Path,
) -> None:
    stamps = tmp_path / "stamps"
    host = serve()
    job = queue.add("stamps", {"path": str(stamps), "until": str(end)})
    child = host.facts.wait(Started, job_id=job.id).pid
    eventually(lambda: child in lives(stamps), "the child stamps")
    other = supervise()
    began = boottime()
    ctypes.PyDLL(None).usleep(int(2.2 * LOCK_S * 1e6))  # a C call that does not release the GIL
    second = other.facts.wait(Started, job_id=job.id).pid
    eventually(lambda: second in lives(stamps), "the second child stamps")
    assert lives(stamps)[child][1] < lives(stamps)[second][0]
    assert lives(stamps)[child][1] / 1e9 < began + LOCK_S

    late = host.facts.wait(Settled, job_id=job.id)
    assert (late.outcome, late.word) == ("LockLost", "lost")
    end.touch()
    assert queue.result(job, timeout=10) == second
    assert completions(queue, job.id) == 1
    other.kill()
    assert queue.result(queue.add("ok", 1), timeout=10) == 1


# -- frozen ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_case_61_a_supervisor_frozen_with_its_children_for_two_locks_stops_them_within_50_ms_of_its_thaw(
    queue: Queue, supervise: Callable[..., SupervisorProcess], tmp_path: Path, end: Path
) -> None:
    stamps = tmp_path / "stamps"
    first = supervise()
    job = queue.add("stamps", {"path": str(stamps), "until": str(end)})
    child = first.facts.wait(Started, job_id=job.id).pid
    eventually(lambda: child in lives(stamps), "the child stamps")
    other = supervise()
    with cgroup("freezer") as group:
        enter(group, first.pid)
        state = group / "freezer.state"
        state.write_text("FROZEN")
        eventually(lambda: state.read_text().strip() == "FROZEN", "all of it is frozen")
        frozen_at = boottime()
        try:
            second = other.facts.wait(Started, job_id=job.id).pid
            eventually(lambda: second in lives(stamps), "the second child stamps")
            assert lives(stamps)[child][1] / 1e9 < frozen_at
            time.sleep(max(0.0, frozen_at + 2 * LOCK_S - boottime()))  # the freeze itself
        finally:
            thawed_at = boottime()
            state.write_text("THAWED")
        wait_gone(child, 1.0)
        overlap_s = lives(stamps)[child][1] / 1e9 - thawed_at
        print(f"the frozen child ran {max(0.0, overlap_s) * 1000:.1f} ms after its thaw")
        assert overlap_s < 0.05
        assert first.facts.wait(Settled, job_id=job.id).word == "lost"
        end.touch()
        assert queue.result(job, timeout=10) == second
        assert completions(queue, job.id) == 1


# -- killed at a bad moment --------------------------------------------------------------------------------------------


def descendants_env(mark: str) -> list[int]:
    """Living processes that carry our mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and mark in process.environ().get("TMPDIR", ""):
                found.append(process.pid)
    return found


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.06, 0.1])
def test_case_66_a_sigterm_while_children_are_being_started_leaves_no_process_behind(
    redis_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_s: float
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    starting = SupervisorProcess(redis_url, prefix, concurrency=4)
    try:
        eventually(lambda: psutil.Process(starting.pid).children(), "its launcher is there")
        time.sleep(after_s)  # somewhere in the middle of it
        os.kill(starting.pid, signal.SIGTERM)
        assert starting.wait() == 0
        eventually(lambda: not descendants_env(str(tmp_path)), "nothing of it is left", 5.0)
    finally:
        starting.close()


@pytest.mark.parametrize(
    ("fault", "script"),
    [("silence", "claim"), ("half-open", "settle"), ("silence", "settle")],
    ids=["case_67_claimed_but_never_started", "case_68_done_but_never_settled", "case_68_settled_but_never_told"],
)
def test_a_supervisor_killed_in_the_middle_of_a_call_leaves_a_job_that_ends_once(
    queue: Queue,
    way: ChaosProxy,
    supervise: Callable[..., SupervisorProcess],
    serve: Callable[..., Served],
    fault: Any,
    script: str,
) -> None:
    lease = Lease(LOCK_S)
    first = supervise(way.url)
    way.fault(fault, script, FOREVER)
    job = queue.add("who")
    way.wait_total(fault, script)
    settled = fault == "silence" and script == "settle"
    if fault == "silence":  # Redis has carried it out
        eventually(lambda: queue.job(job.id).finished_on if settled else queue.job(job.id).attempts_started, "done")
    first.kill()
    killed_at = boottime()
    other = serve()
    done = queue.result(job, timeout=10)
    assert completions(queue, job.id) == 1
    assert queue.job(job.id).attempts_made == 1
    if not settled:
        started = other.facts.wait(Started, job_id=job.id)
        assert done["pid"] == started.pid
        assert other.facts.time_of(Started, job_id=job.id) - killed_at < lease.lock_s + 2 * lease.stalled_every_s + 1


def test_a_renewal_that_meets_a_settlement_under_way_costs_nobody_anything(
    queue: Queue, way: ChaosProxy, serve: Callable[..., Served]
) -> None:
    # Redis has carried out the settlement, and with it claimed the second job for the same child; the answer is asked
    # for again only after a renewal of the first job's lock, which Redis does not know any more.
    only = serve(way.url, lock_s=2.0, redis_timeout_s=4.0)
    way.fault("silence", "settle")
    first, second = queue.add_many([("who", None), ("sleeps", {"s": 0.5})])
    way.wait_total("silence", "settle")
    way.wait("pass", "renew")
    assert queue.result(second, timeout=10) == "slept"
    only.facts.wait(Settled, job_id=second.id)
    starts = [only.facts.all(Started, job_id=job.id) for job in (first, second)]
    assert [len(runs) for runs in starts] == [1, 1]
    assert starts[0][0].pid == starts[1][0].pid
    assert only.supervisor.stats()["locks_lost"] == 0


def test_a_renewal_that_meets_the_settlement_of_a_dead_childs_job_counts_no_lost_lock(
    queue: Queue, way: ChaosProxy, serve: Callable[..., Served]
) -> None:
    only = serve(way.url, lock_s=2.0, redis_timeout_s=4.0)
    way.fault("silence", "settle")  # carried out, and the answer asked for again after a renewal
    job = queue.add("kills-itself")
    way.wait_total("silence", "settle")
    way.wait("pass", "renew")
    assert only.facts.wait(Settled, job_id=job.id).outcome == "Crashed"
    assert only.supervisor.stats()["locks_lost"] == 0


# -- in company --------------------------------------------------------------------------------------------------------


def test_case_69_two_supervisors_of_one_name_share_a_queue_and_each_job_runs_once(
    queue: Queue, serve: Callable[..., Served], redis_client: Redis, keys: QueueKeys, end: Path
) -> None:
    both = [serve(name="same", lock_s=3.0) for _ in range(2)]
    held = queue.add_many([("waits", {"until": str(end)})] * 2)
    for job in held:
        eventually(lambda job=job: redis_client.exists(keys.lock(job.id)), "it is claimed")
    tokens = {redis_client.get(keys.lock(job.id)) for job in held}
    assert len(tokens) == 2
    assert len({supervisor["id"] for supervisor in queue.supervisors()}) == 2
    end.touch()
    jobs = held + queue.add_many([("ok", n) for n in range(40)])
    for job in jobs:
        queue.result(job, timeout=20)
    starts = Counter(started.job_id for served in both for started in served.facts.all(Started))
    assert starts == Counter(job.id for job in jobs)
    assert all(served.supervisor.stats()["locks_lost"] == 0 for served in both)


@pytest.mark.parametrize("checkers", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_case_70_many_stalled_checks_at_once_recover_each_job_once(
    redis_url: str, queue: Queue, keys: QueueKeys, redis_client: Redis, checkers: int
) -> None:
    jobs = queue.add_many([("ok", n) for n in range(50)])
    holder = SyncExecutor(redis_url)
    tokens = [f"vanished:{n}" for n in range(len(jobs))]
    claimed = holder.run(work.claim(keys, work.NextClaim(tokens=tokens, lease=Lease(1.0))))
    assert len(claimed.jobs) == len(jobs)
    for job in jobs:
        redis_client.delete(keys.lock(job.id))  # as Redis does when it runs out
    executors = [SyncExecutor(redis_url) for _ in range(checkers)]
    together = threading.Barrier(checkers)
    recovered: list[str] = []

    def check(executor: SyncExecutor) -> None:
        together.wait(10)
        for _ in range(5):
            found = executor.run(work.check_stalled(keys, 1, 10))  # every one of them may look
            recovered.extend(found.recovered)
            time.sleep(0.002)

    threads = [threading.Thread(target=check, args=(executor,)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for executor in (holder, *executors):
        executor.close()
    assert Counter(recovered) == Counter(job.id for job in jobs)
    events = Counter(e.job_id for e in queue.events(since="0", block=0.01, names="stalled"))
    assert events == Counter(job.id for job in jobs)
    assert queue.counts()["waiting"] == len(jobs)
    assert redis_client.llen(keys.key("active")) == 0


# -- out of what a host gives ------------------------------------------------------------------------------------------


@contextmanager
def no_more_files(pid: int) -> Iterator[None]:
    """No further file can be opened by a process."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))  # what is open already stays open
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_case_71_a_supervisor_without_files_lives_and_recovers_when_there_are_some(
    queue: Queue, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(lock_s=3.0, spares=0)
    job = queue.add("killed-once")
    only.facts.wait(Progressed, job_id=job.id)
    child = only.facts.wait(Started, job_id=job.id).pid
    with no_more_files(only.pid):
        os.kill(child, signal.SIGKILL)
        assert only.facts.wait(Settled, job_id=job.id).outcome == "Crashed"
        assert "has too many open files; raise its limit" in only.facts.wait(ProcessorBroken).why
    assert queue.result(job, timeout=15) == 1
    only.signal(signal.SIGTERM)
    assert only.wait() == 0


@pytest.mark.slow
def test_case_71_a_launcher_that_cannot_be_replaced_is_replaced_once_there_are_files(
    queue: Queue, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(lock_s=3.0, spares=0)
    assert queue.result(queue.add("ok", 1), timeout=5) == 1
    launcher = only.launcher
    with no_more_files(only.pid):
        os.kill(launcher, signal.SIGKILL)
        wait_gone(launcher)
        broken = only.facts.wait(ProcessorBroken)
        assert "cannot start a launcher: [Errno 24] Too many open files" in broken.why
    assert only.facts.wait(LauncherDied).pid == launcher
    assert queue.result(queue.add("ok", 2), timeout=15) == 2


def test_case_72_a_fork_that_fails_is_tried_again_and_no_job_pays(
    queue: Queue, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(lock_s=3.0, spares=0)
    job = queue.add("killed-once")
    only.facts.wait(Progressed, job_id=job.id)
    child = only.facts.wait(Started, job_id=job.id).pid
    with cgroup("pids") as group:
        (group / "cgroup.procs").write_text(str(only.launcher))
        (group / "pids.max").write_text("1")
        os.kill(child, signal.SIGKILL)
        broken = only.facts.wait(ProcessorBroken)
        assert "Resource temporarily unavailable" in broken.why
        assert psutil.Process(only.pid).is_running()
        (group / "pids.max").write_text("max")
        assert queue.result(job, timeout=15) == 1
        assert queue.job(job.id).attempts_made == 1


# -- over and over -----------------------------------------------------------------------------------------------------


def held() -> tuple[int, int, int]:
    """Open files, threads and children of this process."""
    this = psutil.Process()
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), len(this.children())


@pytest.mark.parametrize("times", [12, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(400)])])
def test_case_74_starting_and_closing_over_and_over_leaves_nothing_behind(
    redis_url: str, prefix: str, times: int
) -> None:
    settings = SupervisorSettings(lease=Lease(2.0), prefix=prefix)
    queues = {"render": handlers(concurrency=1, spares=0)}

    async def one() -> None:
        async with Supervisor(queues, redis_url, settings=settings):
            pass

    async def many() -> None:
        for n in range(times):
            await one()
            if n == 1:
                seen.append(held())
        seen.append(held())

    seen: list[tuple[int, int, int]] = []
    before = held()
    asyncio.run(many())
    (files, _, children), (files_late, _, children_late) = seen
    assert files_late <= files
    assert children_late == children
    assert held()[1:] == before[1:]  # the loop's own helper threads have ended with it
