"""Who kills a child when its lock is gone: the launcher, on what the heartbeat tells it, with nobody in between."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import handlers, serving, wait_gone
from redis import Redis

from sandq.clock import boottime
from sandq.config import Lease
from sandq.errors import StoreUnavailable
from sandq.queue import Queue
from sandq.store.keys import QueueKeys
from sandq.supervisor.facts import Fact, Output, Settled, Started
from sandq.supervisor.heartbeat import Heartbeat

LEASE = Lease(1.0)
KEYS = QueueKeys("render", "bull")


class BlockedLoop:
    """A listener that holds up the supervisor's event loop from a job's first log line until it is let go."""

    def __init__(self) -> None:
        self.blocked, self.let_go = threading.Event(), threading.Event()

    def __call__(self, fact: Fact) -> None:
        if isinstance(fact, Output):
            self.blocked.set()
            self.let_go.wait(20)


@pytest.fixture
def loop() -> Iterator[BlockedLoop]:
    made = BlockedLoop()
    yield made
    made.let_go.set()


def test_a_child_whose_lock_was_taken_dies_although_the_event_loop_hangs(
    redis_url: str, prefix: str, redis_client: Redis, loop: BlockedLoop
) -> None:
    with (
        Queue("render", redis=redis_url, prefix=prefix) as queue,
        serving({"render": handlers(concurrency=1)}, redis_url, prefix, lock_s=LEASE.lock_s, listener=loop) as served,
    ):
        job = queue.add("burns-aloud")
        assert loop.blocked.wait(20)
        child = served.facts.all(Started, job_id=job.id)[0].pid
        redis_client.set(queue.keys.lock(job.id), "somebody else's", px=60_000)
        wait_gone(child, LEASE.renew_every_s + 0.5)
        loop.let_go.set()
        assert served.facts.wait(Settled, job_id=job.id).outcome == "LockLost"
        assert redis_client.get(queue.keys.lock(job.id)) == b"somebody else's"


def test_a_child_dies_before_its_lock_runs_out_when_redis_and_the_event_loop_hang(
    server: Any, prefix: str, loop: BlockedLoop
) -> None:
    with (
        Queue("render", redis=server.url, prefix=prefix) as queue,
        serving({"render": handlers(concurrency=1)}, server.url, prefix, lock_s=LEASE.lock_s, listener=loop) as served,
    ):
        job = queue.add("burns-aloud")
        assert loop.blocked.wait(20)
        server.pause()
        wait_gone(served.facts.all(Started, job_id=job.id)[0].pid, LEASE.lock_s)
        server.resume()
        loop.let_go.set()
        served.facts.wait(Started, job_id=job.id, nth=2)  # put back, uncharged
        assert queue.job(job.id).crashes == 0


def test_losing_one_lock_costs_no_other_job_its_child(redis_url: str, prefix: str, redis_client: Redis) -> None:
    with (
        Queue("render", redis=redis_url, prefix=prefix) as queue,
        serving({"render": handlers(concurrency=2)}, redis_url, prefix, lock_s=LEASE.lock_s) as served,
    ):
        lost, kept = queue.add_many([("burns-aloud", None), ("spin", {"s": 1.5})])
        child = served.facts.wait(Started, job_id=lost.id).pid
        redis_client.set(queue.keys.lock(lost.id), "somebody else's", px=60_000)
        wait_gone(child, LEASE.renew_every_s + 0.5)
        assert queue.result(kept, timeout=20) >= 1.5
        assert len(served.facts.all(Started, job_id=kept.id)) == 1


def test_a_launcher_that_is_stopped_takes_its_children_with_it(redis_url: str, prefix: str) -> None:
    with (
        Queue("render", redis=redis_url, prefix=prefix) as queue,
        serving({"render": handlers(concurrency=1)}, redis_url, prefix, lock_s=LEASE.lock_s) as served,
    ):
        job = queue.add("killed-once")
        child = served.facts.wait(Started, job_id=job.id).pid
        os.kill(served.supervisor.stats()["launcher_pid"], signal.SIGSTOP)
        wait_gone(child, LEASE.lock_s)
        served.facts.wait(Started, job_id=job.id, nth=2)


# -- the heartbeat by itself -------------------------------------------------------------------------------------------


class Beating:
    """A heartbeat whose Redis says what the test wants, and the launcher's end of its socket."""

    def __init__(self, renew: Callable[[list[str]], frozenset[str]]) -> None:
        ours, self.launcher = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.lost: list[str] = []
        self.was_lost = threading.Event()
        self.troubles: list[str] = []
        self.beat = Heartbeat(LEASE, lambda _keys, held: renew([job for job, _ in held]), self.troubles.append)
        self.beat.attach(ours)

    def hold(self, job: str, child: int, sent_at: float) -> None:
        def lost(why: str) -> None:
            self.lost.append(f"{job}: {why}")
            self.was_lost.set()

        self.beat.hold(KEYS, job, f"token of {job}", sent_at, lost)
        self.beat.begin(f"token of {job}", child)


@pytest.fixture
def beating() -> Iterator[Callable[..., Beating]]:
    made: list[Beating] = []

    def make(renew: Callable[[list[str]], frozenset[str]]) -> Beating:
        made.append(Beating(renew))
        made[-1].beat.start()
        return made[-1]

    yield make
    for each in made:
        each.beat.stop()
        each.launcher.close()


def test_a_renewal_extends_the_lease_from_the_moment_it_was_sent(beating: Callable[..., Beating]) -> None:
    renewed, sent = threading.Event(), []

    def renew(_jobs: list[str]) -> frozenset[str]:
        sent.append(boottime())
        renewed.wait(0.1)  # a slow Redis
        return frozenset()

    heart = beating(renew)
    heart.hold("1", 7, boottime())
    second = threading.Event()
    while len(sent) < 2:
        second.wait(0.01)
    [deadline] = heart.beat.leases().values()
    assert deadline <= sent[0] + LEASE.kill_after_s + 0.001


def test_a_renewal_that_fails_until_the_deadline_loses_the_lock_once(beating: Callable[..., Beating]) -> None:
    def renew(_jobs: list[str]) -> frozenset[str]:
        raise StoreUnavailable("no answer")

    heart = beating(renew)
    started = boottime()
    heart.hold("1", 7, started)
    assert heart.was_lost.wait(5)
    assert boottime() - started >= LEASE.kill_after_s
    heart.beat.stop()
    assert heart.lost == ["1: its lease passed before Redis confirmed a renewal"]
    assert heart.beat.locks_lost == 1
    assert heart.beat.leases() == {}
    assert "no answer" in heart.troubles


def test_a_lock_that_redis_gave_away_is_told_to_its_holder_and_ends_the_childs_lease_at_once(
    beating: Callable[..., Beating],
) -> None:
    heart = beating(lambda _jobs: frozenset({"token of 2"}))
    heart.hold("1", 7, boottime())
    heart.hold("2", 8, boottime())
    assert heart.was_lost.wait(5)
    lost_at = boottime()
    heart.beat.stop()
    assert heart.lost == ["2: Redis says that the lock is not ours any more"]
    told = last_packet(heart.launcher)["leases"]
    assert told["8"] / 1e9 <= lost_at < told["7"] / 1e9


def test_a_lock_that_was_dropped_is_neither_renewed_nor_lost(beating: Callable[..., Beating]) -> None:
    asked: list[list[str]] = []
    done = threading.Event()

    def renew(jobs: list[str]) -> frozenset[str]:
        asked.append(jobs)
        done.set()
        return frozenset({"token of 1"})

    heart = beating(renew)
    heart.hold("1", 7, boottime())
    heart.hold("2", 8, boottime())
    heart.beat.drop("token of 1")
    assert done.wait(5)
    assert asked[0] == ["2"]
    assert heart.lost == []


def last_packet(launcher: socket.socket) -> dict[str, Any]:
    """What the launcher was told last; the heartbeat has stopped and closed its end."""
    packets = list(iter(lambda: launcher.recv(1 << 20), b""))
    return dict(json.loads(packets[-1]))
