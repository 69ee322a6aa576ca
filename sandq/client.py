"""What every client class shares: a connection, an embedded server perhaps, and errands run over them."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

from sandq.embedded import EmbeddedServer, find_redis
from sandq.errands.step import Errand, Waiting
from sandq.store.executors import AsyncExecutor, SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.urls import EMBEDDED, parse_url, resolve_url

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)

SLOTS = 4  # operations of one async client in flight at a time


class Client:
    """A connection for any number of threads. Every operation may raise StoreUnavailable after `redis_timeout`."""

    def __init__(self, redis: str | None, redis_timeout: float, client_name: str | None = None) -> None:
        """`redis`: a URL, "embedded", or nothing for SANDQ_REDIS_URL. Connects at the first operation."""
        self._redis_timeout = redis_timeout
        self._server: EmbeddedServer | None
        self._url, self._server = find_redis(redis)
        self._executor = SyncExecutor(self._url, redis_timeout=redis_timeout, client_name=client_name)

    def close(self) -> None:
        """Close the connection, and leave the embedded server if that was used."""
        self._executor.close()
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, errand: Errand[R]) -> R:
        return drive(errand, self._executor.run)

    def _listener(self) -> SyncExecutor:
        # Of its own: a blocking read would hold up everybody else on the shared connection.
        return SyncExecutor(self._url, redis_timeout=self._redis_timeout)


class AsyncClient:
    """`Client` for the event loop that first uses it."""

    def __init__(self, redis: str | None, redis_timeout: float, client_name: str | None = None) -> None:
        """As for `Client`; nothing is started or connected before the first await."""
        self._redis, self._redis_timeout, self._client_name = resolve_url(redis), redis_timeout, client_name
        if self._redis != EMBEDDED:
            parse_url(self._redis)  # refused here, not at the first await
        self._starting = asyncio.Lock()
        self._url = ""
        self._server: EmbeddedServer | None = None
        self._executor: AsyncExecutor | None = None

    async def close(self) -> None:
        """Close the connections, and leave the embedded server if that was used."""
        if self._executor is not None:
            await self._executor.close()
        if self._server is not None:
            await asyncio.to_thread(self._server.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ready(self) -> AsyncExecutor:
        if self._executor is None:
            async with self._starting:
                if self._executor is None:
                    # Starting an embedded server takes long enough to hold up everybody else in the loop.
                    self._url, self._server = await asyncio.to_thread(find_redis, self._redis)
                    self._executor = AsyncExecutor(
                        self._url, slots=SLOTS, redis_timeout=self._redis_timeout, client_name=self._client_name
                    )
        return self._executor

    async def _run(self, errand: Errand[R]) -> R:
        return await drive_async(errand, (await self._ready()).run)

    def _listener(self) -> AsyncExecutor:
        return AsyncExecutor(self._url, redis_timeout=self._redis_timeout)


class QueueClient(Client):
    """A `Client` of one queue."""

    keys: QueueKeys

    @property
    def _scope(self) -> QueueKeys:
        return self.keys


class AsyncQueueClient(AsyncClient):
    """An `AsyncClient` of one queue."""

    keys: QueueKeys

    @property
    def _scope(self) -> QueueKeys:
        return self.keys


class _Runs(Protocol[S_co]):
    """A client that runs errands within a scope: the keys of its queue, or a prefix for all queues."""

    @property
    def _scope(self) -> S_co: ...

    def _run(self, errand: Errand[R]) -> R: ...


class _RunsAsync(Protocol[S_co]):
    """`_Runs` with awaited errands."""

    @property
    def _scope(self) -> S_co: ...

    async def _run(self, errand: Errand[R]) -> R: ...


def blocking(errand: Callable[Concatenate[S, P], Errand[R]]) -> Callable[Concatenate[_Runs[S], P], R]:
    """The errand as a method that returns when it is done."""

    @functools.wraps(errand)
    def method(self: _Runs[S], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(errand(self._scope, *args, **kwargs))

    return _signed(method)


def awaited(
    errand: Callable[Concatenate[S, P], Errand[R]],
) -> Callable[Concatenate[_RunsAsync[S], P], Coroutine[Any, Any, R]]:
    """The errand as a coroutine method."""

    @functools.wraps(errand)
    async def method(self: _RunsAsync[S], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run(errand(self._scope, *args, **kwargs))

    return _signed(method)


def _signed(method: Callable[P, R]) -> Callable[P, R]:
    """Show the method as `help()` should: `self` where the errand takes its scope, its result instead of its steps."""
    shown = inspect.signature(method)
    first, *others = shown.parameters.values()
    method.__signature__ = shown.replace(  # type: ignore[attr-defined]
        parameters=[first.replace(name="self", annotation=inspect.Parameter.empty), *others],
        return_annotation=str(shown.return_annotation).removeprefix("Errand[").removesuffix("]"),
    )
    return method


def drive(errand: Waiting[R], answer: Callable[[Any], Any]) -> R:
    """Run an errand to its end."""
    try:
        step = next(errand)
        while True:
            step = errand.send(answer(step))
    except StopIteration as stop:
        found: R = stop.value
        return found


async def drive_async(errand: Waiting[R], answer: Callable[[Any], Awaitable[Any]]) -> R:
    """`drive` with awaited answers."""
    try:
        step = next(errand)
        while True:
            step = errand.send(await answer(step))
    except StopIteration as stop:
        found: R = stop.value
        return found
