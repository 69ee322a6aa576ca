"""Children from their start to their replacement: what a job may leave behind, and who never notices."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import HERE, Served, SupervisorProcess, eventually, serving, wait_gone

from sandq.config import Lease, QueueSettings
from sandq.errors import ProcessorError
from sandq.protocol import Frame, Kind
from sandq.queue import Queue
from sandq.supervisor.facts import ChildDied, ChildReady, LauncherDied, ProcessorBroken, Recycled, Settled, Started
from sandq.supervisor.fleet import Fleet
from sandq.supervisor.heartbeat import Heartbeat
from sandq.supervisor.processor import Processor
from sandq.supervisor.source import answer_to_load, source_of

LEAVERS = str(HERE / "leavers.py")


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as made:
        yield made


@pytest.fixture
def serve(redis_url: str, prefix: str) -> Callable[..., Any]:
    """A supervisor with one child and one spare, unless asked for others."""

    def start(**asked: Any) -> Any:
        ladder = {"soft_stop_s": 0.2, "term_stop_s": 0.2}
        plan = QueueSettings(**{"processor": LEAVERS, "concurrency": 1, **ladder, **asked})
        return serving({"render": plan}, redis_url, prefix)

    return start


both = pytest.mark.parametrize("start", ["exec", "template"])


def result(queue: Queue, name: str, data: Any = None) -> Any:
    return queue.result(queue.add(name, data), timeout=20)


# -- what is left behind -----------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("left", "reason"),
    [
        ("thread", "left 1 thread running: left"),
        ("file", "left 1 file open: "),
        ("program", "left 1 process running: "),
    ],
)
def test_a_child_in_which_something_was_left_runs_no_further_job_and_its_programs_end_with_it(
    queue: Queue, serve: Callable[..., Any], start: str, left: str, reason: str
) -> None:
    with serve(start=start) as served:
        served.facts.wait(ChildReady, nth=2)
        job = queue.add("leaves", left)
        pid = queue.result(job, timeout=20)
        child = served.facts.wait(Started, job_id=job.id).pid
        assert served.facts.wait(Recycled, pid=child).reason.startswith(reason)
        wait_gone(pid, 2.0)
        assert served.facts.wait(ChildDied, pid=child).how == "exit 0"
        assert result(queue, "look")["pid"] != child
        served.facts.wait(ChildReady, nth=3)


@both
def test_a_child_that_keeps_what_its_settings_allow_runs_on(
    queue: Queue, serve: Callable[..., Any], start: str
) -> None:
    with serve(start=start, may_leave=("threads", "files")) as served:
        pids = [result(queue, "leaves", left) for left in ("thread", "file", "nothing")]
        assert len(set(pids)) == 1
        assert served.facts.all(Recycled) == []


@both
def test_a_daemon_of_a_child_that_crashed_ends_with_it(
    queue: Queue, serve: Callable[..., Any], tmp_path: Path, start: str
) -> None:
    note = tmp_path / "daemon"
    with serve(start=start) as served:
        job = queue.add("dies-leaving-daemon", str(note))
        assert served.facts.wait(Settled, job_id=job.id).outcome == "Crashed"
        wait_gone(int(note.read_text()), 2.0)
        queue.result(job, timeout=20)


# -- recycling ---------------------------------------------------------------------------------------------------------


@both
def test_a_child_is_replaced_after_its_jobs_and_the_next_one_is_warm_by_then(
    queue: Queue, serve: Callable[..., Any], start: str
) -> None:
    with serve(start=start, recycle_after=3, spares=0) as served:
        first = [result(queue, "look")["pid"] for _ in range(2)]
        last = queue.add("sleeps", 1.0)  # its replacement loads meanwhile
        served.facts.wait(Started, job_id=last.id)
        served.facts.wait(ChildReady, nth=2)
        assert served.facts.all(Settled, job_id=last.id) == []
        assert [*first, queue.result(last, timeout=20)] == [first[0]] * 3
        assert served.facts.wait(Recycled).reason == "has run 3 jobs"
        assert result(queue, "look")["pid"] != first[0]
        assert served.facts.wait(ChildDied).how == "exit 0"


@both
def test_old_children_are_replaced_one_by_one_and_there_is_always_one_to_take(
    queue: Queue, serve: Callable[..., Any], start: str
) -> None:
    with serve(start=start, recycle_age_s=1.0) as served:
        served.facts.wait(Recycled, nth=2)
        for recycled in served.facts.all(Recycled):
            assert re.fullmatch(r"is [12](\.\d)?s old", recycled.reason)
            left_at = served.facts.time_of(Recycled, pid=recycled.pid)
            ready = [served.facts.time_of(ChildReady, nth=n) for n in range(1, len(served.facts.all(ChildReady)) + 1)]
            gone = [served.facts.time_of(Recycled, nth=n) for n in range(1, len(served.facts.all(Recycled)) + 1)]
            assert sum(at <= left_at for at in ready) - sum(at <= left_at for at in gone) == 2
        assert served.supervisor.stats()["queues"]["render"]["ready"] >= 1


@both
def test_an_idle_child_that_has_run_jobs_is_replaced_and_a_spare_that_has_not_is_left_alone(
    queue: Queue, serve: Callable[..., Any], start: str
) -> None:
    with serve(start=start, recycle_idle_s=0.3) as served:
        served.facts.wait(ChildReady, nth=2)
        used = result(queue, "look")["pid"]
        recycled = served.facts.wait(Recycled)
        assert (recycled.pid, recycled.reason[:18]) == (used, "has been idle for ")
        served.facts.wait(ChildReady, nth=3)
        with pytest.raises(TimeoutError):
            served.facts.wait(Recycled, nth=2, limit_s=1.0)


def drained(served: Served, queue: Queue, count: int) -> float:
    """Jobs a second of `count` small jobs, each of which completed once."""
    began = time.monotonic()
    jobs = queue.add_many([("look", None)] * count)
    served.facts.wait(Settled, nth=count, limit_s=100)
    took = time.monotonic() - began
    settled = served.facts.all(Settled)
    assert [fact for fact in settled if fact.to != "completed"] == []
    assert sorted(fact.job_id for fact in settled) == sorted(job.id for job in jobs)
    return count / took


def lives_over(launcher: psutil.Process, own: int) -> bool:
    """Whether the launcher has so many children, all alive: one that has just ended may still wait to be reaped."""
    try:
        states = [process.status() for process in launcher.children(recursive=True)]
    except psutil.NoSuchProcess:  # reaped while we looked
        return False
    return len(states) == own and psutil.STATUS_ZOMBIE not in states


def recycled_drain(serve: Callable[..., Any], queue: Queue, count: int, start: str) -> None:
    with serve(start=start, concurrency=2) as served:
        plain = drained(served, queue, count)
    with serve(start=start, concurrency=2, recycle_after=10) as served:
        served.facts.wait(ChildReady, nth=3)
        launcher = psutil.Process(served.supervisor.stats()["launcher_pid"])
        files = launcher.num_fds()
        recycling = drained(served, queue, count)
        replaced = len(served.facts.all(Recycled))
        assert replaced >= count // 10 - 2
        own = 3 if start == "exec" else 4  # two slots, a spare, and the template
        eventually(lambda: lives_over(launcher, own), "only its own are left, and no dead one")
        eventually(lambda: launcher.num_fds() == files, "the launcher has no more files open than before")
    print(f"{start}: {count} jobs, {plain:.0f}/s; each child replaced after 10: {recycling:.0f}/s, {replaced} replaced")


@both
def test_no_job_is_lost_while_every_child_is_replaced_after_10_jobs(
    queue: Queue, serve: Callable[..., Any], start: str
) -> None:
    recycled_drain(serve, queue, 100, start)


@pytest.mark.slow
@pytest.mark.timeout(300)
@both
def test_no_job_of_1000_is_lost_while_every_child_is_replaced_after_10_jobs(
    queue: Queue, serve: Callable[..., Any], start: str
) -> None:
    recycled_drain(serve, queue, 1000, start)


# -- processors that break ---------------------------------------------------------------------------------------------


def cli(*args: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "sandq", *args], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    return done.stdout


# -- templates ---------------------------------------------------------------------------------------------------------


def template_of(queue: Queue) -> int:
    """The pid of the process that imported the processor of the next child."""
    return int(result(queue, "look")["imported_by"])


def test_children_of_a_template_share_its_import_and_are_fenced_like_any_other(
    queue: Queue, serve: Callable[..., Any]
) -> None:
    seen = {}
    for start in ("exec", "template"):
        with serve(start=start, spares=0) as served:
            launcher = served.supervisor.stats()["launcher_pid"]
            look = seen[start] = result(queue, "look")
            assert (look.pop("ppid"), look.pop("sid"), look.pop("pgid")) == (launcher, launcher, look["pid"])
            assert (look.pop("imported_by") == look.pop("pid")) == (start == "exec")
            assert int(look.pop("mark")) == (1 if start == "exec" else 2)
    assert seen["template"] == seen["exec"]  # nice, oom score, open files, signals, setup() run once, ...


def test_a_killed_template_loses_nothing_and_is_started_again(queue: Queue, serve: Callable[..., Any]) -> None:
    with serve(start="template", spares=1) as served:
        served.facts.wait(ChildReady, nth=2)
        template = template_of(queue)
        running = queue.add("sleeps", 0.5)
        child = served.facts.wait(Started, job_id=running.id).pid
        os.kill(template, signal.SIGKILL)
        assert served.facts.wait(ChildDied, pid=template).how == "SIGKILL (template)"
        assert queue.result(running, timeout=20) == child
        assert queue.job(running.id).crashes == 0
        last = queue.add("leaves", "thread")  # its child has to be replaced, and only a new template can do that
        assert queue.result(last, timeout=20) == child
        served.facts.wait(ChildReady, nth=3)
        assert served.facts.all(ProcessorBroken) == []
        assert queue.result(queue.add("leaves", "thread"), timeout=20) != child  # the spare, of the old template still
        assert template_of(queue) != template


def ready_ms(start: str) -> float:
    """From the request for a child to its READY, the median of ten; nothing else runs meanwhile."""

    async def measure() -> list[float]:
        heartbeat = Heartbeat(Lease(), lambda _keys, _held: frozenset(), lambda _why: None)
        fleet = Fleet(Lease(), heartbeat.attach, lambda _pid: None)
        processor = Processor.of(LEAVERS)
        source = source_of("q", processor, QueueSettings(start=start), fleet, lambda _fact: None)
        fleet.start()
        heartbeat.start()
        took = []
        try:
            for _ in range(11):
                began = time.monotonic()
                child = await source.start()
                answer = await answer_to_load(child, processor.load_frame(QueueSettings()))
                took.append((time.monotonic() - began) * 1000)
                assert isinstance(answer, Frame)
                assert answer.kind is Kind.READY
        finally:
            await fleet.close()
            await asyncio.to_thread(heartbeat.stop)
        return took[1:]  # the first one pays for launcher and template

    return statistics.median(asyncio.run(measure()))


def test_a_child_of_a_template_is_ready_sooner_than_one_that_imports_for_itself() -> None:
    took = {start: ready_ms(start) for start in ("exec", "template")}
    print(", ".join(f"{start}: ready after {ms:.1f} ms" for start, ms in took.items()))
    assert took["template"] * 3 < took["exec"]


@pytest.fixture
def supervisor(redis_url: str, prefix: str) -> Iterator[SupervisorProcess]:
    """One in a process of its own, whose children are forked."""
    with SupervisorProcess(redis_url, prefix, processor=LEAVERS, start="template", lock_s=1.0) as made:
        yield made


def test_a_job_whose_forked_child_was_killed_runs_again_within_50_ms(
    queue: Queue, supervisor: SupervisorProcess, tmp_path: Path
) -> None:
    took = []
    for number in range(10):
        end = tmp_path / str(number)
        job = queue.add("waits", str(end))
        child = supervisor.facts.wait(Started, job_id=job.id).pid
        supervisor.facts.wait(ChildReady, nth=2 + number)  # the spare is warm
        killed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.kill(child, signal.SIGKILL)
        took.append(supervisor.facts.time_of(Started, job_id=job.id, nth=2) - killed_at)
        end.touch()
        assert queue.result(job, timeout=10) != child
    print(f"SIGKILL to restart, forked children: p50 {statistics.median(took) * 1000:.1f} ms")
    assert statistics.median(took) <= 0.05


def test_a_killed_launcher_takes_forked_children_along_and_their_jobs_run_again(
    queue: Queue, supervisor: SupervisorProcess, tmp_path: Path
) -> None:
    end = tmp_path / "end"
    template = template_of(queue)
    job = queue.add("waits", str(end))
    child = supervisor.facts.wait(Started, job_id=job.id).pid
    os.kill(supervisor.launcher, signal.SIGKILL)
    for pid in (child, template):
        wait_gone(pid, 1.0)
    supervisor.facts.wait(LauncherDied)
    assert supervisor.facts.wait(Settled, job_id=job.id).outcome == "Interrupted"
    end.touch()
    assert queue.result(job, timeout=20) != child


def test_a_frozen_supervisor_loses_its_forked_children_before_their_lock(
    queue: Queue, supervisor: SupervisorProcess, tmp_path: Path
) -> None:
    template = template_of(queue)
    job = queue.add("waits", str(tmp_path / "never"))
    child = supervisor.facts.wait(Started, job_id=job.id).pid
    stopped_at = time.monotonic()
    supervisor.signal(signal.SIGSTOP, supervisor.pid, supervisor.launcher)
    for pid in (child, template):
        wait_gone(pid, 5.0)
    assert time.monotonic() - stopped_at < 1.0  # the lock's time


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=[9], name='pool', daemon=True).start()",
            r"its import left threads running \(pool\); start them in setup\(\), or use start = \"exec\"",
        ),
        (
            "import sys, types\nsys.modules['torch'] = types.SimpleNamespace("
            "cuda=types.SimpleNamespace(is_initialized=lambda: True))",
            r"its import initialised CUDA, .* or use start = \"exec\"",
        ),
        ("raise RuntimeError('no model')", "RuntimeError: no model"),
    ],
    ids=["threads", "cuda", "broken"],
)
def test_a_processor_that_cannot_be_forked_is_refused_at_the_start_with_the_reason(
    serve: Callable[..., Any], tmp_path: Path, code: str, why: str
) -> None:
    processor = tmp_path / "jobs.py"
    processor.write_text(f"{code}\ndef process(job):\n    pass\n")
    with pytest.raises(ProcessorError, match=why), serve(start="template", processor=str(processor)):
        pass
    config = tmp_path / "sandq.toml"
    config.write_text(f'[queues.render]\nprocessor = "{processor}"\nstart = "template"\n')
    assert re.search(f"broken: .*{why}", cli("check", "--config", str(config)))
