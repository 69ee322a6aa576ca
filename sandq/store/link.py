"""A connection that never mixes up replies: blocking, and the same for asyncio.

RESP2 through redis-py's connections, not its clients: their pools, retries and reply conversions are what an executor
has to decide itself. Replies are raw: bytes, integers, None, and flat lists (HGETALL is name, value, name, ...).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import hiredis
from redis import asyncio as aio
from redis import connection as blocking
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sandq.store.call import Arg
from sandq.store.channel import Channel, take_over
from sandq.store.urls import Target

FAULTS = (RedisError, OSError, TimeoutError)  # whatever an exchange may raise

_encode: Any = hiredis.pack_command

_BLOCKING = {
    "redis": blocking.Connection,
    "rediss": blocking.SSLConnection,
    "unix": blocking.UnixDomainSocketConnection,
}
_AIO = {"redis": aio.Connection, "rediss": aio.SSLConnection, "unix": aio.UnixDomainSocketConnection}


class _Connection(Protocol):
    """What is used of redis-py's blocking connection."""

    def connect(self) -> None: ...
    def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...
    def read_response(self) -> Any: ...
    def disconnect(self) -> None: ...


class _AsyncConnection(Protocol):
    """What is used of redis-py's asyncio connection."""

    async def connect(self) -> None: ...
    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...
    async def read_response(self) -> Any: ...
    async def disconnect(self, nowait: bool = False) -> None: ...


def pack(commands: Iterable[tuple[Arg, ...]]) -> bytes:
    """Commands as one piece of bytes to send."""
    return b"".join(map(_encode, commands))


def _arguments(target: Target, limit_s: float, client_name: str | None) -> dict[str, Any]:
    fixed: dict[str, Any] = {"protocol": 2, "socket_connect_timeout": limit_s, "client_name": client_name}
    if target.form != "unix":
        fixed["socket_keepalive"] = True
    return fixed


class Link:
    """One blocking connection (on a cluster: one per hash slot used), for one thread at a time.

    Whatever goes wrong between sending and the last reply closes it, so that no reply is taken for another's.
    """

    def __init__(self, target: Target, limit_s: float, client_name: str | None = None) -> None:
        """`limit_s` bounds connecting and every read; a blocking command must come back sooner."""
        self._target, self._limit_s, self._client_name = target, limit_s, client_name
        self._open: dict[str, _Connection] = {}
        self.has_sent = False  # the last exchange got as far as sending
        self.has_met = False  # any exchange ever did: the address was right

    def exchange(self, packed: bytes, count: int, key: str) -> list[Any]:
        """Send to the server that holds `key` and read `count` replies; an error reply is raised after the last."""
        lane = self._target.lane(key)
        replies: list[Any] = []
        refusal: ResponseError | None = None
        self.has_sent = False
        try:
            connection = self._open.get(lane) or self._connect(lane, key)
            self.has_sent = self.has_met = True
            connection.send_packed_command([packed], check_health=False)
            for _ in range(count):
                try:
                    replies.append(connection.read_response())
                except ResponseError as error:
                    refusal = refusal or error
        except BaseException:
            self.drop(key)
            raise
        if refusal is not None:
            raise refusal
        return replies

    def drop(self, key: str) -> None:
        """Close the connection for `key`; the next exchange finds its way anew."""
        connection = self._open.pop(self._target.lane(key), None)
        if connection is not None:
            connection.disconnect()

    def close(self) -> None:
        """Close every connection."""
        while self._open:
            self._open.popitem()[1].disconnect()

    def _connect(self, lane: str, key: str) -> _Connection:
        connection = self._make(self._place(key), self._target.options, self._limit_s)
        self._open[lane] = connection
        connection.connect()
        return connection

    def _make(self, place: Mapping[str, Any], options: Mapping[str, Any], limit_s: float) -> _Connection:
        fixed = _arguments(self._target, limit_s, self._client_name)
        made: Any = _BLOCKING[self._target.form](**place, **options, **fixed, socket_timeout=limit_s)
        return made  # type: ignore[no-any-return]

    def _place(self, key: str) -> Mapping[str, Any]:
        target = self._target
        if not target.kind:
            return target.seeds[0]
        trouble: BaseException | None = None
        for seed in random.sample(target.seeds, len(target.seeds)):
            connection = self._make(seed, target.seed_options, self._limit_s / len(target.seeds))
            try:
                connection.connect()
                connection.send_packed_command([pack([target.question()])], check_health=False)
                place = target.place(key, seed, connection.read_response())
            except FAULTS as error:
                trouble, place = error, None
            finally:
                connection.disconnect()
            if place is not None:
                return place
        raise trouble or target.unknown()


class AsyncLink:
    """`Link` for asyncio. Cancelling an exchange closes the connection while a reply may still be on the way."""

    def __init__(self, target: Target, limit_s: float, client_name: str | None = None) -> None:
        """`limit_s` bounds a whole exchange, connecting included, unless the exchange brings its own."""
        self._target, self._limit_s, self._client_name = target, limit_s, client_name
        self._open: dict[str, Channel] = {}
        self._made: dict[str, _AsyncConnection] = {}  # what each channel was taken from
        self.has_sent = self.has_met = False  # as for `Link`
        self._connecting: asyncio.Timeout | None = None

    async def exchange(self, packed: bytes, count: int, key: str, limit_s: float | None = None) -> list[Any]:
        """Send to the server that holds `key` and read `count` replies; an error reply is raised after the last."""
        deadline = asyncio.get_running_loop().time() + (limit_s or self._limit_s)
        channel = self._open.get(self._target.lane(key))
        self.has_sent = False
        if channel is None or not channel.is_open:
            channel, deadline = await self._connect(key, deadline)
        self.has_sent = self.has_met = True
        try:
            return await channel.ask(packed, count, deadline)
        except BaseException:
            if not channel.is_ready:  # it is after an error reply
                await self.drop(key)
            raise

    async def drop(self, key: str) -> None:
        """Close the connection for `key`; the next exchange finds its way anew."""
        await self._shut(self._target.lane(key))

    async def close(self) -> None:
        """Close every connection; an exchange under way ends at once as if its time were up."""
        if self._connecting is not None and not self._connecting.expired():
            # It closes its own connection: while that is half made, nobody else could.
            self._connecting.reschedule(asyncio.get_running_loop().time())
        while self._open:
            await self._shut(next(iter(self._open)))

    async def _connect(self, key: str, deadline: float) -> tuple[Channel, float]:
        """The channel for `key`, and until when an exchange over it may last: not at all if closing came between."""
        await self.drop(key)  # one that was lost while nobody used it
        try:
            async with asyncio.timeout_at(deadline) as timer:
                self._connecting = timer
                try:
                    channel = await self._reach(key)
                finally:
                    self._connecting = None
        except TimeoutError:
            raise RedisTimeoutError("no answer in time") from None
        return channel, timer.when() or deadline

    async def _reach(self, key: str) -> Channel:
        lane = self._target.lane(key)
        connection = self._make(await self._place(key), self._target.options)
        try:
            await connection.connect()
            channel = take_over(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._open[lane], self._made[lane] = channel, connection
        return channel

    async def _shut(self, lane: str) -> None:
        channel = self._open.pop(lane, None)
        if channel is not None:
            channel.close()
            await self._made.pop(lane).disconnect(nowait=True)

    def _make(self, place: Mapping[str, Any], options: Mapping[str, Any]) -> _AsyncConnection:
        # No socket_timeout: one timer around the whole exchange costs less, and bounds more, than one per read.
        fixed = _arguments(self._target, self._limit_s, self._client_name)
        made: Any = _AIO[self._target.form](**place, **options, **fixed, socket_timeout=None)
        return made  # type: ignore[no-any-return]

    async def _place(self, key: str) -> Mapping[str, Any]:
        target = self._target
        if not target.kind:
            return target.seeds[0]
        trouble: BaseException | None = None
        for seed in random.sample(target.seeds, len(target.seeds)):
            connection = self._make(seed, target.seed_options)
            try:
                async with asyncio.timeout(self._limit_s / len(target.seeds)):
                    await connection.connect()
                    await connection.send_packed_command([pack([target.question()])], check_health=False)
                    place = target.place(key, seed, await connection.read_response())
            except FAULTS as error:
                trouble, place = error, None
            finally:
                await connection.disconnect(nowait=True)
            if place is not None:
                return place
        raise trouble or target.unknown()
