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
from sandq.store.urls import Target

FAULTS = (RedisError, OSError, TimeoutError)  # whatever an exchange may raise

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
    encode: Any = hiredis.pack_command
    return b"".join(encode(command) for command in commands)


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
    """`Link` for asyncio. Cancelling an exchange closes the connection: its reply may still be on the way."""

    def __init__(self, target: Target, limit_s: float, client_name: str | None = None) -> None:
        """`limit_s` bounds a whole exchange, connecting included, unless the exchange brings its own."""
        self._target, self._limit_s, self._client_name = target, limit_s, client_name
        self._open: dict[str, _AsyncConnection] = {}
        self.has_sent = self.has_met = False  # as for `Link`
        self._running: tuple[str, asyncio.Timeout] | None = None

    async def exchange(self, packed: bytes, count: int, key: str, limit_s: float | None = None) -> list[Any]:
        """Send to the server that holds `key` and read `count` replies; an error reply is raised after the last."""
        lane = self._target.lane(key)
        self.has_sent = False
        try:
            async with asyncio.timeout(limit_s or self._limit_s) as timer:
                self._running = lane, timer
                try:
                    replies, refusal = await self._send(packed, count, key, lane)
                finally:
                    self._running = None
        except BaseException as error:
            await self.drop(key)
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError("no answer in time") from None
            raise
        if refusal is not None:
            raise refusal
        return replies

    async def drop(self, key: str) -> None:
        """Close the connection for `key`; the next exchange finds its way anew."""
        connection = self._open.pop(self._target.lane(key), None)
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Close every connection; an exchange under way ends at once as if its time were up."""
        busy = None
        if self._running is not None:
            # It closes its own connection: while that is half made, nobody else could.
            busy, timer = self._running
            if not timer.expired():
                timer.reschedule(asyncio.get_running_loop().time())
        for lane in [lane for lane in self._open if lane != busy]:
            await self._open.pop(lane).disconnect(nowait=True)

    async def _send(self, packed: bytes, count: int, key: str, lane: str) -> tuple[list[Any], ResponseError | None]:
        connection = self._open.get(lane) or await self._connect(lane, key)
        self.has_sent = self.has_met = True
        await connection.send_packed_command([packed], check_health=False)
        replies: list[Any] = []
        refusal: ResponseError | None = None
        for _ in range(count):
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                refusal = refusal or error
        return replies, refusal

    async def _connect(self, lane: str, key: str) -> _AsyncConnection:
        connection = self._make(await self._place(key), self._target.options)
        self._open[lane] = connection
        await connection.connect()
        return connection

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
