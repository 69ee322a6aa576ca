"""What Redis, or the way to it, may do to a supervisor, and what becomes of the jobs. One numbered case each."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import Served, eventually, handlers, lives, serving, wait_gone
from network import FOREVER, Action
from nodes import Nodes, holder, moving
from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from world import World, a_world, all_once, ran_again, ran_once

from sandq.errors import JobNotFound, StartRefused, StoreRefused, StoreUnavailable
from sandq.job import JobState
from sandq.queue import Queue
from sandq.store.keys import QueueKeys
from sandq.supervisor import loop
from sandq.supervisor.facts import Settled, Started, StoreTrouble

if TYPE_CHECKING:
    from conftest import RedisServer


@pytest.fixture
def world(server: RedisServer, prefix: str, tmp_path: Path) -> Iterator[World]:
    with a_world(server, prefix, tmp_path / "end") as made:
        yield made


# -- one exchange goes wrong -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calm_world(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Served]]:
    """One supervisor for all cases that it does not notice."""

    class Shared:
        url, socket = redis_url, Path(redis_url.removeprefix("unix://"))

        def client(self) -> Redis:
            return Redis.from_url(redis_url, protocol=2)

        def resume(self) -> None: ...

    shared: Any = Shared()
    with a_world(shared, f"calm{os.getpid()}", tmp_path_factory.mktemp("calm") / "end") as world:
        yield world, world.serve()


def claimed_once(world: World, served: Served) -> None:
    job = world.queue.add("ok", 1)
    assert world.queue.result(job, timeout=10) == 1
    assert world.queue.job(job.id).attempts_started == 1
    assert len(served.facts.all(Started, job_id=job.id)) == 1


def completed_once(world: World, served: Served) -> None:
    job = world.queue.add("ok", 1)
    assert served.facts.wait(Settled, job_id=job.id).word == "ok"
    assert world.queue.job(job.id).attempts_made == 1
    assert world.events(job)["completed"] == 1


def retried_once(world: World, served: Served) -> None:
    job = world.queue.add("raises", {"what": "value"}, attempts=2)
    assert [served.facts.wait(Settled, job_id=job.id, nth=nth).to for nth in (1, 2)] == ["wait", "failed"]
    ended = world.queue.job(job.id)
    assert (ended.attempts_made, ended.attempts_started, len(ended.stacktrace)) == (2, 2, 2)
    assert world.events(job)["failed"] == 1


def added_once(world: World, served: Served) -> None:
    before = world.queue.counts()["completed"]
    with Queue("render", redis=world.proxy.url, prefix=world.keys.prefix) as queue:
        job = queue.add("ok", 1)
    assert world.queue.result(job, timeout=10) == 1
    assert world.queue.counts()["completed"] == before + 1
    assert world.events(job)["added"] == 1


def renewed(world: World, served: Served) -> None:
    job = world.queue.add("sleeps", {"s": 0.8})  # more than a third of the lock: renewed once at least
    assert world.queue.result(job, timeout=10) == "slept"
    assert len(served.facts.all(Started, job_id=job.id)) == 1


EXCHANGES: dict[str, tuple[str, Callable[[World, Served], None]]] = {
    "case_01_claim_starts_its_job_once": ("claim", claimed_once),
    "case_02_settle_completes_its_job_once": ("settle", completed_once),
    "case_03_settle_retries_its_job_once": ("settle", retried_once),
    "case_04_add_makes_one_job": ("add", added_once),
    "case_05_renew_keeps_its_lock": ("renew", renewed),
}
LOSSES: dict[str, Action] = {
    "when_its_reply_is_lost": "drop-reply",
    "when_its_request_is_lost": "drop-request",
    "case_20_when_its_reply_is_cut_in_the_middle": "cut",
    "when_its_reply_drips": "drip",
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(("script", "as_ever"), EXCHANGES.values(), ids=EXCHANGES)
def test_one_disturbed_exchange_changes_nothing(
    calm_world: tuple[World, Served], script: str, as_ever: Callable[[World, Served], None], loss: Action
) -> None:
    world, served = calm_world
    before = world.proxy.seen[loss, script]
    world.proxy.fault(loss, script)
    as_ever(world, served)
    assert world.proxy.seen[loss, script] == before + 1
    assert served.facts.all(StoreTrouble) == []
    assert served.supervisor.stats()["locks_lost"] == 0


# -- Redis is out of reach ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_case_05_a_half_open_renewal_connection_costs_the_child_at_its_deadline_and_nothing_else(world: World) -> None:
    only = world.serve(concurrency=2)
    job, child = world.waiting_job(only)
    world.proxy.fault("half-open", "renew", FOREVER)
    wait_gone(child, 3.0)
    assert world.locked(job)  # it was dead before the lock could pass to anybody
    assert only.facts.wait(Settled, job_id=job.id).outcome == "LockLost"
    assert world.queue.result(world.queue.add("ok", 1), timeout=5) == 1  # the other connections work
    world.proxy.calm()
    ran_again(world, only, job)


OUTAGES: dict[str, tuple[Callable[[World], None], Callable[[World], None]]] = {
    "case_06_a_partition": (lambda world: world.proxy.partition(), lambda world: world.proxy.heal()),
    "case_08_a_stopped_server": (lambda world: world.server.pause(), lambda world: world.server.resume()),
    "case_16_a_demoted_server": (
        lambda world: world.client.execute_command("REPLICAOF", "127.0.0.1", "1"),
        lambda world: world.client.execute_command("REPLICAOF", "NO", "ONE"),
    ),
    "refused_connections": (lambda world: world.proxy.refuse(), lambda world: world.proxy.heal()),
}


@pytest.mark.parametrize(
    ("begin", "finish"),
    [
        pytest.param(*change, id=name, marks=pytest.mark.slow if name != "case_06_a_partition" else ())
        for name, change in OUTAGES.items()
    ],
)
def test_an_outage_of_half_a_lock_costs_no_job_anything(
    world: World, begin: Callable[[World], None], finish: Callable[[World], None]
) -> None:
    only = world.serve(lock_s=3.0)
    job, _ = world.waiting_job(only)
    world.proxy.wait("pass", "renew")
    begin(world)
    time.sleep(1.5)  # the outage itself
    finish(world)
    ran_once(world, only, job)
    assert world.queue.result(world.queue.add("ok", 2), timeout=10) == 2


@pytest.mark.slow
def test_case_07_a_partition_of_two_locks_lets_the_other_side_run_the_job_after_the_child_is_dead(
    world: World, tmp_path: Path
) -> None:
    stamps = tmp_path / "stamps"
    cut_off = world.serve(lock_s=1.5)
    job, child = world.stamping_job(cut_off, stamps)
    other = world.serve(world.server.url, lock_s=1.5)
    world.proxy.partition()
    began = time.monotonic()
    second = other.facts.wait(Started, job_id=job.id).pid
    eventually(lambda: second in lives(stamps), "the second child stamps")
    time.sleep(max(0.0, 3.0 - (time.monotonic() - began)))  # two locks
    world.proxy.heal()
    late = cut_off.facts.wait(Settled, job_id=job.id)
    assert (late.outcome, late.word, late.to) == ("LockLost", "lost", "")
    assert lives(stamps)[child][1] < lives(stamps)[second][0]
    world.end.touch()
    assert world.queue.result(job, timeout=10) == second
    assert world.events(job)["completed"] == 1
    assert len(lives(stamps)) == 2


def test_case_07_a_settlement_that_arrives_after_the_job_has_passed_on_changes_nothing(world: World) -> None:
    cut_off = world.serve(lock_s=1.5)
    world.proxy.fault("hold", "settle", FOREVER)
    world.proxy.fault("half-open", "renew", FOREVER)
    job = world.queue.add("who")
    first = cut_off.facts.wait(Started, job_id=job.id).pid
    other = world.serve(world.server.url, lock_s=1.5)
    assert other.facts.wait(Settled, job_id=job.id).to == "completed"
    assert cut_off.facts.wait(Settled, job_id=job.id).word == "lost"
    before = world.client.hgetall(world.keys.key(job.id))
    world.proxy.calm()
    assert world.proxy.release() > 0
    assert world.client.hgetall(world.keys.key(job.id)) == before
    assert world.queue.job(job.id).returnvalue["pid"] != first
    assert world.events(job)["completed"] == 1


@pytest.mark.slow
def test_case_09_a_server_stopped_for_two_locks_costs_the_child_and_the_job_is_recovered_once(world: World) -> None:
    only = world.serve(lock_s=1.5)
    job, child = world.waiting_job(only)
    world.server.pause()
    began = time.monotonic()
    wait_gone(child, 3.0)
    time.sleep(max(0.0, 3.0 - (time.monotonic() - began)))  # two locks
    world.server.resume()
    ran_again(world, only, job)


@pytest.mark.slow
def test_case_16_a_server_demoted_for_longer_than_a_lease_costs_the_child_and_is_outlived(world: World) -> None:
    only = world.serve(lock_s=1.5)
    job, child = world.waiting_job(only)
    world.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    wait_gone(child, 3.0)
    world.client.execute_command("REPLICAOF", "NO", "ONE")
    ran_again(world, only, job)


# -- Redis comes back with less ----------------------------------------------------------------------------------------


def test_case_10_after_a_restart_without_data_the_supervisor_lives_and_runs_new_jobs(world: World) -> None:
    only = world.serve()
    job, child = world.waiting_job(only)
    world.server.kill()
    world.server.start()
    assert only.facts.wait(Settled, job_id=job.id).outcome == "LockLost"
    wait_gone(child, 1.0)
    with pytest.raises(JobNotFound):
        world.queue.state(job.id)
    assert world.queue.result(world.queue.add("ok", "new"), timeout=10) == "new"


def test_case_11_a_running_job_goes_on_over_a_restart_with_the_data_on_disk(
    make_server: Callable[..., RedisServer], prefix: str, tmp_path: Path
) -> None:
    server = make_server("--appendonly", "yes", "--appendfsync", "always")
    with a_world(server, prefix, tmp_path / "end") as world:
        only = world.serve(lock_s=3.0)
        job, _ = world.waiting_job(only)
        others = world.queue.add_many([("ok", n) for n in range(3)])
        server.kill()
        server.start()
        ran_once(world, only, job)
        assert [world.queue.result(other, timeout=10) for other in others] == [0, 1, 2]


@pytest.mark.slow
def test_case_12_a_server_that_is_loading_is_waited_for(
    make_server: Callable[..., RedisServer], prefix: str, tmp_path: Path
) -> None:
    server = make_server("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
    with a_world(server, prefix, tmp_path / "end") as world:
        only = world.serve(lock_s=4.0)
        job, _ = world.waiting_job(only)
        world.client.mset({f"filler{n}": "x" * 100 for n in range(500)})  # a second of loading
        world.proxy.wait("pass", "renew")
        world.client.execute_command("SAVE")
        server.kill()
        starting = threading.Thread(target=server.start)
        starting.start()
        eventually(lambda: _is_loading(world.client), "the server is loading")
        starting.join()
        ran_once(world, only, job)


def _is_loading(client: Redis) -> bool:
    try:
        client.ping()
    except BusyLoadingError:
        return True
    except RedisError:
        return False
    return False


def test_case_17_a_promoted_replica_that_missed_the_claim_ends_the_child_and_the_job_runs_again(
    make_server: Callable[..., RedisServer], world: World
) -> None:
    job = world.queue.add("waits", {"until": str(world.end)})
    world.client.execute_command("SAVE")
    replica = make_server()
    replica.kill()
    shutil.copy(world.server.folder / "dump.rdb", replica.folder)
    replica.start()
    only = world.serve()
    child = only.facts.wait(Started, job_id=job.id).pid
    world.proxy.switch(replica.socket)
    lost = only.facts.wait(Settled, job_id=job.id)
    assert (lost.outcome, lost.word) == ("LockLost", "lost")
    wait_gone(child, 1.0)
    world.end.touch()
    with Queue("render", redis=replica.url, prefix=world.keys.prefix) as queue:
        assert queue.result(job, timeout=10) == "seen"
        assert queue.job(job.id).attempts_made == 1
    assert only.facts.wait(Settled, job_id=job.id, nth=2).to == "completed"


# -- Redis is there, and difficult -------------------------------------------------------------------------------------


@contextmanager
def repeatedly(act: Callable[[], object], every_s: float) -> Iterator[None]:
    """Do it over and over meanwhile."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_s):
            with contextlib.suppress(RedisError):
                act()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_case_13_flushing_the_scripts_all_the_time_is_not_noticed(world: World) -> None:
    only = world.serve(concurrency=2)
    with world.server.client() as flusher, repeatedly(flusher.script_flush, 0.05):
        all_once(world, only, world.queue.add_many([("sleeps", {"s": 0.02})] * 60))
    assert only.facts.all(StoreTrouble) == []


@pytest.mark.parametrize("count", [60, pytest.param(1200, marks=[pytest.mark.slow, pytest.mark.timeout(180)])])
def test_case_19_cutting_every_connection_all_the_time_costs_no_job_anything(world: World, count: int) -> None:
    only = world.serve(concurrency=2, lock_s=3.0)

    def cut() -> None:
        killer.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    with world.server.client() as killer, repeatedly(cut, 0.1):
        jobs = world.queue.add_many([("sleeps", {"s": 0.05})] * count)
        for job in jobs:
            only.facts.wait(Settled, job_id=job.id, limit_s=60)
    all_once(world, only, jobs)


@pytest.mark.slow
def test_case_14_without_memory_renewals_and_settlements_pass_while_claiming_pauses(world: World) -> None:
    only = world.serve(concurrency=2)
    job, _ = world.waiting_job(only)
    due = world.queue.add("ok", "later", delay="700ms")
    world.client.config_set("maxmemory", "1mb")
    trouble = eventually(lambda: claims_refused(only), "a claim is refused")
    assert "Redis is at its maxmemory; raise it, or remove finished jobs" in trouble[0].why
    for _ in range(3):
        world.proxy.wait("pass", "renew")  # a whole lock
    assert world.queue.state(due.id) is not JobState.COMPLETED
    world.end.touch()
    assert only.facts.wait(Settled, job_id=job.id).to == "completed"
    world.client.config_set("maxmemory", 0)
    assert world.queue.result(due, timeout=10) == "later"
    assert only.supervisor.stats()["locks_lost"] == 0


def claims_refused(served: Served) -> list[StoreTrouble]:
    return served.facts.all(StoreTrouble, doing="claim from render")


def test_case_15_a_server_that_evicts_is_refused_at_the_start(world: World) -> None:
    world.client.config_set("maxmemory-policy", "allkeys-lru")
    world.client.config_set("maxmemory", "100mb")
    with pytest.raises(StartRefused, match="CONFIG SET maxmemory-policy noeviction"):
        world.serve()


def test_case_15_a_server_that_begins_to_evict_is_told_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "POLICY_EVERY_S", 0.1)
    only = world.serve()
    world.client.config_set("maxmemory", "100mb")
    world.client.config_set("maxmemory-policy", "allkeys-lru")
    trouble = only.facts.wait(StoreTrouble, doing="check the server")
    assert "may evict jobs and locks (maxmemory-policy allkeys-lru)" in trouble.why
    assert world.queue.result(world.queue.add("ok", 1), timeout=10) == 1


@pytest.mark.slow
@pytest.mark.parametrize("lock_s", [3.0, 6.0])
def test_case_18_a_script_that_runs_for_half_a_lock_costs_no_job_anything(world: World, lock_s: float) -> None:
    only = world.serve(lock_s=lock_s)
    job, _ = world.waiting_job(only)
    world.client.config_set("busy-reply-threshold", 200)
    world.proxy.wait("pass", "renew")

    def run_slowly() -> None:
        with contextlib.suppress(ResponseError), world.server.client() as slow:
            slow.eval("while true do end", 0)

    thread = threading.Thread(target=run_slowly)
    thread.start()
    time.sleep(lock_s / 2)  # the script's time
    world.client.script_kill()
    thread.join()
    ran_once(world, only, job)


@pytest.mark.slow
def test_case_21_a_revoked_permission_fences_the_child_and_is_said_clearly(world: World) -> None:
    world.client.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~*", "&*", "+@all")
    only = world.serve(f"unix://worker:pw@{world.server.socket}")
    job, child = world.waiting_job(only)
    world.client.execute_command("ACL", "SETUSER", "worker", "-@all")
    wait_gone(child, 3.0)
    assert world.locked(job)
    assert only.facts.wait(Settled, job_id=job.id).outcome == "LockLost"
    trouble = only.facts.wait(StoreTrouble, doing="renew locks")
    assert "give the Redis user of this URL the missing permission with ACL SETUSER" in trouble.why
    assert "pw" not in trouble.why
    world.client.execute_command("ACL", "SETUSER", "worker", "+@all")
    ran_again(world, only, job)


def test_case_22_a_certificate_that_nobody_vouches_for_refuses_the_start(prefix: str, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    cert, key = tmp_path / "cert", tmp_path / "key"
    subject = ["-subj", "/CN=localhost", "-days", "1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject], check=True, stderr=-3)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def greet() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as plain:
            context.wrap_socket(plain, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet)
        thread.start()
        url = f"rediss://localhost:{listener.getsockname()[1]}"
        with (
            pytest.raises(StoreUnavailable, match="certificate verify failed"),
            serving({"render": handlers()}, url, prefix),
        ):
            pass
        thread.join()


def test_case_23_refused_connections_for_too_many_clients_are_waited_out(world: World) -> None:
    only = world.serve(lock_s=3.0)
    job, _ = world.waiting_job(only)
    world.proxy.wait("pass", "renew")
    world.client.config_set("maxclients", 1)
    world.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    eventually(lambda: world.client.info("stats")["rejected_connections"] >= 3, "connections are rejected")
    world.client.config_set("maxclients", 1000)
    ran_once(world, only, job)
    assert world.queue.result(world.queue.add("ok", 1), timeout=10) == 1


@pytest.mark.slow
def test_case_24_a_cluster_slot_may_move_under_a_running_job(tmp_path: Path) -> None:
    nodes, end = Nodes(tmp_path), tmp_path / "end"
    with contextlib.closing(nodes):
        ports = nodes.cluster(3)
        url, keys = f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", QueueKeys("render", "{moves}")
        with (
            Queue("render", redis=url, prefix=keys.prefix) as queue,
            serving({"render": handlers(concurrency=1)}, url, keys.prefix, lock_s=5.0) as only,
        ):
            job = queue.add("waits", {"until": str(end)})
            only.facts.wait(Started, job_id=job.id)
            source = holder(ports, keys)
            target = next(port for port in ports if port != source)
            with moving(source, target, keys):
                pass
            assert holder(ports, keys) == target
            after = queue.add("ok", "after")
            end.touch()
            assert queue.result(job, timeout=15) == "seen"
            assert queue.result(after, timeout=15) == "after"
            assert len(only.facts.all(Started, job_id=job.id)) == 1
            assert only.supervisor.stats()["locks_lost"] == 0


@pytest.mark.parametrize("shift_s", [3600.0, pytest.param(-3600.0, marks=pytest.mark.slow)])
def test_case_25_the_local_clock_does_not_matter(world: World, monkeypatch: pytest.MonkeyPatch, shift_s: float) -> None:
    only = world.serve(lock_s=1.5)
    job, _ = world.waiting_job(only)
    delayed = world.queue.add("ok", "due", delay="500ms")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift_s)
    for _ in range(3):
        world.proxy.wait("pass", "renew")  # a whole lock
    ran_once(world, only, job)
    assert world.queue.result(delayed, timeout=5) == "due"


def test_case_26_a_key_of_another_type_is_refused_before_anything_is_written(world: World) -> None:
    only = world.serve(concurrency=2)
    running, _ = world.waiting_job(only)
    waiting = world.queue.add("ok", 1, delay="300ms")
    world.client.set(world.keys.key("wait"), "x")
    hash_before = world.client.hgetall(world.keys.key(waiting.id))
    trouble = eventually(lambda: claims_refused(only), "a claim is refused")
    assert "something else is kept under a key of this queue" in trouble[0].why
    assert world.client.hgetall(world.keys.key(waiting.id)) == hash_before
    assert world.client.zscore(world.keys.key("delayed"), waiting.id) is not None

    world.end.touch()
    settling = only.facts.wait(StoreTrouble, doing=f"settle {running.id}")
    assert "WRONGTYPE" in settling.why
    assert world.locked(running)
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        world.queue.add("ok", 2)

    world.client.delete(world.keys.key("wait"))
    assert world.queue.result(waiting, timeout=10) == 1
    assert only.facts.wait(Settled, job_id=running.id).to == "completed"
    assert world.queue.counts()["completed"] == 2
