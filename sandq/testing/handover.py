"""The way between a handler in this process and Redis: what it says goes through the relay that children speak to."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, cast

from sandq.child.channel import Channel
from sandq.child.context import PostponeJob
from sandq.config import QueueSettings
from sandq.errors import ProtocolError
from sandq.job import Claim
from sandq.protocol import Frame
from sandq.store.executors import AsyncExecutor
from sandq.store.keys import QueueKeys
from sandq.supervisor.facts import Fact
from sandq.supervisor.relay import Relay
from sandq.testing.aside import LoopThread

if TYPE_CHECKING:
    from sandq.supervisor.process import ChildProcess

FLUSH_LIMIT_S = 30.0


class Handover(Channel):
    """A channel without a socket. What was sent is in Redis when `send` returns; nobody ever asks for a stop."""

    def __init__(
        self, aside: LoopThread, store: AsyncExecutor, keys: QueueKeys, claim: Claim, settings: QueueSettings
    ) -> None:
        self.stop = None
        self.raised: BaseException | None = None  # by the handler: what its job keeps is a text
        self._handled: BaseException | None = None
        self._aside, self._broken = aside, ""
        self._answers: deque[Frame] = deque()
        # The relay asks of its child no more than to take answers, and to wait while Redis is slow.
        child = cast("ChildProcess", _Listening(self._answers))
        self._relay = Relay(store, keys, claim, child, settings, _unheard, self._note_broken)

    def send(self, frame: Frame) -> None:
        """Hand a frame to the relay and wait until it is done with it."""
        self._aside.run(self._pass_on(frame))
        if self._broken:
            raise ProtocolError(self._broken)

    def receive(self) -> Frame:
        """The answer to the last question."""
        return self._answers.popleft()

    def open_job(self, nonce: int) -> None:  # noqa: ARG002  # the channel's signature
        """The handler begins, perhaps while its caller is handling an exception of his own."""
        self._handled = sys.exception()

    def close_job(self) -> None:
        """The handler has ended; what it raised, if it did, is on its way through here."""
        error = sys.exception()
        self.raised = None if error is self._handled or isinstance(error, PostponeJob) else error

    async def _pass_on(self, frame: Frame) -> None:
        self._relay.push(frame)
        await self._relay.flush(FLUSH_LIMIT_S)

    def _note_broken(self, why: str) -> None:
        self._broken = why


class _Listening:
    def __init__(self, answers: deque[Frame]) -> None:
        self.send = answers.append

    def pause_reading(self) -> None:
        """A handler in this process waits by itself."""

    def resume_reading(self) -> None:
        """As above."""


def _unheard(_fact: Fact) -> None:
    """The test looks into Redis."""
