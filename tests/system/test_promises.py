"""Never two at once, never late, noticed at once, written by the holder only.

Each promise under the fault it is made for, and seen to fail when the mechanism behind it is switched off. That nothing
is lost has a file of its own.
"""

from __future__ import annotations

import os
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import SupervisorProcess, completions, eventually, lives
from redis import Redis

from sandq.clock import boottime
from sandq.config import Lease, QueueSettings
from sandq.outcome import Place, Settlement
from sandq.queue import Queue
from sandq.store import script, work
from sandq.store.call import Call
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.supervisor.facts import ChildReady, Progressed, Settled, Started

LOCK_S = 1.0  # what `supervise` gives


# -- never two at once -------------------------------------------------------------------------------------------------

NO_TIMER = """
import sys

if any("sandq.supervisor.launcher" in word for word in sys.orig_argv):
    from sandq.supervisor.kernel import KillTimer

    KillTimer.set = lambda timer, at_ns: None
"""


class Handover:
    """A job that is running at one supervisor when that is frozen, and is recovered by another."""

    def __init__(self, queue: Queue, tmp_path: Path, end: Path) -> None:
        self.queue, self.end, self.path = queue, end, tmp_path / "stamps"
        self.job = queue.add("stamps", {"path": str(self.path), "until": str(end)})

    def freeze(self, first: SupervisorProcess, *, launcher: bool) -> None:
        first.facts.wait(Started, job_id=self.job.id)
        eventually(lambda: lives(self.path), "the first child stamps")
        also = (first.launcher,) if launcher else ()
        first.signal(signal.SIGSTOP, first.pid, *also)

    def second_run(self, second: SupervisorProcess) -> None:
        """Until the second child has said that it lives."""
        child = second.facts.wait(Started, job_id=self.job.id).pid
        eventually(lambda: child in lives(self.path), "the second child stamps")

    def overlap_s(self) -> float:
        """How long the first child still lived after the second had begun; negative when it did not."""
        (_, last), (first, _) = lives(self.path).values()
        return (last - first) / 1e9


@pytest.mark.parametrize("launcher", [False, True], ids=["case_58_supervisor", "case_59_supervisor_and_launcher"])
def test_a_child_of_a_frozen_supervisor_is_dead_before_its_job_runs_elsewhere(
    queue: Queue, tmp_path: Path, end: Path, supervise: Callable[..., SupervisorProcess], launcher: bool
) -> None:
    first = supervise()
    handover = Handover(queue, tmp_path, end)
    handover.freeze(first, launcher=launcher)
    second = supervise()
    handover.second_run(second)
    first.signal(signal.SIGCONT)

    late = first.facts.wait(Settled, job_id=handover.job.id)
    assert (late.word, late.to) == ("lost", "")
    first.facts.wait(ChildReady, nth=3)  # it goes on with a new launcher
    end.touch()
    second.facts.wait(Settled, job_id=handover.job.id, to="completed")
    assert queue.result(handover.job, timeout=5) == second.facts.wait(Started).pid
    assert len(lives(handover.path)) == 2
    assert handover.overlap_s() < 0
    assert completions(queue, handover.job) == 1


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_frozen_supervisor_beside_burners_never_lets_two_children_run_the_same_job(
    queue: Queue, tmp_path: Path, redis_url: str, prefix: str, supervise: Callable[..., SupervisorProcess]
) -> None:
    def start() -> SupervisorProcess:
        return SupervisorProcess(redis_url, prefix, lock_s=LOCK_S)

    burners = supervise(queue="burners", concurrency=16, spares=0)
    with Queue("burners", redis=redis_url, prefix=prefix) as busy:
        busy.add_many([("killed-once", None)] * 16)
        burners.facts.wait(Started, nth=16)
    for round_ in range(10):
        (folder := tmp_path / str(round_)).mkdir()
        handover = Handover(queue, folder, folder / "end")
        with start() as first:
            handover.freeze(first, launcher=round_ % 2 == 1)
            with start() as second:
                handover.second_run(second)
                handover.end.touch()
                queue.result(handover.job, timeout=20)
        assert handover.overlap_s() < 0


def test_without_the_kernel_timer_a_frozen_launcher_lets_two_children_run_the_same_job(
    queue: Queue, tmp_path: Path, end: Path, supervise: Callable[..., SupervisorProcess]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_TIMER)
    first = supervise(python_path=(tmp_path,))
    handover = Handover(queue, tmp_path, end)
    handover.freeze(first, launcher=True)
    second = supervise()
    handover.second_run(second)

    begun = lives(handover.path)[second.facts.wait(Started).pid][0]
    victim = first.facts.wait(Started).pid
    eventually(lambda: lives(handover.path)[victim][1] > begun, "the first child still stamps")
    assert handover.overlap_s() > 0


# -- a job's CPU use cannot delay a renewal ----------------------------------------------------------------------------


def test_neither_a_held_gil_nor_a_python_loop_of_three_locks_costs_a_lock(
    queue: Queue, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(concurrency=2)
    jobs = [queue.add("gil-held", {"s": 3 * LOCK_S}), queue.add("spin", {"s": 3 * LOCK_S})]
    for job in jobs:
        assert queue.result(job, timeout=30) >= 3 * LOCK_S
    only.signal(signal.SIGTERM)
    assert only.wait() == 0
    assert [len(only.facts.all(Started, job_id=job.id)) for job in jobs] == [1, 1]
    assert only.stats["locks_lost"] == 0


def test_without_renewals_the_same_loop_loses_its_lock_and_starts_again(
    queue: Queue, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(mutation="no renewals")
    job = queue.add("spin", {"s": 3 * LOCK_S})
    assert only.facts.wait(Settled, job_id=job.id).outcome == "LockLost"
    only.facts.wait(Started, job_id=job.id, nth=2)


# -- a dead child is noticed in milliseconds ---------------------------------------------------------------------------


def restart_s(supervisor: SupervisorProcess, queue: Queue, number: int, limit_s: float = 20.0) -> float:
    """Kill the child of a new job while it burns; the time until the job was handed to another."""
    job = queue.add("killed-once")
    supervisor.facts.wait(Progressed, job_id=job.id)
    child = supervisor.facts.wait(Started, job_id=job.id).pid
    supervisor.facts.wait(ChildReady, nth=2 + number)  # the spare is warm
    killed_at = boottime()
    os.kill(child, signal.SIGKILL)
    again_at = supervisor.facts.time_of(Started, job_id=job.id, nth=2, limit_s=limit_s)
    assert supervisor.facts.wait(Settled, job_id=job.id).outcome == "Crashed"
    assert queue.result(job, timeout=10) == 1
    return again_at - killed_at


def test_a_job_whose_child_was_killed_runs_again_on_the_warm_spare_within_50_ms(
    queue: Queue, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise()
    took = [restart_s(only, queue, number) for number in range(20)]
    p50 = statistics.median(took)
    print(f"SIGKILL to restart: p50 {p50 * 1000:.1f} ms, max {max(took) * 1000:.1f} ms of {len(took)}")
    assert p50 <= 0.05


def test_without_the_death_notice_the_job_does_not_run_again_in_time(
    queue: Queue, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(mutation="no death notice")
    with pytest.raises(TimeoutError):
        restart_s(only, queue, 0, limit_s=0.5)


# -- only the holder writes --------------------------------------------------------------------------------------------

STALE_WRITES: dict[str, Callable[[QueueKeys, str, str], Call[Any]]] = {
    "settle": lambda keys, job, token: work.settle(
        keys, job, token, Settlement(to=Place.COMPLETED, result=b'"stale"'), QueueSettings()
    ),
    "progress": lambda keys, job, token: work.progress(keys, job, b"99", token),
    "log": lambda keys, job, token: work.log(keys, job, "stale", token),
    "data": lambda keys, job, token: work.update_data(keys, job, b'"stale"', token),
}


def word_to_a_stale_holder(
    write: Callable[[QueueKeys, str, str], Call[Any]], queue: Queue, keys: QueueKeys, redis_client: Redis, url: str
) -> str:
    """A job passes to another holder when its lock runs out; then the first one writes."""
    job = queue.add("ok")
    executor = SyncExecutor(url)
    try:
        for token in ("first", "second"):
            executor.run(work.claim(keys, work.NextClaim(tokens=[token], lease=Lease(30))))
            if token == "first":
                redis_client.delete(keys.lock(job.id))  # as Redis does when it runs out
                for _ in range(2):
                    redis_client.delete(keys.key("stalled-check"))
                    executor.run(work.check_stalled(keys, 1000, 1))
        assert redis_client.get(keys.lock(job.id)) == b"second"
        answer = executor.run(write(keys, job.id, "first"))
    finally:
        executor.close()
    return str(getattr(answer, "word", answer))


@pytest.mark.parametrize("write", STALE_WRITES.values(), ids=STALE_WRITES)
def test_a_stale_holder_changes_nothing_and_is_told_so(
    write: Callable[..., Call[Any]],
    queue: Queue,
    keys: QueueKeys,
    redis_client: Redis,
    redis_url: str,
    dump: Callable[[], Any],
) -> None:
    before: list[Any] = []

    def after_a_look(*who: Any) -> Call[Any]:
        before.append(dump())
        return write(*who)

    assert word_to_a_stale_holder(after_a_look, queue, keys, redis_client, redis_url) == "lost"
    assert dump() == before[0]


@pytest.mark.parametrize("write", STALE_WRITES.values(), ids=STALE_WRITES)
def test_without_the_proof_of_the_token_a_stale_holder_writes(
    write: Callable[..., Call[Any]],
    queue: Queue,
    keys: QueueKeys,
    redis_client: Redis,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = script._read
    proofs = {
        "lib/holder": ("return redis.call('GET', job_key(q, id) .. ':lock') == token", "return true"),
        "settle": ("if lock ~= s.token then return 'lost' end", ""),
    }
    for path, (proof, _) in proofs.items():
        assert proof in read(path)
    monkeypatch.setattr(script, "_read", lambda path: read(path).replace(*proofs.get(path, ("\0", ""))))
    script.load.cache_clear()
    try:
        assert word_to_a_stale_holder(write, queue, keys, redis_client, redis_url) == "ok"
    finally:
        script.load.cache_clear()
