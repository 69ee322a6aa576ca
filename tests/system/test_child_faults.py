"""What the other fault tests leave: memory, fork bombs, a killed parent, a last word, far more burners than cores."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from gluttons import BOMB
from harness import HERE, completions, eventually, handlers, serving
from test_burners import burn

from sandq.queue import Queue
from sandq.supervisor.facts import ChildDied, LauncherDied, Settled, Started

GLUTTONS = str(HERE / "gluttons.py")
MEMORY = 192 << 20
END = b"#"


@pytest.mark.parametrize("name", ["recursion-bomb", "eats-in-a-program"])
def test_a_job_that_eats_without_end_is_killed_at_its_memory_limit_and_the_next_one_runs(
    queue: Queue, redis_url: str, prefix: str, name: str
) -> None:
    plan = handlers(processor=GLUTTONS, concurrency=1, max_crashes=0, memory=MEMORY)
    with serving({"render": plan}, redis_url, prefix) as served:
        job = queue.add(name)
        end = served.facts.wait(Settled, job_id=job.id)
        assert (end.to, "of memory, 192MiB were allowed" in end.reason) == ("failed", True), end
        death = queue.job(job.id).death
        assert death is not None
        assert (death["cause"], death["signal"]) == ("oom-limit", "SIGKILL")
        after = queue.add("ok", 1)
        assert queue.result(after, timeout=20) == 1
        assert served.facts.wait(Started, job_id=after.id).pid != death["pid"]
        assert served.supervisor.stats()["locks_lost"] == 0


def test_a_job_may_ask_for_less_memory_than_its_queue_allows(queue: Queue, redis_url: str, prefix: str) -> None:
    plan = handlers(processor=GLUTTONS, concurrency=1, max_crashes=0, memory=8 << 30)
    with serving({"render": plan}, redis_url, prefix) as served:
        job = queue.add("recursion-bomb", memory="128MiB")
        assert "of memory, 128MiB were allowed" in served.facts.wait(Settled, job_id=job.id).reason


@pytest.mark.parametrize("sessions", [False])
def test_a_fork_bomb_is_gone_within_a_second_of_its_jobs_end_and_no_lock_is_lost(
    queue: Queue, redis_url: str, prefix: str, tmp_path: Path, sessions: bool
) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    plan = handlers(processor=GLUTTONS, concurrency=1, max_crashes=0, isolation=1)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with serving({"render": plan}, redis_url, prefix) as served:
            job = queue.add("fork-bomb", {"held": str(held), "sessions": sessions}, timeout="3s")
            seen = bytearray()
            eventually(lambda: heard(reader, seen).count(b".") == BOMB, f"the bomb has become {BOMB} processes")
            assert served.facts.wait(Settled, job_id=job.id).to == "failed"
            eventually(lambda: heard(reader, seen)[-1:] == END, "the last of them is gone", limit_s=1.0)
            assert queue.result(queue.add("ok", 1), timeout=20) == 1
            stats = served.supervisor.stats()
            print(f"a bomb of {BOMB} processes: heartbeat {stats['heartbeat']}")
            # Where the kernel shares the cores among sessions (autogroup), a low priority counts within one only.
            assert stats["heartbeat"]["p99_ms"] < (1000 if sessions else 100)
            assert stats["locks_lost"] == 0
    finally:
        os.close(reader)


def heard(reader: int, seen: bytearray) -> bytearray:
    """What was written so far, and END once nobody is left who could write."""
    with contextlib.suppress(BlockingIOError):
        seen += os.read(reader, 4096) or END
    return seen


def test_a_job_that_kills_its_own_parent_costs_no_other_job_more_than_a_new_start(
    queue: Queue, redis_url: str, prefix: str, tmp_path: Path, end: Path
) -> None:
    with serving({"render": handlers(processor=GLUTTONS, concurrency=2)}, redis_url, prefix) as served:
        bystander = queue.add("waits", {"until": str(end)})
        served.facts.wait(Started, job_id=bystander.id)
        before = served.supervisor.stats()["launcher_pid"]
        killer = queue.add("kills-parent", str(tmp_path / "killed"))
        assert served.facts.wait(LauncherDied).pid == before
        for job in (bystander, killer):
            served.facts.wait(Started, job_id=job.id, nth=2)
        end.touch()
        assert queue.result(bystander, timeout=20) == "seen"
        assert queue.result(killer, timeout=20) == "once is enough"
        assert queue.job(bystander.id).crashes == 0
        assert completions(queue, bystander) == completions(queue, killer) == 1
        assert served.supervisor.stats()["launcher_pid"] != before


def test_a_child_that_exits_right_after_its_result_has_completed_its_job_once(
    queue: Queue, redis_url: str, prefix: str
) -> None:
    with serving({"render": handlers(processor=GLUTTONS, concurrency=1)}, redis_url, prefix) as served:
        job, follower = queue.add_many([("answers-and-exits", None), ("ok", 1)])
        assert queue.result(job, timeout=20) == "done"
        assert queue.result(follower, timeout=20) == 1
        served.facts.wait(ChildDied, pid=served.facts.wait(Started, job_id=job.id).pid)
        assert len(served.facts.all(Started, job_id=job.id)) == 1
        assert completions(queue, job) == completions(queue, follower) == 1
        assert queue.job(job.id).crashes == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_64_burners_on_two_cores_for_a_minute_lose_no_lock_of_5_seconds(redis_url: str, prefix: str) -> None:
    supervisor = burn(redis_url, prefix, burners=64, jobs=64, seconds=60, lock_s=5)
    assert supervisor.stats["heartbeat"]["p99_ms"] < 100
