"""A blocking command in front of an operation: Redis keeps what follows it, and runs that as soon as it returns."""

from __future__ import annotations

import asyncio
from typing import Any

from sandq.store.call import Arg
from sandq.store.link import AsyncLink, pack


class Lead:
    """Goes with the first try of one operation. A fault, or `end`, has the operation repeated without it.

    The repeat carries the same op-id, so the operation is run once, whether Redis had come to it by then or not.
    """

    def __init__(self, command: tuple[Arg, ...], block_s: float) -> None:
        """`block_s`: the command returns by itself after this long."""
        self.fault: BaseException | None = None  # what the first try ran into
        self.ended = False
        self._packed, self._block_s = pack([command]), block_s
        self._timer: asyncio.Timeout | None = None

    async def exchange(self, link: AsyncLink, packed: bytes, count: int, key: str, limit_s: float) -> list[Any]:
        """As `AsyncLink.exchange`, with `limit_s` for all but the blocking. The command's own reply is left out."""
        packed, limit_s = self._packed + packed, self._block_s + limit_s
        async with asyncio.timeout(None) as timer:
            self._timer = timer
            try:
                return (await link.exchange(packed, count + 1, key, limit_s))[1:]
            finally:
                self._timer = None

    def patience_s(self, budget_s: float, try_s: float) -> float:
        """How long the operation may be repeated: after `end` all that is left to learn is what it brought."""
        return try_s if self.ended else budget_s

    def end(self) -> None:
        """Wait no more: what the operation brings is wanted now."""
        self.ended = True
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time())
