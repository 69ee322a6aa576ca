"""Who serves a queue, for all to see: one key per queue and supervisor, which expires with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Collection
from typing import Any

from sandq.errors import SandqError
from sandq.store import work
from sandq.store.executors import AsyncExecutor
from sandq.store.keys import QueueKeys
from sandq.supervisor.facts import Listener, StoreTrouble

WITHDRAW_WAIT_S = 2.0


class Registration:
    """Of one supervisor, at all its queues. Whoever does not renew it in three turns counts as gone."""

    def __init__(
        self, store: AsyncExecutor, queues: Collection[QueueKeys], supervisor_id: str, publish: Listener
    ) -> None:
        self._store = store
        self._queues = queues
        self._id = supervisor_id
        self._publish = publish
        self._news = asyncio.Event()

    async def keep(self, stats: Callable[[], dict[str, Any]], every_s: float) -> None:
        """Say that we serve them and how they fare, again and again; it does not end by itself."""
        ttl_ms = int(every_s * 3000)
        while True:
            self._news.clear()
            info = json.dumps({**stats(), "ttl_ms": ttl_ms}).encode()
            for keys in self._queues:
                try:
                    await self._store.run(work.register(keys, self._id, info, ttl_ms))
                except SandqError as error:
                    self._publish(StoreTrouble(doing="register", why=str(error)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._news.wait()

    def tell_now(self) -> None:
        """Something changed that nobody should have to wait for."""
        self._news.set()

    async def withdraw(self) -> None:
        """Take it back. A store that does not answer in time forgets it by itself."""
        with contextlib.suppress(SandqError, TimeoutError):
            async with asyncio.timeout(WITHDRAW_WAIT_S):
                for keys in self._queues:
                    await self._store.run(work.unregister(keys, self._id))
