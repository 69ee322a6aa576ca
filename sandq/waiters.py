"""Many who wait for the ends of jobs in one event loop, over one connection."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator

from sandq.client import drive_async
from sandq.errands import stream
from sandq.errands.ending import ending_in
from sandq.errands.patience import Patience
from sandq.errands.stream import START
from sandq.errors import SandqError, StoreUnavailable
from sandq.event import Event
from sandq.store.executors import AsyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.reads import Ending


class Waiter:
    """Somebody who waits for one job."""

    def __init__(self) -> None:
        self.since = START  # the event id after which he listens
        self._news = asyncio.Event()
        self._ending: Ending | None = None
        self._failure: SandqError | None = None

    async def hear(self, limit_s: float) -> Ending | None:
        """The job's end as soon as an event tells it; None when it is time to look for oneself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._news.wait()
        self._news.clear()
        if self._failure is not None:
            raise type(self._failure)(str(self._failure)) from self._failure  # one each: a traceback is not shared
        return self._ending

    def tell(self, ending: Ending) -> None:
        """Wake him with the job's end. The first counts: a completed job may be removed right after."""
        self._ending = self._ending or ending
        self._news.set()

    def fail(self, why: SandqError) -> None:
        """Wake him with what keeps anybody from hearing it."""
        self._failure = why
        self._news.set()


class Waiters:
    """Listens while somebody waits. For the event loop that first uses it."""

    def __init__(self, keys: QueueKeys, listener: AsyncExecutor, redis_timeout: float) -> None:
        """`listener` is used for nothing else: a blocking read would hold up everybody."""
        self._keys, self._listener, self._redis_timeout = keys, listener, redis_timeout
        self._waiting: defaultdict[str, set[Waiter]] = defaultdict(set)
        self._marked = asyncio.Event()
        self._after = START  # the last event that was told
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def waiting(self, job_id: str) -> AsyncIterator[Waiter]:
        """A waiter for the end of a job, should it come after this was entered."""
        waiter = Waiter()
        self._waiting[job_id].add(waiter)
        try:
            if self._task is None:
                self._marked.clear()
                self._task = asyncio.create_task(self._listen())
            await self._marked.wait()
            waiter.since = self._after
            yield waiter
        finally:
            self._waiting[job_id].discard(waiter)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def close(self) -> None:
        """Stop listening; who still waits gets StoreUnavailable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._listener.close()

    async def _listen(self) -> None:
        """Until nobody waits any more."""
        why: SandqError | None = StoreUnavailable(f"events of {self._keys.queue}: the connection was closed")
        try:
            self._after = await drive_async(stream.mark(self._keys), self._listener.run)
            self._marked.set()
            while self._waiting:
                block_ms = Patience(None, self._redis_timeout).block_ms()
                for event in await drive_async(stream.hear(self._keys, self._after, block_ms), self._listener.run):
                    self._after = event.id
                    self._tell(event)
            why = None
        except SandqError as error:
            why = error
        finally:
            # No await from here on: who comes now either is told, or finds no task and makes one.
            self._task = None
            if why is not None:
                for waiter in itertools.chain.from_iterable(self._waiting.values()):
                    waiter.fail(why)
            self._marked.set()

    def _tell(self, event: Event) -> None:
        waiting = self._waiting.get(event.job_id or "", ())
        if waiting and (ending := ending_in(event)) is not None:
            for waiter in waiting:
                waiter.tell(ending)
