"""An idle supervisor sleeps with its next claim in Redis: no job is late for it, lost by it, or started too late."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import SupervisorProcess, eventually
from redis import Redis
from world import World, a_world

from sandq.clock import boottime
from sandq.job import Job, JobState
from sandq.queue import Queue
from sandq.store.keys import QueueKeys
from sandq.supervisor.claims import IDLE_WAIT_S
from sandq.supervisor.facts import ChildReady, Settled, Started, StoreTrouble

if TYPE_CHECKING:
    from conftest import RedisServer

LONG_LOCK_S = 60.0  # an eighth of it is more than IDLE_WAIT_S, and nothing runs out while a test lasts
SOON_S = IDLE_WAIT_S / 2  # sooner than by the end of a sleep


@pytest.fixture
def world(server: RedisServer, prefix: str, end: Path) -> Iterator[World]:
    with a_world(server, prefix, end) as made:
        yield made


def asleep(client: Redis, prefix: str) -> None:
    """Wait until a supervisor waits for the marker."""
    name = QueueKeys("render", prefix).client_name()
    eventually(
        lambda: [each for each in client.client_list() if each["name"] == name and "b" in each["flags"]], "it sleeps"
    )


def asleep_in(world: World) -> None:
    asleep(world.client, world.keys.prefix)


# -- a job comes -------------------------------------------------------------------------------------------------------


def test_redis_claims_a_job_for_a_sleeping_supervisor_without_being_asked(
    queue: Queue, redis_client: Redis, prefix: str, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(lock_s=LONG_LOCK_S)
    asleep(redis_client, prefix)
    only.signal(signal.SIGSTOP)
    job = queue.add("ok", 1)
    assert queue.state(job) is JobState.ACTIVE
    only.signal(signal.SIGCONT)
    assert queue.result(job, timeout=10) == 1
    assert queue.job(job.id).attempts_started == 1


def test_a_delayed_job_is_claimed_when_it_is_due(world: World) -> None:
    world.serve(lock_s=LONG_LOCK_S)
    asleep_in(world)
    job = world.queue.add("ok", 1, delay=0.3)
    assert world.queue.result(job, timeout=SOON_S) == 1


def test_a_job_that_finds_its_child_dead_waits_for_another_one(world: World) -> None:
    served = world.serve(lock_s=LONG_LOCK_S)
    asleep_in(world)
    for ready in served.facts.all(ChildReady):
        os.kill(ready.pid, signal.SIGKILL)
    job = world.queue.add("ok", 1)
    assert world.queue.result(job, timeout=10) == 1
    assert (world.queue.job(job.id).attempts_made, world.queue.job(job.id).stalled_count) == (1, 0)


# -- beside settlements ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_settlement_leaves_alone_the_child_that_a_waiting_claim_was_made_for(world: World) -> None:
    served = world.serve(lock_s=LONG_LOCK_S, concurrency=2, redis_timeout_s=10.0)
    first, _ = world.waiting_job(served)
    asleep_in(world)
    world.proxy.fault("half-open", "settle")
    world.end.touch()
    world.proxy.wait_total("half-open", "settle")
    job = world.queue.add("ok", 1)
    served.facts.wait(Started, job_id=job.id)
    assert served.facts.all(Settled, job_id=first.id) == [], "it has begun while the settlement is on its way"
    assert world.queue.result(job, timeout=10) == 1
    assert world.queue.job(job.id).attempts_started == 1


def test_a_settlement_claims_for_its_own_child_while_a_claim_waits(world: World) -> None:
    world.queue.set_global_concurrency(1)
    served = world.serve(lock_s=LONG_LOCK_S, concurrency=2)
    world.waiting_job(served)
    job = world.queue.add("ok", 1)
    asleep_in(world)  # there is a child for the job, and no room
    eventually(lambda: not world.client.zcard(world.keys.key("marker")), "its marker has been taken")
    asleep_in(world)
    world.end.touch()
    served.facts.wait(Started, job_id=job.id, limit_s=SOON_S)


def test_no_job_is_claimed_for_whom_there_is_no_child(world: World) -> None:
    served = world.serve(lock_s=LONG_LOCK_S, concurrency=2)
    world.waiting_job(served)
    asleep_in(world)
    jobs = world.queue.add_many([("waits", {"until": str(world.end)})] * 3)
    served.facts.wait(Started, nth=2)
    assert world.queue.counts()["active"] == 2
    world.end.touch()
    served.facts.wait(Settled, nth=4)
    assert [world.queue.job(job.id).attempts_started for job in jobs] == [1, 1, 1]


# -- the first lease ---------------------------------------------------------------------------------------------------


def test_a_sleep_is_far_shorter_than_the_lock(world: World) -> None:
    world.serve(lock_s=1.0)
    world.proxy.wait("pass", "BZPOPMIN", more=5, limit_s=IDLE_WAIT_S)


def test_each_sleep_brings_one_claim_and_no_more(world: World) -> None:
    world.serve(lock_s=1.0)
    world.proxy.wait("pass", "BZPOPMIN", more=5)
    seen = world.proxy.seen
    assert seen["pass", "claim"] <= seen["pass", "BZPOPMIN"] + 2  # the one before the first sleep, and one being noted


@pytest.mark.slow
def test_a_job_whose_claim_was_sent_too_long_ago_is_not_started_by_it(world: World) -> None:
    world.proxy.fault("silence", "BZPOPMIN")
    served = world.serve(lock_s=2.0, redis_timeout_s=10.0)  # a try may take 2 s; the lease from its sending lasts 1.6 s
    asleep_in(world)
    job = world.queue.add("ok", 1)
    assert world.queue.result(job, timeout=20) == 1
    assert world.queue.job(job.id).attempts_started == 2
    assert len(served.facts.all(Started, job_id=job.id)) == 1


def test_a_job_that_redis_gave_to_a_frozen_supervisor_runs_on_another_one_after_its_lock(
    queue: Queue, redis_client: Redis, prefix: str, supervise: Callable[..., SupervisorProcess]
) -> None:
    frozen = supervise(lock_s=1.0)
    asleep(redis_client, prefix)
    frozen.signal(signal.SIGSTOP)
    job = queue.add("ok", 1)
    eventually(lambda: queue.state(job) is JobState.ACTIVE, "it is claimed for the frozen one", 1.0)
    other = supervise(lock_s=1.0)
    assert queue.result(job, timeout=10) == 1
    frozen.signal(signal.SIGCONT)
    late = queue.add_many([("ok", n) for n in range(20)])
    for each in late:
        queue.result(each, timeout=10)
    assert len(other.facts.all(Started, job_id=job.id)) == 1
    assert frozen.facts.all(Started, job_id=job.id) == []
    assert queue.job(job.id).stalled_count == 1


# -- draining ----------------------------------------------------------------------------------------------------------


def test_a_sleeping_supervisor_drains_at_once(
    redis_client: Redis, prefix: str, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(lock_s=LONG_LOCK_S)
    asleep(redis_client, prefix)
    asked_at = boottime()
    only.signal(signal.SIGTERM)
    assert only.wait() == 0
    assert boottime() - asked_at < SOON_S


def test_a_job_that_was_claimed_in_the_moment_of_the_drain_is_not_left_active(
    queue: Queue, redis_client: Redis, prefix: str, supervise: Callable[..., SupervisorProcess]
) -> None:
    only = supervise(lock_s=LONG_LOCK_S)
    asleep(redis_client, prefix)
    only.signal(signal.SIGSTOP)
    job = queue.add("ok", 1)
    os.kill(only.pid, signal.SIGTERM)
    only.signal(signal.SIGCONT)
    assert only.wait() == 0
    assert queue.state(job) in (JobState.WAITING, JobState.COMPLETED)
    assert not redis_client.exists(QueueKeys("render", prefix).lock(job.id))
    assert queue.job(job.id).stalled_count == 0


def test_a_drain_puts_back_what_was_claimed_though_the_claims_reply_was_lost(world: World) -> None:
    world.proxy.fault("silence", "BZPOPMIN")
    served = world.serve(lock_s=LONG_LOCK_S, redis_timeout_s=10.0)
    asleep_in(world)
    job: Job = world.queue.add("ok", 1)
    assert world.queue.state(job) is JobState.ACTIVE
    served.stop()
    eventually(lambda: world.queue.state(job) is JobState.WAITING, "it waits again", SOON_S)
    assert (world.locked(job), world.queue.job(job.id).stalled_count) == (False, 0)
    assert served.facts.all(Started) == []


# -- trouble -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_supervisor_that_may_not_sleep_in_redis_says_so_and_asks_now_and_then(world: World) -> None:
    world.client.execute_command("ACL", "SETUSER", "weak", "on", ">secret", "~*", "&*", "+@all", "-bzpopmin")
    served = world.serve(f"unix://weak:secret@{world.server.socket}", lock_s=LONG_LOCK_S)
    doing = "wait for jobs of render"
    assert "ACL SETUSER" in served.facts.wait(StoreTrouble, doing=doing).why
    job = world.queue.add("ok", 1)
    assert world.queue.result(job, timeout=10) == 1
    before, calls = len(served.facts.all(StoreTrouble, doing=doing)), "cmdstat_evalsha"
    asked = world.client.info("commandstats")[calls]["calls"]
    served.facts.wait(StoreTrouble, doing=doing, nth=before + 2)
    assert world.client.info("commandstats")[calls]["calls"] - asked < 20, "it does not spin"


# -- bursts ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_burst_is_not_over_while_a_job_is_on_its_way_to_us(world: World) -> None:
    world.proxy.fault("silence", "BZPOPMIN", 1000)
    first = world.queue.add("waits", {"until": str(world.end)})
    served = world.serve(lock_s=LONG_LOCK_S, concurrency=2, redis_timeout_s=10.0, burst=True)
    served.facts.wait(Started, job_id=first.id)
    asleep_in(world)
    second = world.queue.add("ok", 1)  # whoever took it now would be told never
    world.end.touch()
    assert world.queue.result(second, timeout=10) == 1
