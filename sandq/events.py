"""Listening to what happens in a queue: `QueueEvents` for threads, `AsyncQueueEvents` for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from typing import Self

from sandq.client import AsyncQueueClient, QueueClient
from sandq.errands import stream
from sandq.errands.patience import Patience
from sandq.errands.stream import NOW, Place
from sandq.errors import StoreUnavailable
from sandq.event import Event
from sandq.store.executors import REDIS_TIMEOUT_S
from sandq.store.keys import QueueKeys
from sandq.units import Duration


class QueueEvents(QueueClient):
    """What happens in a queue, in order, nothing left out: an iterator of `Event` that can go on where it stopped.

    It goes on by itself when a connection breaks or Redis restarts. Where Redis no longer has the events it would go
    on from, the next event says so (`after_gap`). Raises StoreUnavailable when Redis is away for `redis_timeout`;
    iterating again then goes on from `last_id`.
    """

    def __init__(
        self,
        name: str,
        *,
        since: str = NOW,
        names: Collection[str] | str = (),
        block: Duration | None = None,
        redis: str | None = None,
        prefix: str = "bull",
        redis_timeout: float = REDIS_TIMEOUT_S,
    ) -> None:
        """`since`: begin after this event id; "0": with the oldest that is kept; "$": now, when entered or iterated.

        `names`: only events called so. `block`: the iteration ends when none of them came for so long; None: never.
        """
        self.keys = QueueKeys(name, prefix)
        self._place, self._block = Place(since, names), block
        self._closed = False
        super().__init__(redis, redis_timeout, self.keys.listener_name)

    @property
    def last_id(self) -> str:
        """The id of the last event that was handed out, or passed over for its name: `since` for whoever goes on."""
        return self._place.last_id

    def __enter__(self) -> Self:
        """Mark the place: what happens from here on will be told."""
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __iter__(self) -> Iterator[Event]:
        """The events after `last_id`, as they happen; ends when closed, by whichever thread."""
        limit = Patience(self._block, self._redis_timeout)
        try:
            self._begin()
            while not self._closed:
                found = self._run(stream.page(self.keys, self.last_id, limit.block_ms()))
                for event in self._place.take(found):
                    yield event
                    limit.restart()
                if limit.passed():
                    return
        except StoreUnavailable:
            if not self._closed:
                raise

    def close(self) -> None:
        """Close the connection, and with it every iteration."""
        self._closed = True
        super().close()

    def _begin(self) -> None:
        if self.last_id == NOW:
            self._place.last_id = self._run(stream.mark(self.keys))


class AsyncQueueEvents(AsyncQueueClient):
    """`QueueEvents` for asyncio, iterated with `async for`."""

    def __init__(
        self,
        name: str,
        *,
        since: str = NOW,
        names: Collection[str] | str = (),
        block: Duration | None = None,
        redis: str | None = None,
        prefix: str = "bull",
        redis_timeout: float = REDIS_TIMEOUT_S,
    ) -> None:
        """As for `QueueEvents`; nothing is started or connected before the first await."""
        self.keys = QueueKeys(name, prefix)
        self._place, self._block = Place(since, names), block
        self._closed = False
        super().__init__(redis, redis_timeout, self.keys.listener_name)

    @property
    def last_id(self) -> str:
        """The id of the last event that was handed out, or passed over for its name: `since` for whoever goes on."""
        return self._place.last_id

    async def __aenter__(self) -> Self:
        """Mark the place: what happens from here on will be told."""
        try:
            await self._begin()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events after `last_id`, as they happen; ends when closed, by whichever task."""
        limit = Patience(self._block, self._redis_timeout)
        try:
            await self._begin()
            while not self._closed:
                found = await self._run(stream.page(self.keys, self.last_id, limit.block_ms()))
                for event in self._place.take(found):
                    yield event
                    limit.restart()
                if limit.passed():
                    return
        except StoreUnavailable:
            if not self._closed:
                raise

    async def close(self) -> None:
        """Close the connection, and with it every iteration."""
        self._closed = True
        await super().close()

    async def _begin(self) -> None:
        if self.last_id == NOW:
            self._place.last_id = await self._run(stream.mark(self.keys))
