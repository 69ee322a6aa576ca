"""Writes what became of attempts: one call to Redis for all that ended while the last call was on its way.

A round trip costs the event loop more than the work it carries, so no settlement waits for another one to join it, and
none that is there is left behind. The same call claims the next jobs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sandq.clock import boottime
from sandq.config import QueueSettings
from sandq.errors import SandqError, StoreRefused, StoreUnavailable
from sandq.outcome import Settlement
from sandq.store import work
from sandq.store.executors import AsyncExecutor
from sandq.store.keys import QueueKeys

MAX_ENDINGS = 64  # of one call: it holds up everybody else in Redis
MAX_BYTES = 1 << 20  # of results in one call, unless one alone is larger: it must be sent within one try


@dataclass(frozen=True, slots=True)
class _Waiting:
    ending: work.Ending
    word: asyncio.Future[work.SettleWord]


class Settler:
    """Of one queue, with one call under way at a time.

    `wanted` says, when a call is about to be sent, what it should claim; `arrived` gets what it brought, None when
    nobody knows, and the time at which it was sent. `ended` is told of a task that is over, however it ended.
    """

    def __init__(
        self,
        store: AsyncExecutor,
        keys: QueueKeys,
        settings: QueueSettings,
        wanted: Callable[[], work.NextClaim | None],
        arrived: Callable[[work.Claimed | None, float], None],
        ended: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._store, self._keys, self._settings = store, keys, settings
        self._wanted, self._arrived, self._ended = wanted, arrived, ended
        self._waiting: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None

    @property
    def writing(self) -> asyncio.Task[None] | None:
        """Ends when nothing is left to write; None when nothing is."""
        return self._writing

    async def settle(self, job_id: str, token: str, settlement: Settlement) -> work.SettleWord:
        """Redis' word for this settlement; raises what Redis said of it, StoreRefused or StoreUnavailable."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(work.Ending(job_id, token, settlement), loop.create_future())
        self._waiting.append(waiting)
        if self._writing is None:
            self._writing = loop.create_task(self._write())
            self._writing.add_done_callback(self._ended)
        return await waiting.word

    def close(self) -> None:
        """Write no more; whoever waits is told that the outcome is unknown."""
        if self._writing is not None:
            self._writing.cancel()

    async def _write(self) -> None:
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                batch = self._next_batch()
                await self._write_all(batch)
        finally:
            self._writing = None
            _tell([*batch, *self._waiting], StoreUnavailable("settle: the supervisor was closed meanwhile"))
            self._waiting.clear()

    def _next_batch(self) -> list[_Waiting]:
        batch, size = [self._waiting.popleft()], 0
        while self._waiting and len(batch) < MAX_ENDINGS:
            size += len(batch[-1].ending.settlement.result)
            if size + len(self._waiting[0].ending.settlement.result) > MAX_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _write_all(self, batch: list[_Waiting]) -> None:
        wanted = self._wanted()
        claimed, sent_at = None, boottime()
        try:
            claimed = await self._call(batch, wanted)
        except StoreRefused as error:
            # One job's key of a foreign type refuses the whole call, which then changed nothing.
            if len(batch) == 1:
                _tell(batch, error)
            else:
                await self._write_each(batch)
        except SandqError as error:
            _tell(batch, error)
        finally:
            if wanted is not None:
                self._arrived(claimed, sent_at)

    async def _write_each(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            try:
                await self._call([waiting], None)
            except SandqError as error:
                _tell([waiting], error)

    async def _call(self, batch: list[_Waiting], wanted: work.NextClaim | None) -> work.Claimed | None:
        endings = [waiting.ending for waiting in batch]
        settled = await self._store.run(work.settle_all(self._keys, endings, self._settings, wanted))
        for waiting, word in zip(batch, settled.words, strict=True):
            if not waiting.word.done():
                waiting.word.set_result(word)
        return settled.claimed


def _tell(batch: list[_Waiting], error: SandqError) -> None:
    for waiting in batch:
        if not waiting.word.done():
            waiting.word.set_exception(error)
