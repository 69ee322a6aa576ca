"""Many CPU burners on few cores: no lock is lost, nothing starts twice, and the heartbeat stays on time."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
from harness import SupervisorProcess

from sandq.queue import Queue
from sandq.supervisor.facts import ChildReady, LauncherDied, Settled, Started, StoreTrouble


def burn(url: str, prefix: str, *, burners: int, jobs: int, seconds: float, lock_s: float) -> SupervisorProcess:
    """Let `burners` children burn at once until all jobs are done; the supervisor as it ended."""
    with (
        Queue("render", redis=url, prefix=prefix) as queue,
        SupervisorProcess(url, prefix, lock_s=lock_s, concurrency=burners, spares=0) as supervisor,
    ):
        supervisor.facts.wait(ChildReady, nth=burners)
        added = queue.add_many([("spin", {"s": seconds})] * jobs)
        supervisor.facts.wait(Settled, nth=jobs, limit_s=seconds * jobs / burners + 30)
        supervisor.signal(signal.SIGTERM)
        assert supervisor.wait() == 0
        print(supervisor.facts.all(LauncherDied), supervisor.facts.all(StoreTrouble))
        starts = Counter(started.job_id for started in supervisor.facts.all(Started))
        ends = Counter((settled.outcome, settled.reason) for settled in supervisor.facts.all(Settled))
        assert ends == {("Completed", ""): jobs}
        assert starts == Counter(job.id for job in added)
    beat = supervisor.stats["heartbeat"]
    print(f"{burners} burners: heartbeat late by p50 {beat['p50_ms']} p99 {beat['p99_ms']} max {beat['max_ms']} ms")
    assert supervisor.stats["locks_lost"] == 0
    return supervisor


def test_eight_burners_start_once_each_and_lose_no_lock(redis_url: str, prefix: str) -> None:
    burn(redis_url, prefix, burners=8, jobs=8, seconds=4, lock_s=1)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_32_burners_on_two_cores_for_a_minute_keep_every_lock_and_the_heartbeat_on_time(
    redis_url: str, prefix: str
) -> None:
    supervisor = burn(redis_url, prefix, burners=32, jobs=64, seconds=30, lock_s=2)
    assert supervisor.stats["heartbeat"]["p99_ms"] < 50
