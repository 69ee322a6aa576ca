"""A short job waits in the mailbox of a busy child: it begins without anybody's help, and never unseen."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from harness import Placed, SupervisorProcess, eventually, handlers, serving, wait_gone
from network import FOREVER, ChaosProxy

from sandq.config import QueueSettings
from sandq.job import Job, JobState
from sandq.protocol import Frame, Kind
from sandq.queue import Queue
from sandq.supervisor import ahead
from sandq.supervisor.attempt import Attempt
from sandq.supervisor.facts import Recycled, Settled, Started, StoreTrouble
from sandq.supervisor.oom import Watch
from sandq.supervisor.relay import FULL
from sandq.verdict import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import RedisServer
    from harness import Served

ALL = QueueSettings(processor="unused")
SHORT = 200  # jobs until the queue is known for short ones
HELD_S = 20.0  # a job's words are waited for so long


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as queue:
        yield queue


@pytest.fixture
def own_queue(server: RedisServer, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=server.url, prefix=prefix) as queue:
        yield queue


@pytest.fixture
def way(server: RedisServer) -> Iterator[ChaosProxy]:
    made = ChaosProxy(server.socket)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def end(tmp_path: Path) -> Path:
    """The long job runs until it is there."""
    return tmp_path / "end"


@pytest.fixture
def long(queue: Queue, end: Path) -> Job:
    """A long job after many short ones."""
    queue.add_many([("ok", n) for n in range(SHORT)])
    return queue.add("waits", {"until": str(end)})


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is placed stays, however long the job before it runs."""
    monkeypatch.setattr(ahead, "HOLD_S", 60.0)


STEPS = """
import os, signal, sys, time
def process(job):
    match job.name:
        case "short":
            return os.getpid()
        case "sleeps":
            time.sleep(job.data["s"])
            return "slept"
        case "late":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            until = time.monotonic() + job.data["s"]
            while time.monotonic() < until:
                try:
                    time.sleep(0.01)
                except BaseException:
                    continue
        case "leaves":
            while not os.path.exists(job.data["until"]):
                time.sleep(0.005)
            process.left = open(job.data["until"])
        case "writes":
            print(job.data["n"])
            sys.stderr.write(str(job.data["n"]))
        case "talks":
            while not os.path.exists(job.data["until"]):
                time.sleep(0.005)
            for n in range(job.data["lines"]):
                job.log(str(n))
"""


@pytest.fixture
def steps(tmp_path: Path) -> str:
    path = tmp_path / "steps.py"
    path.write_text(STEPS)
    return str(path)


def one_child(**settings: Any) -> QueueSettings:
    return handlers(concurrency=1, **settings)


def talking(processor: str, way: ChaosProxy, prefix: str) -> AbstractContextManager[Served]:
    """Served over a way that holds back whatever a job logs."""
    way.fault("hold", "log", FOREVER)
    settings = QueueSettings(processor=processor, concurrency=1, soft_stop_s=0.2, term_stop_s=0.2)
    return serving({"render": settings}, way.url, prefix, lock_s=HELD_S, redis_timeout_s=2 * HELD_S)


def let_through(way: ChaosProxy) -> None:
    way.calm()
    way.release()


def wait_placed(served: Served, long: Job) -> int:
    """Until the long job runs and the next one is in its child's mailbox; the child's pid."""
    pid = served.facts.wait(Started, job_id=long.id).pid
    lane = served.supervisor._lanes["render"]
    eventually(lambda: any(held.placed for held in lane._slots.held), "a job is placed")
    return pid


# -- it begins by itself -----------------------------------------------------------------------------------------------


def test_the_next_job_begins_while_its_supervisor_stands_still_and_only_that_one(
    queue: Queue, long: Job, end: Path, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    first, second = marks = [tmp_path / "first", tmp_path / "second"]
    job, _ = queue.add_many([("marks", {"path": str(mark)}) for mark in marks])
    with SupervisorProcess(redis_url, prefix, lock_s=5.0, mutation="holds for long") as supervisor:
        supervisor.facts.wait(Started, job_id=long.id)
        supervisor.facts.wait(Placed, job_id=job.id)
        supervisor.signal(signal.SIGSTOP, supervisor.pid)
        end.touch()
        eventually(first.exists, "it began")
        assert not second.exists()
        supervisor.signal(signal.SIGCONT, supervisor.pid)
        eventually(second.exists, "the other began when the supervisor went on")


def test_what_began_by_itself_is_fenced_all_the_same(
    queue: Queue, long: Job, end: Path, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    stamps = tmp_path / "stamps"
    job = queue.add("stamps", {"path": str(stamps), "until": str(tmp_path / "never")})
    with SupervisorProcess(redis_url, prefix, lock_s=1.0, mutation="holds for long") as supervisor:
        child = supervisor.facts.wait(Started, job_id=long.id).pid
        supervisor.facts.wait(Placed, job_id=job.id)
        supervisor.signal(signal.SIGSTOP, supervisor.pid)
        end.touch()
        eventually(stamps.exists, "it began")
        wait_gone(child)
        supervisor.signal(signal.SIGCONT, supervisor.pid)
        assert supervisor.facts.wait(Settled, job_id=job.id).outcome in ("LockLost", "Interrupted")
        supervisor.facts.wait(Started, job_id=job.id, nth=2)
        supervisor.kill()


def test_what_began_by_itself_has_its_timeout_while_redis_takes_no_word_of_the_job_before_it(
    own_queue: Queue, way: ChaosProxy, end: Path, prefix: str, steps: str
) -> None:
    own_queue.add_many([("short", {})] * SHORT)
    talks = own_queue.add("talks", {"until": str(end), "lines": 1})
    placed = own_queue.add("sleeps", {"s": 600}, timeout="100ms")
    with talking(steps, way, prefix) as served:
        wait_placed(served, talks)
        end.touch()
        assert served.facts.wait(Settled, job_id=placed.id, limit_s=HELD_S / 2).outcome == "TimedOut"
        assert served.facts.all(Settled, job_id=talks.id) == []
        let_through(way)
        served.facts.wait(Settled, job_id=talks.id, to="completed")


@pytest.mark.slow
def test_a_job_that_talks_too_much_is_stopped_without_harm_to_the_one_behind_it(
    own_queue: Queue, way: ChaosProxy, end: Path, prefix: str, steps: str
) -> None:
    own_queue.add_many([("short", {})] * SHORT)
    talks = own_queue.add("talks", {"until": str(end), "lines": 2 * FULL}, timeout="2s")
    placed = own_queue.add("sleeps", {"s": 4.0})
    with talking(steps, way, prefix) as served:
        wait_placed(served, talks)
        end.touch()
        served.facts.wait(Settled, job_id=placed.id)
        let_through(way)
        served.facts.wait(Settled, job_id=talks.id, to="completed")
    ended = own_queue.job(placed)
    assert (ended.crashes, ended.interruptions, len(served.facts.all(Settled, job_id=placed.id))) == (0, 0, 1)


# -- it comes back -----------------------------------------------------------------------------------------------------


def test_a_child_that_dies_takes_nothing_of_its_mailbox_along(
    queue: Queue, long: Job, end: Path, redis_url: str, prefix: str
) -> None:
    placed = queue.add("who")
    with serving({"render": one_child()}, redis_url, prefix) as served:
        pid = wait_placed(served, long)
        os.kill(pid, signal.SIGKILL)
        end.touch()
        result = queue.result(placed, timeout=20)
        served.facts.wait(Settled, job_id=long.id, to="completed")
    ended = queue.job(placed)
    assert (ended.crashes, ended.interruptions, ended.attempts_made, ended.stalled_count) == (0, 0, 1, 0)
    assert (
        result["pid"] != pid or queue.job(long).crashes == 0
    )  # unless the long one had ended before its child was hit


def test_the_job_behind_one_that_is_stopped_runs_in_another_child_unharmed(
    queue: Queue, redis_url: str, prefix: str, steps: str
) -> None:
    queue.add_many([("short", {})] * SHORT)
    late = queue.add("late", {"s": 1.0}, timeout="300ms")  # it ends by itself, after SIGTERM and before SIGKILL
    placed = queue.add("sleeps", {"s": 0.5})
    settings = QueueSettings(processor=steps, concurrency=1, soft_stop_s=0.2, term_stop_s=20.0)
    with serving({"render": settings}, redis_url, prefix) as served:
        pid = wait_placed(served, late)
        assert queue.result(placed, timeout=20) == "slept"
        assert served.facts.wait(Started, job_id=placed.id).pid != pid
    assert queue.job(placed).interruptions == 0


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_stop_that_comes_when_the_child_has_taken_the_next_job_is_too_late(end: str) -> None:
    """The child as it is between taking that job and our reading of it."""

    async def stop_late() -> list[str]:
        said: list[str] = []
        child = SimpleNamespace(mailbox=SimpleNamespace(recall=lambda: False), kill=said.append)
        attempt = Attempt(Job(queue="render", id="1", name="ok"), 5, child, ALL, said.append, "", Watch())  # type: ignore[arg-type]
        child.listen = lambda: attempt._receive(Frame(Kind.DONE, 5, {}, b"7"))
        getattr(attempt, end)(Stop("memory", "too much"))
        return said

    assert asyncio.run(stop_late()) == []


def test_a_placed_job_that_is_cancelled_never_begins_and_the_one_before_it_goes_on(
    queue: Queue, long: Job, end: Path, redis_url: str, prefix: str
) -> None:
    placed = queue.add("spin", {})
    with serving({"render": one_child()}, redis_url, prefix, cancel_every_s=0.05) as served:
        wait_placed(served, long)
        queue.cancel(placed)
        lane = served.supervisor._lanes["render"]
        eventually(lambda: not any(held.placed for held in lane._slots.held), "it is taken back")
        end.touch()
        assert queue.result(long, timeout=20) == "seen"
        served.facts.wait(Settled, job_id=placed.id, outcome="Cancelled")
        assert served.facts.all(Started, job_id=placed.id) == []


def test_a_supervisor_that_drains_takes_back_what_is_placed(
    queue: Queue, long: Job, end: Path, redis_url: str, prefix: str
) -> None:
    placed = queue.add("ok", 7)
    with serving({"render": one_child()}, redis_url, prefix) as served:
        wait_placed(served, long)
        served.stop()
        eventually(lambda: queue.state(placed) is JobState.WAITING, "it waits again")
        end.touch()
        served.facts.wait(Settled, job_id=long.id, to="completed")
        assert served.facts.all(Started, job_id=placed.id) == []


def test_a_job_that_leaves_something_behind_is_followed_by_none(
    queue: Queue, end: Path, redis_url: str, prefix: str, steps: str
) -> None:
    queue.add_many([("short", {})] * SHORT)
    leaves = queue.add("leaves", {"until": str(end)})
    placed = queue.add("short", {})
    with serving({"render": QueueSettings(processor=steps, concurrency=1)}, redis_url, prefix) as served:
        pid = wait_placed(served, leaves)
        end.touch()
        assert queue.result(placed, timeout=20) != pid
        served.facts.wait(Recycled, pid=pid)


def test_a_job_that_says_another_has_begun_is_ended_and_the_placed_one_runs(
    queue: Queue, redis_url: str, prefix: str
) -> None:
    queue.add_many([("ok", n) for n in range(SHORT)])
    liar, placed = queue.add_many([("begins-another", None), ("ok", 7)])
    with serving({"render": one_child(max_crashes=0)}, redis_url, prefix) as served:
        served.facts.wait(Settled, job_id=liar.id, to="failed")
        assert queue.result(placed, timeout=20) == 7
    assert "not its turn" in queue.job(liar).failed_reason
    assert queue.job(placed).crashes == 0


def test_what_began_behind_a_job_at_which_the_supervisor_failed_is_recovered(
    queue: Queue, long: Job, end: Path, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = queue.add("sleeps", {"s": 0.3})
    ran = ahead.Ahead.ran

    def fail_once(ahead_: ahead.Ahead, wall_s: float) -> None:
        if end.exists():
            monkeypatch.setattr(ahead.Ahead, "ran", ran)
            raise RuntimeError("a bug of ours")

    with serving({"render": one_child()}, redis_url, prefix, lock_s=1.0) as served:
        wait_placed(served, long)
        monkeypatch.setattr(ahead.Ahead, "ran", fail_once)
        end.touch()
        served.facts.wait(StoreTrouble, why="internal error: RuntimeError: a bug of ours")
        assert queue.result(placed, timeout=20) == "slept"
        assert queue.result(long, timeout=20) == "seen"


def test_what_a_job_says_wrongly_in_the_same_breath_is_not_charged_to_the_one_before_it(
    queue: Queue, redis_url: str, prefix: str
) -> None:
    queue.add_many([("ok", n) for n in range(SHORT)])
    good, liar = zip(*[queue.add_many([("ok", n), ("garbage-everywhere", None)]) for n in range(5)], strict=True)
    with serving({"render": one_child(max_crashes=0)}, redis_url, prefix) as served:
        for job in liar:
            served.facts.wait(Settled, job_id=job.id, to="failed")
    assert [queue.state(job) for job in good] == [JobState.COMPLETED] * 5
    assert ["frame magic" in str(queue.job(job).failed_reason) for job in liar] == [True] * 5


# -- what it writes ----------------------------------------------------------------------------------------------------


def test_what_a_job_writes_is_its_own_wherever_the_next_one_begins(
    queue: Queue, redis_url: str, prefix: str, steps: str
) -> None:
    assert _strangers_lines(queue, redis_url, prefix, steps) == 0


def test_it_would_be_the_next_ones_if_that_began_before_all_was_read(
    queue: Queue, redis_url: str, prefix: str, steps: str
) -> None:
    """The same with children that begin the next job whatever is still in their pipes."""
    rash = Path(steps).with_name("rash.py")
    rash.write_text("import sandq.child.loop\nsandq.child.loop._all_is_read = lambda: True\n" + Path(steps).read_text())
    assert _strangers_lines(queue, redis_url, prefix, str(rash)) > 0


def _strangers_lines(queue: Queue, redis_url: str, prefix: str, processor: str) -> int:
    """How many lines of output are kept with a job that did not write them, of jobs that write now and then."""
    jobs = queue.add_many([("writes" if n % 3 else "short", {"n": n}) for n in range(3 * SHORT)])
    settings = QueueSettings(processor=processor, concurrency=2, keep_output="always")
    with serving({"render": settings}, redis_url, prefix, burst=True) as served:
        served.facts.wait(Settled, nth=len(jobs), limit_s=40)
    wrong = 0
    for n, job in enumerate(jobs):
        lines = queue.logs(job)
        own = [f"[stdout] {n}", f"[stderr] {n}"] if n % 3 else []
        wrong += sorted(lines) != sorted(own)
    return wrong
