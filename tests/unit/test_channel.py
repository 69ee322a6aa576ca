"""A channel brings every exchange its own replies, however they are cut, and closes after anything else."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sandq.errors import ConfigError
from sandq.store.channel import Channel, take_over

replies = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=300), lambda each: st.lists(each, max_size=4)
)


class Wire(asyncio.Transport):
    """Keeps what is written and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_cut = False
        self.protocol: Any = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: Any) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.is_cut = True

    def is_closing(self) -> bool:
        return self.is_cut

    def bring(self, data: bytes) -> None:
        """What a transport does with what it has read."""
        while data:
            room = self.protocol.get_buffer(-1)
            piece = data[: len(room)]
            room[: len(piece)] = piece
            self.protocol.buffer_updated(len(piece))
            data = data[len(piece) :]


def told(reply: Any) -> bytes:
    """A reply as RESP2."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n%b" % (len(reply), b"".join(map(told, reply)))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def soon() -> float:
    return asyncio.get_running_loop().time() + 60


async def after(moment: float) -> None:
    """Until whatever was to happen at `moment` has: timers go off in order."""
    loop = asyncio.get_running_loop()
    is_past = loop.create_future()
    loop.call_at(moment + 0.001, is_past.set_result, None)
    await is_past


def on_wire(steps: Callable[[Wire, Channel], Awaitable[None]]) -> None:
    """Run a test's steps with a channel; none of them may take long."""

    async def run() -> None:
        wire = Wire()
        async with asyncio.timeout(10):
            await steps(wire, Channel(wire))

    asyncio.run(run())


@given(st.lists(replies, min_size=1, max_size=4), st.lists(replies, min_size=1, max_size=4), st.lists(st.integers(0)))
def test_replies_come_out_as_they_went_in_however_they_are_cut(
    first: list[Any], second: list[Any], places: list[int]
) -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        for wanted in (first, second):
            answer = channel.ask(b"request", len(wanted), soon())
            for piece in cut(b"".join(map(told, wanted)), places):
                assert not answer.done() or not piece
                wire.bring(piece)
            assert await answer == wanted
            assert channel.is_ready
        assert wire.written == [b"request"] * 2

    on_wire(steps)


def test_a_reply_larger_than_what_is_read_at_once_is_put_together() -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        wanted = [bytes(range(256)) * 20_000, b"x"]
        answer = channel.ask(b"request", 2, soon())
        wire.bring(b"".join(map(told, wanted)))
        assert await answer == wanted

    on_wire(steps)


@given(st.lists(st.integers(0)))
def test_the_first_error_reply_is_raised_after_the_last_and_leaves_the_replies_in_step(places: list[int]) -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        answer = channel.ask(b"request", 4, soon())
        for piece in cut(b":1\r\n-NOSCRIPT No matching script\r\n-ERR other\r\n:4\r\n", places):
            assert not answer.done() or not piece
            wire.bring(piece)
        with pytest.raises(NoScriptError, match="No matching script"):
            await answer
        assert channel.is_ready
        answer = channel.ask(b"next", 1, soon())
        wire.bring(b":5\r\n")
        assert await answer == [5]

    on_wire(steps)


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda channel: channel.eof_received(), RedisConnectionError),
        (lambda channel: channel.connection_lost(None), RedisConnectionError),
        (lambda channel: channel.connection_lost(ConnectionResetError("reset")), RedisConnectionError),
        (lambda channel: channel.close(), RedisTimeoutError),
    ],
)
def test_an_exchange_ends_with_its_connection(end: Callable[[Channel], None], error: type[Exception]) -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        answer = channel.ask(b"request", 2, soon())
        wire.bring(b":1\r\n")
        end(channel)
        with pytest.raises(error):
            await answer
        assert wire.is_cut
        with pytest.raises(RedisConnectionError, match="closed"):
            channel.ask(b"next", 1, soon())
        assert wire.written == [b"request"]

    on_wire(steps)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b":1\r\n:2\r\n", RedisConnectionError),  # more than was asked for
        (b":1\r\n$", RedisConnectionError),  # and if it is only the beginning of more
        (b"-LOADING Redis is loading\r\n", RedisConnectionError),
        (b"what?\r\n", InvalidResponse),
    ],
)
def test_anything_but_the_replies_asked_for_closes(data: bytes, error: type[Exception]) -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        answer = channel.ask(b"request", 1, soon())
        wire.bring(data)
        with pytest.raises(error):
            await answer
        assert wire.is_cut
        assert not channel.is_open

    on_wire(steps)


def test_what_nobody_asked_for_closes() -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        wire.bring(b"+surprise\r\n")
        assert wire.is_cut
        assert not channel.is_open

    on_wire(steps)


def test_a_second_exchange_at_the_same_time_is_refused() -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        first = channel.ask(b"first", 1, soon())
        with pytest.raises(RedisConnectionError, match="under way"):
            channel.ask(b"second", 1, soon())
        wire.bring(b":1\r\n")
        assert await first == [1]

    on_wire(steps)


def test_a_cancelled_exchange_is_awaited_before_the_next_may_begin() -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        answer = channel.ask(b"request", 2, soon())
        wire.bring(b":1\r\n")
        answer.cancel()
        assert not channel.is_ready
        wire.bring(b":2\r\n")
        assert channel.is_ready

    on_wire(steps)


def test_what_comes_after_the_end_is_nobodys() -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        answer = channel.ask(b"request", 1, soon())
        channel.close()
        wire.bring(b":1\r\n")
        with pytest.raises(RedisTimeoutError):
            await answer

    on_wire(steps)


def test_each_exchange_has_its_own_time_limit() -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        quick_until = loop.time() + 0.01
        quick = channel.ask(b"quick", 1, quick_until)
        wire.bring(b":1\r\n")
        assert await quick == [1]
        patient = channel.ask(b"patient", 1, soon())
        await after(quick_until)
        assert not patient.done()
        wire.bring(b":2\r\n")
        assert await patient == [2]
        hasty = channel.ask(b"hasty", 1, loop.time() + 0.01)  # sooner than what was set for the patient one
        with pytest.raises(RedisTimeoutError, match="no answer in time"):
            await hasty
        assert wire.is_cut

    on_wire(steps)


def test_a_limit_that_goes_by_while_nothing_is_asked_ends_nothing_and_the_next_one_is_kept() -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.01
        quick = channel.ask(b"quick", 1, until)
        wire.bring(b":1\r\n")
        assert await quick == [1]
        await after(until)
        assert channel.is_ready
        with pytest.raises(RedisTimeoutError):
            await channel.ask(b"next", 1, loop.time() + 0.01)

    on_wire(steps)


def test_what_has_ended_is_not_kept_until_its_limit() -> None:
    async def steps(wire: Wire, _: Channel) -> None:
        channel = Channel(wire)
        answer = channel.ask(b"request", 1, soon())
        channel.close()
        with pytest.raises(RedisTimeoutError):
            await answer
        gone = weakref.ref(channel)
        wire.protocol = None
        del channel, answer
        gc.collect()
        assert gone() is None

    on_wire(steps)


# -- taking over what redis-py has connected ---------------------------------------------------------------------------


def connected(wire: Wire, reader: asyncio.StreamReader) -> Any:
    """What redis-py's connection looks like after its handshake."""
    loop = asyncio.get_running_loop()
    writer = asyncio.StreamWriter(wire, asyncio.StreamReaderProtocol(reader, loop=loop), reader, loop)
    return SimpleNamespace(_reader=reader, _writer=writer)


def test_a_connection_is_taken_over_as_it_is_after_the_handshake() -> None:
    async def run() -> None:
        wire, reader = Wire(), asyncio.StreamReader()
        made = connected(wire, reader)
        channel = take_over(made)
        answer = channel.ask(b"request", 1, soon())
        wire.bring(b":1\r\n")
        assert await answer == [1]
        channel.close()

    asyncio.run(run())


@pytest.mark.parametrize("left", ["data", "end", "data and end", "cut"])
def test_a_connection_with_anything_left_of_the_handshake_is_not_taken_over(left: str) -> None:
    async def run() -> None:
        wire, reader = Wire(), asyncio.StreamReader()
        made = connected(wire, reader)
        if "data" in left:
            reader.feed_data(b"+surprise\r\n")
        if "end" in left:
            reader.feed_eof()
        wire.is_cut = left == "cut"
        with pytest.raises(RedisConnectionError):
            take_over(made)
        wire.is_cut = True

    asyncio.run(run())


def test_a_redis_py_that_keeps_its_stream_elsewhere_is_told_of() -> None:
    with pytest.raises(ConfigError, match=r"redis-py \d+.* is too new for this sandq; install 'redis<9'"):
        take_over(SimpleNamespace(stream=None))


def test_errors_get_the_classes_that_verdicts_are_made_by() -> None:
    async def steps(wire: Wire, channel: Channel) -> None:
        for text, name in (
            ("WRONGTYPE Operation", "ResponseError"),
            ("OOM command not allowed", "OutOfMemoryError"),
            ("NOPERM this user", "NoPermissionError"),
            ("READONLY You can't write", "ReadOnlyError"),
            ("MOVED 1 127.0.0.1:1", "MovedError"),
            ("CROSSSLOT Keys", "ClusterCrossSlotError"),
        ):
            answer = channel.ask(b"request", 1, soon())
            wire.bring(f"-{text}\r\n".encode())
            with pytest.raises(ResponseError) as caught:
                await answer
            assert type(caught.value).__name__ == name

    on_wire(steps)
