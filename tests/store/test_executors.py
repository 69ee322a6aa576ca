"""A call is applied once, whatever happens to its reply; a reply is never another call's; patience ends in words."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ResponseError

from sandq.errors import StoreRefused, StoreUnavailable
from sandq.store.call import Call, Read
from sandq.store.executors import AsyncExecutor, SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.script import Script

if TYPE_CHECKING:
    from conftest import RedisServer
    from faults import Proxy
    from redis import Redis

# The contract between executor and scripts in its smallest form: a counter that answers a repeated op from its slot.
COUNT = """
local base, slot, op, by = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
if redis.call("HGET", slot, "op") == op then return tonumber(redis.call("HGET", slot, "reply")) end
local n = redis.call("INCRBY", base .. "n", by)
redis.call("HSET", slot, "op", op, "reply", n)
redis.call("PEXPIRE", slot, 60000)
return n
"""


def script(source: str, args: tuple[str, ...] = ("op", "by")) -> Script:
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name="count", keys=("base", "slot"), args=args, repeats=False, source=source, sha=sha)


def count(keys: QueueKeys, by: int = 1) -> Call[int]:
    return Call(script(COUNT), keys.base, (by,), True, int)


def echo(text: str) -> Read[bytes]:
    return Read((("ECHO", text),), lambda replies: bytes(replies[0]))


def sync_run(url: str, redis_timeout: float, *operations: Any) -> list[Any]:
    executor = SyncExecutor(url, redis_timeout=redis_timeout)
    try:
        return [executor.run(operation) for operation in operations]
    finally:
        executor.close()


def async_run(url: str, redis_timeout: float, *operations: Any) -> list[Any]:
    async def run() -> list[Any]:
        executor = AsyncExecutor(url, redis_timeout=redis_timeout)
        try:
            return [await executor.run(operation) for operation in operations]
        finally:
            await executor.close()

    return asyncio.run(run())


Runner = Callable[..., list[Any]]
both = pytest.mark.parametrize("runner", [sync_run, async_run])


@both
def test_replies_come_back_parsed_and_in_order(runner: Runner, redis_url: str, keys: QueueKeys) -> None:
    read: Read[list[Any]] = Read((("SET", keys.key("x"), "é"), ("GET", keys.key("x"))), list)
    assert runner(redis_url, 5, count(keys), count(keys, 10), read) == [1, 11, [b"OK", "é".encode()]]


@both
def test_a_script_that_redis_does_not_know_is_loaded(runner: Runner, server: RedisServer, keys: QueueKeys) -> None:
    flush: Read[bytes] = Read((("SCRIPT", "FLUSH"),), lambda replies: bytes(replies[0]))
    assert runner(server.url, 5, count(keys), flush, count(keys)) == [1, b"OK", 2]


@both
def test_a_call_whose_reply_is_lost_is_applied_once(
    runner: Runner, server: RedisServer, proxy: Proxy, keys: QueueKeys
) -> None:
    sync_run(server.url, 5, count(keys))  # so that the script is known and one request is one try
    proxy.lose_reply(of=b"EVALSHA", times=3)
    assert runner(proxy.url, 5, count(keys), count(keys)) == [2, 3]


@both
def test_a_try_that_arrives_after_later_calls_is_not_applied_again(
    runner: Runner, server: RedisServer, proxy: Proxy, keys: QueueKeys
) -> None:
    sync_run(server.url, 5, count(keys))
    proxy.hold_request(of=b"EVALSHA")
    assert runner(proxy.url, 2, count(keys), count(keys), count(keys)) == [2, 3, 4]
    proxy.release()
    with server.client() as client:
        assert client.get(keys.key("n")) == b"4"


@both
def test_a_call_that_may_have_arrived_is_reported_as_an_unknown_outcome(
    runner: Runner, server: RedisServer, proxy: Proxy, keys: QueueKeys
) -> None:
    sync_run(server.url, 5, count(keys))
    proxy.lose_reply(of=b"EVALSHA", times=1000)
    with pytest.raises(
        StoreUnavailable, match=r"count on .*: outcome unknown after [\d.]+s \(redis_timeout 1s\): Redis at"
    ):
        runner(proxy.url, 1, count(keys))


@both
def test_a_hung_server_is_reported_within_the_budget(runner: Runner, server: RedisServer, keys: QueueKeys) -> None:
    server.pause()
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="nothing was sent"):  # it did not even greet
        runner(server.url, 1, count(keys))
    assert 0.5 < time.monotonic() - started < 1.5


@both
def test_a_read_without_answer_does_not_speak_of_an_unknown_outcome(runner: Runner, server: RedisServer) -> None:
    server.kill()
    with pytest.raises(StoreUnavailable, match=r"^Redis at \S+ does not answer: .*\(asked for 0\.\ds\)$"):
        runner(server.url, 0.3, echo("hello"))


@both
def test_a_call_that_never_found_a_server_says_that_nothing_was_sent(
    runner: Runner, server: RedisServer, keys: QueueKeys
) -> None:
    server.kill()
    with pytest.raises(StoreUnavailable, match=r"does not answer: .*\(tried for 0\.\ds, nothing was sent\)$"):
        runner(server.url, 0.3, count(keys))


@both
@pytest.mark.parametrize("operation", [echo("hello"), count(QueueKeys("q"))], ids=["read", "call"])
def test_the_time_that_is_told_is_the_time_that_was_tried(runner: Runner, server: RedisServer, operation: Any) -> None:
    """The last try begins early enough to end in time; whoever is refused at once has not used up the budget then."""
    server.kill()
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        runner(server.url, 1, operation)
    told = re.search(r"\((?:asked|tried) for ([\d.]+)s", str(caught.value))
    assert told is not None
    assert 0 < float(told[1]) <= time.monotonic() - started + 0.05  # it is rounded


@both
def test_a_host_that_nobody_knows_is_told_of_at_once(runner: Runner, keys: QueueKeys) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="check the host in its URL"):
        runner("redis://host.invalid:6379", 20, count(keys))
    assert time.monotonic() - started < 10


@both
def test_a_restart_in_between_is_waited_out(runner: Runner, server: RedisServer) -> None:
    server.kill()
    start = threading.Timer(0.1, server.start)
    start.start()
    assert runner(server.url, 10, echo("a")) == [b"a"]
    start.join()  # it may still be looking whether the server answers


@both
def test_a_key_of_another_type_is_refused_with_what_to_do(
    runner: Runner, redis_url: str, redis_client: Redis, keys: QueueKeys
) -> None:
    redis_client.lpush(keys.key("n"), "mine")
    with pytest.raises(StoreRefused, match=r"count on .*WRONGTYPE.*choose another queue name or prefix"):
        runner(redis_url, 5, count(keys))


def test_a_refusal_in_the_middle_of_a_pipeline_leaves_the_replies_in_step(
    redis_url: str, redis_client: Redis, keys: QueueKeys
) -> None:
    redis_client.set(keys.key("x"), "text")
    mixed: Read[list[Any]] = Read((("LLEN", keys.key("x")), ("GET", keys.key("x"))), list)
    executor = SyncExecutor(redis_url)
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        executor.run(mixed)
    assert executor.run(echo("next")) == b"next"
    executor.close()

    async def run() -> bytes:
        executor = AsyncExecutor(redis_url)
        with pytest.raises(StoreRefused, match="WRONGTYPE"):
            await executor.run(mixed)
        try:
            return await executor.run(echo("next"))
        finally:
            await executor.close()

    assert asyncio.run(run()) == b"next"


@both
def test_a_server_without_memory_refuses(runner: Runner, server: RedisServer, keys: QueueKeys) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 1)
    with pytest.raises(StoreRefused, match="maxmemory; raise it"):
        runner(server.url, 5, count(keys))


@both
def test_a_missing_permission_and_a_wrong_password_are_refused_at_once(
    runner: Runner, server: RedisServer, keys: QueueKeys
) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">secret", "~*", "+evalsha", "+script|load", "+hget")
    url = f"unix://weak:{{}}@{server.socket}"
    with pytest.raises(StoreRefused, match="ACL SETUSER"):
        runner(url.format("secret"), 5, count(keys))
    with pytest.raises(StoreRefused, match="right user and password") as caught:
        runner(url.format("hunter2"), 5, count(keys))
    assert "hunter2" not in str(caught.value)


@both
def test_a_demoted_server_is_waited_out(runner: Runner, server: RedisServer, keys: QueueKeys) -> None:
    client = server.client()
    sync_run(server.url, 5, count(keys))
    client.replicaof("127.0.0.1", "1")
    threading.Timer(0.1, lambda: client.replicaof("NO", "ONE")).start()
    assert runner(server.url, 5, count(keys)) == [2]
    client.close()


@both
def test_a_busy_server_is_waited_out(runner: Runner, server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("busy-reply-threshold", 10)
    busy, looking = server.client(), server.client()
    spin = "local t = redis.call('TIME') t = t[1] * 1000 + t[2] / 1000 + 300 "
    spin += "repeat local n = redis.call('TIME') until n[1] * 1000 + n[2] / 1000 > t"
    spinning = threading.Thread(target=busy.eval, args=(spin, 0))
    spinning.start()
    try:
        with pytest.raises(ResponseError, match="BUSY"):
            while spinning.is_alive():
                looking.ping()
        assert runner(server.url, 10, echo("a")) == [b"a"]
    finally:
        spinning.join()
        busy.close()
        looking.close()


def test_a_cancelled_call_does_not_leave_its_reply_to_the_next(proxy: Proxy) -> None:
    async def run() -> bytes:
        executor = AsyncExecutor(proxy.url)
        assert await executor.run(echo("first")) == b"first"
        proxy.hold_reply(of=b"second")
        task = asyncio.create_task(executor.run(echo("second")))
        await asyncio.to_thread(proxy.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        try:
            return await executor.run(echo("third"))
        finally:
            await executor.close()

    assert asyncio.run(run()) == b"third"


def test_threads_that_share_an_executor_get_their_own_replies(redis_url: str, keys: QueueKeys) -> None:
    executor, wrong, counted = SyncExecutor(redis_url), [], []

    def work(name: int) -> None:
        for n in range(50):
            text = f"{name}-{n}"
            if executor.run(echo(text)) != text.encode():
                wrong.append(text)
            counted.append(executor.run(count(keys)))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    executor.close()
    assert not wrong
    assert sorted(counted) == list(range(1, 401))


def test_tasks_that_share_the_slots_get_their_own_replies(redis_url: str, keys: QueueKeys) -> None:
    async def run() -> list[int]:
        executor = AsyncExecutor(redis_url, slots=3)
        try:
            texts = await asyncio.gather(*(executor.run(echo(str(n))) for n in range(200)))
            assert texts == [str(n).encode() for n in range(200)]
            return await asyncio.gather(*(executor.run(count(keys)) for _ in range(200)))
        finally:
            await executor.close()

    assert sorted(asyncio.run(run())) == list(range(1, 201))


def test_a_forked_child_shares_neither_connection_nor_op_ids(redis_url: str, keys: QueueKeys) -> None:
    executor = SyncExecutor(redis_url)
    assert executor.run(count(keys)) == 1
    pid = os.fork()
    if pid == 0:
        # An op-id of the parent's would be answered from the parent's stored reply: 1 again, and nothing counted.
        os._exit(executor.run(count(keys)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    assert executor.run(count(keys)) == 3
    executor.close()


def test_a_closed_executor_says_so(redis_url: str) -> None:
    executor = SyncExecutor(redis_url)
    executor.close()
    with pytest.raises(StoreUnavailable, match="was closed"):
        executor.run(echo("a"))


def test_closing_ends_a_call_under_way(server: RedisServer) -> None:
    async def run() -> None:
        executor = AsyncExecutor(server.url)
        await executor.run(echo("a"))
        server.pause()
        task = asyncio.create_task(executor.run(echo("b")))
        await asyncio.sleep(0)
        await executor.close()
        async with asyncio.timeout(1):
            with pytest.raises(StoreUnavailable, match="closed"):
                await task

    asyncio.run(run())


def test_a_caller_who_repeats_by_himself_may_give_one_try_all_the_time(server: RedisServer) -> None:
    """A renewal has 2L/15: a Redis that needs most of it is slow, not away."""
    executor = SyncExecutor(server.url, redis_timeout=2.0, tries=1)
    try:
        assert executor.run(echo("ready")) == b"ready"
        server.pause()
        resume = threading.Timer(1.2, server.resume)  # three times what a fifth of the time would be
        resume.start()
        assert executor.run(echo("late")) == b"late"
        resume.join()
    finally:
        executor.close()
