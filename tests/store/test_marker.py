"""What is run behind the wait for a marker runs in Redis as soon as one is there, and once, however the wait ends."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from network import ChaosProxy
from nodes import Nodes, client, holder, until
from redis import Redis
from test_executors import count, sync_run

from sandq.errors import StoreRefused, StoreUnavailable
from sandq.store.connections import Marker
from sandq.store.keys import QueueKeys
from sandq.store.link import pack

if TYPE_CHECKING:
    from conftest import RedisServer
    from faults import Proxy

LONG_S = 30.0


@asynccontextmanager
async def a_marker(
    url: str, keys: QueueKeys, worker: str | None = None, told: Callable[[str], None] = pytest.fail, **asked: Any
) -> AsyncIterator[Marker]:
    marker = Marker(url, keys, keys.client_name(worker), told, **asked)
    try:
        yield marker
    finally:
        await marker.close()


def mark(client: Redis, keys: QueueKeys) -> None:
    client.zadd(keys.key("marker"), {"0": 0})


def counted(client: Redis, keys: QueueKeys) -> int:
    """How often the operation was carried out."""
    return int(client.get(keys.key("n")) or 0)


def blocked(client: Redis) -> set[str]:
    """The names of those who wait in a blocking command."""
    return {each["name"] for each in client.client_list() if "b" in each["flags"]}


async def is_blocked(client: Redis, keys: QueueKeys, worker: str | None = None) -> None:
    await asyncio.to_thread(until, lambda: keys.client_name(worker) in blocked(client), "the marker is waited for")


def ready(url: str, keys: QueueKeys) -> None:
    """Redis knows the script: one request is one try."""
    sync_run(url, 5, count(keys, 0))


def test_it_runs_with_the_marker_and_nobody_has_to_ask(redis_url: str, redis_client: Redis, keys: QueueKeys) -> None:
    ready(redis_url, keys)

    async def run() -> None:
        async with a_marker(redis_url, keys, "w1") as marker:
            waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
            await is_blocked(redis_client, keys, "w1")  # listed as BullMQ lists its workers
            assert counted(redis_client, keys) == 0
            mark(redis_client, keys)
            # The loop has not turned since: whoever waits cannot have sent anything.
            assert counted(redis_client, keys) == 1
            assert await waiting == 1

    asyncio.run(run())


def test_without_a_marker_it_runs_when_its_time_is_over(redis_url: str, keys: QueueKeys) -> None:
    async def run() -> None:
        async with a_marker(redis_url, keys) as marker:
            started = time.monotonic()
            assert await marker.run(count(keys), 0.2) == 1
            assert time.monotonic() - started >= 0.2
            assert await marker.run(count(keys), 0.0) == 2, "0 is not for ever"

    asyncio.run(run())


def test_a_script_that_redis_has_forgotten_is_loaded(server: RedisServer, keys: QueueKeys) -> None:
    async def run() -> None:
        async with a_marker(server.url, keys) as marker:
            assert await marker.run(count(keys), 0.01) == 1
            with server.client() as client:
                client.script_flush()
            assert await marker.run(count(keys), 0.01) == 2

    asyncio.run(run())


# -- replies that get lost ---------------------------------------------------------------------------------------------


def test_when_its_reply_is_lost_it_is_answered_and_was_run_once(
    server: RedisServer, proxy: Proxy, keys: QueueKeys
) -> None:
    ready(server.url, keys)

    async def run() -> None:
        async with a_marker(proxy.url, keys) as marker:
            proxy.lose_reply(of=b"BZPOPMIN")
            assert await marker.run(count(keys), 0.05) == 1
            assert await marker.run(count(keys), 0.05) == 2

    asyncio.run(run())
    with server.client() as client:
        assert counted(client, keys) == 2


def test_a_first_try_that_arrives_after_the_repeat_and_later_calls_is_not_carried_out(
    server: RedisServer, proxy: Proxy, keys: QueueKeys
) -> None:
    ready(server.url, keys)

    async def run() -> None:
        async with a_marker(proxy.url, keys, redis_timeout=2) as marker:
            proxy.hold_request(of=b"BZPOPMIN")
            assert [await marker.run(count(keys), 0.05) for _ in range(3)] == [1, 2, 3]

    asyncio.run(run())
    proxy.release()
    with server.client() as client:
        assert counted(client, keys) == 3


def test_what_may_have_arrived_is_an_unknown_outcome(server: RedisServer, keys: QueueKeys) -> None:
    way = ChaosProxy(server.socket)

    async def run() -> None:
        async with a_marker(way.url, keys, redis_timeout=1) as marker:
            way.fault("silence", "BZPOPMIN")
            waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
            with server.client() as client:
                await is_blocked(client, keys)
            way.refuse()  # no repeat is sent
            with pytest.raises(StoreUnavailable, match="outcome unknown"):
                await waiting

    try:
        asyncio.run(run())
    finally:
        way.close()


def test_patience_begins_when_the_wait_has_failed(server: RedisServer, keys: QueueKeys) -> None:
    async def run() -> None:
        async with a_marker(server.url, keys, redis_timeout=1) as marker:
            with server.client() as client:
                waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
                await is_blocked(client, keys)
            await asyncio.sleep(1.2)  # longer than an operation may take
            server.kill()
            await asyncio.to_thread(server.start)
            assert await waiting == 1

    asyncio.run(run())


# -- ending a wait -----------------------------------------------------------------------------------------------------


def test_ending_a_wait_answers_it_at_once_and_later_ones_do_not_wait(
    redis_url: str, redis_client: Redis, keys: QueueKeys
) -> None:
    async def run() -> None:
        async with a_marker(redis_url, keys) as marker:
            waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
            await is_blocked(redis_client, keys)
            marker.end()
            async with asyncio.timeout(2):
                assert await waiting == 1
                assert await marker.run(count(keys), LONG_S) == 2
                await marker.rest(LONG_S)
        mark(redis_client, keys)
        assert redis_client.zcard(keys.key("marker")) == 1, "nobody waits any more"

    asyncio.run(run())


@pytest.mark.parametrize("turns", [0, 1, 20], ids=["marker first", "together", "end first"])
def test_a_marker_that_meets_the_end_of_the_wait_has_it_run_once(
    server: RedisServer, keys: QueueKeys, turns: int
) -> None:
    ready(server.url, keys)

    async def run() -> None:
        async with a_marker(server.url, keys, redis_timeout=20) as marker:
            with server.client() as client:
                waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
                await is_blocked(client, keys)
                server.pause()
                marker.end()
                for _ in range(turns):  # of the loop, in which it closes the connection and comes back over a new one
                    await asyncio.sleep(0)
                with socket.socket(socket.AF_UNIX) as other:
                    other.connect(str(server.socket))
                    other.sendall(pack([("ZADD", keys.key("marker"), 0, "0")]))
                    server.resume()
                    assert await waiting == 1
                    other.recv(1)  # the marker is there, for us or for nobody
                assert counted(client, keys) == 1

    asyncio.run(run())


def test_what_was_run_before_the_end_is_answered_though_its_reply_never_came(
    server: RedisServer, proxy: Proxy, keys: QueueKeys
) -> None:
    ready(server.url, keys)

    async def run() -> None:
        async with a_marker(proxy.url, keys) as marker:
            proxy.hold_reply(of=b"BZPOPMIN")
            waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
            with server.client() as client:
                await is_blocked(client, keys)
                mark(client, keys)
                await asyncio.to_thread(proxy.wait)
                marker.end()
                async with asyncio.timeout(2):
                    assert await waiting == 1
                assert counted(client, keys) == 1

    asyncio.run(run())


@pytest.mark.slow
def test_ending_a_wait_on_a_silent_server_takes_no_more_than_a_try_or_two(server: RedisServer, keys: QueueKeys) -> None:
    async def run() -> None:
        async with a_marker(server.url, keys, redis_timeout=10) as marker:
            with server.client() as client:
                waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
                await is_blocked(client, keys)
            server.pause()
            started = time.monotonic()
            marker.end()
            with pytest.raises(StoreUnavailable):
                await waiting
            assert time.monotonic() - started < 10 / 2

    asyncio.run(run())


def test_closing_ends_a_wait_without_another_try(redis_url: str, redis_client: Redis, keys: QueueKeys) -> None:
    async def run() -> None:
        async with a_marker(redis_url, keys) as marker:
            waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
            await is_blocked(redis_client, keys)
            await marker.close()
            async with asyncio.timeout(1):
                with pytest.raises(StoreUnavailable, match="was closed"):
                    await waiting
        assert counted(redis_client, keys) == 0

    asyncio.run(run())


def test_closing_ends_a_wait_that_is_still_connecting(server: RedisServer, keys: QueueKeys) -> None:
    async def run() -> None:
        async with a_marker(server.url, keys) as marker:
            server.pause()
            waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
            await asyncio.sleep(0)
            await marker.close()
            async with asyncio.timeout(1):
                with pytest.raises(StoreUnavailable, match="was closed"):
                    await waiting

    asyncio.run(run())


# -- waits that fail ---------------------------------------------------------------------------------------------------


def rested(marker: Marker) -> Any:
    """Seconds of rest that a loop takes after a wait."""

    async def take() -> float:
        started = time.monotonic()
        await marker.rest()
        return time.monotonic() - started

    return take()


def test_after_a_wait_that_was_cut_it_rests_and_after_a_good_one_it_does_not(
    server: RedisServer, proxy: Proxy, keys: QueueKeys
) -> None:
    ready(server.url, keys)

    async def run() -> None:
        async with a_marker(proxy.url, keys) as marker:
            rests = []
            for _ in range(3):
                proxy.lose_reply(of=b"BZPOPMIN")
                await marker.run(count(keys), 0.01)
                rests.append(await rested(marker))
                assert await rested(marker) < rests[-1], "once for each failure"
            assert rests[0] < rests[2], "longer, while it goes on"
            await marker.run(count(keys), 0.01)
            assert await rested(marker) < rests[0]

    asyncio.run(run())


def test_a_refused_wait_is_told_of_and_costs_its_operation_nothing(
    redis_url: str, redis_client: Redis, keys: QueueKeys
) -> None:
    redis_client.set(keys.key("marker"), "x")
    told: list[str] = []

    async def run() -> None:
        async with a_marker(redis_url, keys, told=told.append) as marker:
            assert await marker.run(count(keys), LONG_S) == 1
            [why] = told
            assert "wait for jobs of" in why
            assert "WRONGTYPE" in why
            resting = asyncio.create_task(marker.rest())
            await asyncio.sleep(0)
            assert not resting.done()
            marker.end()
            await resting

    asyncio.run(run())


def test_a_user_who_may_not_wait_still_gets_an_answer(server: RedisServer, keys: QueueKeys) -> None:
    ready(server.url, keys)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">secret", "~*", "+@all", "-bzpopmin")
    told: list[str] = []

    async def run() -> None:
        url = f"unix://weak:secret@{server.socket}"
        async with a_marker(url, keys, told=told.append) as marker:
            assert await marker.run(count(keys), LONG_S) == 1

    asyncio.run(run())
    [why] = told
    assert "ACL SETUSER" in why
    with server.client() as client:
        assert counted(client, keys) == 1, "Redis had run it behind the refusal already"


def test_an_operation_that_is_refused_says_so_as_without_a_wait(
    redis_url: str, redis_client: Redis, keys: QueueKeys
) -> None:
    redis_client.lpush(keys.key("n"), "mine")

    async def run() -> None:
        async with a_marker(redis_url, keys) as marker:
            with pytest.raises(StoreRefused, match=r"count on .*WRONGTYPE"):
                await marker.run(count(keys), 0.01)

    asyncio.run(run())


def test_a_wait_whose_server_is_gone_ends_and_the_next_one_finds_it_again(server: RedisServer, keys: QueueKeys) -> None:
    async def run() -> None:
        async with a_marker(server.url, keys, redis_timeout=1) as marker:
            with server.client() as client:
                waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
                await is_blocked(client, keys)
            server.kill()
            with pytest.raises(StoreUnavailable):
                await waiting
            await asyncio.to_thread(server.start)
            waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
            with server.client() as client:
                await is_blocked(client, keys)
                mark(client, keys)
            assert await waiting == 1

    asyncio.run(run())


def test_a_demoted_server_ends_the_wait(server: RedisServer, keys: QueueKeys) -> None:
    async def run() -> None:
        async with a_marker(server.url, keys) as marker:
            with server.client() as client:
                waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
                await is_blocked(client, keys)
                client.replicaof("127.0.0.1", "1")
                threading.Timer(0.1, lambda: client.replicaof("NO", "ONE")).start()
                assert await waiting == 1

    asyncio.run(run())


@pytest.mark.slow
def test_on_a_cluster_it_waits_where_the_queue_is(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    keys = QueueKeys("q", "{q}")

    async def run(ports: list[int]) -> None:
        async with a_marker(f"redis+cluster://127.0.0.1:{ports[0]}", keys) as marker:
            node = client(holder(ports, keys))
            assert await marker.run(count(keys), 0.01) == 1
            waiting = asyncio.create_task(marker.run(count(keys), LONG_S))
            await is_blocked(node, keys)
            mark(node, keys)
            assert await waiting == 2

    try:
        asyncio.run(run(nodes.cluster(2)))
    finally:
        nodes.close()
