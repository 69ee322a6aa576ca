"""Run operations: the only place that decides whether a call is repeated, and under which op-id.

A mutating call carries `<slot>:<n>` as its op-id. When its reply is lost it is sent again with the SAME op-id, and the
script answers from the reply stored under the slot's key. Hence one call in flight per slot, and one stored reply.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import threading
import time
from typing import Any, TypeVar

from redis.exceptions import NoScriptError

from sandq.errors import StoreUnavailable
from sandq.store.call import Call, Read
from sandq.store.lead import Lead
from sandq.store.link import FAULTS, AsyncLink, Link, pack
from sandq.store.refusals import is_unknown_host, refused, silent, verdict
from sandq.store.urls import parse_url

R = TypeVar("R")

REDIS_TIMEOUT_S = 10.0
TRY_SHARE = 5  # one try may use this part of the whole patience, so that a hung server is asked several times
_KEYLESS = ("SCAN", "INFO", "CONFIG")
_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


class _Patience:
    """How long one operation goes on trying, made when its first try failed."""

    def __init__(
        self, operation: Call[Any] | Read[Any], shown: str, started: float, budget_s: float, try_s: float, sent: bool
    ) -> None:
        self._mutates = isinstance(operation, Call) and operation.mutates
        self._what, self._shown, self._budget_s = name_of(operation), shown, budget_s
        self._started = started
        # No try starts that could end after the budget. Where one try may use it all, a failure that came early (a cut
        # connection, say) is still worth another.
        self._last_start = started + max(budget_s - try_s, try_s / 2)
        self._tries = 0
        self._sent = sent

    def pause_after(self, error: BaseException, link: Link | AsyncLink) -> float:
        """Seconds to wait before the next try; StoreRefused or StoreUnavailable when there is none."""
        self._sent = self._sent or link.has_sent
        word = verdict(error)
        if word is not None:
            raise refused(self._what, self._shown, error, word) from error
        pause_s = _PAUSES_S[min(self._tries, len(_PAUSES_S) - 1)] * random.uniform(0.5, 1.0)  # noqa: S311
        self._tries += 1
        if time.monotonic() + pause_s > self._last_start:
            raise StoreUnavailable(self._told(error)) from error
        if is_unknown_host(error) and not link.has_met:  # later on it is the name service that has a bad day
            raise StoreUnavailable(silent(self._shown, error)) from error
        return pause_s

    def _told(self, error: BaseException) -> str:
        why, spent = silent(self._shown, error), f"{time.monotonic() - self._started:.1f}s"
        if not self._mutates:
            return f"{why} (asked for {spent})"
        if not self._sent:
            return f"{why} (tried for {spent}, nothing was sent)"
        return f"{self._what}: outcome unknown after {spent} (redis_timeout {self._budget_s:g}s): {why}"


def name_of(operation: Call[Any] | Read[Any]) -> str:
    """What an operation is called in messages."""
    if isinstance(operation, Call):
        return f"{operation.script.name} on {operation.base.rstrip(':')}"
    command = str(operation.commands[0][0])
    return command if command in _KEYLESS else f"read of {_key_of(operation)}"


class _Slot:
    """One op-id sequence. Its stored reply lives under `<base>sq:op:<name>` (QueueKeys.slot)."""

    __slots__ = ("_count", "name")

    def __init__(self) -> None:
        self.retire()

    def retire(self) -> None:
        """Take a new name, leaving the last stored reply in peace.

        A call that was not plainly answered at its first try may still reach Redis later, from a socket's buffer or the
        network. It must then find its reply where it was stored, so no later call may overwrite that.
        """
        self.name = secrets.token_hex(8)
        self._count = 0

    def prepare(self, operation: Call[Any] | Read[Any], load: bool) -> tuple[bytes, int]:
        """The bytes to send and how many replies they bring. Packed again only to put SCRIPT LOAD in front."""
        if isinstance(operation, Read):
            return pack(operation.commands), len(operation.commands)
        script, base = operation.script, operation.base
        keys = [base if key == "base" else f"{base}sq:op:{self.name}" for key in script.keys]
        op = (f"{self.name}:{self._count}",) if operation.mutates else ()
        run = ("EVALSHA", script.sha, len(keys), *keys, *op, *operation.args)
        return (pack((("SCRIPT", "LOAD", script.source), run)), 2) if load else (pack((run,)), 1)

    def next_operation(self) -> None:
        """A new op-id from here on; repeats keep the one they have."""
        self._count += 1


def _key_of(operation: Call[Any] | Read[Any]) -> str:
    """What a cluster routes by; all keys of a queue share one slot there."""
    if isinstance(operation, Call):
        return operation.base
    command = operation.commands[0]
    key = command[command.index("STREAMS") + 1] if command[0] == "XREAD" else command[1]
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def _parsed(operation: Call[R] | Read[R], replies: list[Any]) -> R:
    return operation.parse(replies[-1]) if isinstance(operation, Call) else operation.parse(replies)


class SyncExecutor:
    """Runs operations one at a time over one connection; may be shared by threads and survives a fork."""

    def __init__(
        self,
        url: str,
        *,
        redis_timeout: float = REDIS_TIMEOUT_S,
        tries: int = TRY_SHARE,
        client_name: str | None = None,
    ) -> None:
        """Nothing is connected yet. `redis_timeout`: at most this many seconds per operation, repeats included.

        One of `tries` may use its share of them. With 1, for a caller who repeats by himself, each may use all of it,
        and one that failed within half of it is repeated.
        """
        self._target = parse_url(url)
        self._budget_s, self._try_s, self._client_name = redis_timeout, redis_timeout / tries, client_name
        self._closed = False
        self._settle_in()

    def run(self, operation: Call[R] | Read[R]) -> R:
        """Send, repeat while it may help, and parse the reply."""
        if self._pid != os.getpid():
            self._settle_in()
        with self._lock:
            if self._closed:
                raise StoreUnavailable(f"{name_of(operation)}: the connection was closed")
            self._slot.next_operation()
            clean = False
            try:
                replies, clean = self._repeat(operation)
                return _parsed(operation, replies)
            finally:
                if not clean:
                    self._slot.retire()

    def close(self) -> None:
        """Close the connection; waits for an operation under way."""
        if self._pid != os.getpid():
            self._settle_in()
        with self._lock:
            self._closed = True
            self._link.close()

    def _settle_in(self) -> None:
        # After a fork parent and child would share a socket, op-ids and a lock that may be held: the child starts anew.
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._slot = _Slot()
        self._link = Link(self._target, self._try_s, self._client_name)

    def _repeat(self, operation: Call[R] | Read[R]) -> tuple[list[Any], bool]:
        started, patience, key = time.monotonic(), None, _key_of(operation)
        packed, count = self._slot.prepare(operation, load=False)
        while True:
            try:
                return self._link.exchange(packed, count, key), patience is None
            except FAULTS as error:
                if isinstance(error, NoScriptError) and count == 1:
                    packed, count = self._slot.prepare(operation, load=True)
                    continue
                patience = patience or _Patience(
                    operation, self._target.shown, started, self._budget_s, self._try_s, sent=False
                )
                pause_s = patience.pause_after(error, self._link)
                self._link.drop(key)  # a server that refuses writes is no longer the one to ask
                time.sleep(pause_s)


class AsyncExecutor:
    """Runs up to `slots` operations at a time, each slot over a connection of its own; for one event loop."""

    def __init__(
        self, url: str, *, slots: int = 1, redis_timeout: float = REDIS_TIMEOUT_S, client_name: str | None = None
    ) -> None:
        """Nothing is connected yet. `redis_timeout`: at most this many seconds per operation, repeats included."""
        self._target = parse_url(url)
        self._budget_s, self._try_s = redis_timeout, redis_timeout / TRY_SHARE
        self._closed = False
        self._free = [(_Slot(), AsyncLink(self._target, self._try_s, client_name)) for _ in range(slots)]
        self._links = [link for _, link in self._free]
        self._gate = asyncio.Semaphore(slots)

    async def run(self, operation: Call[R] | Read[R], lead: Lead | None = None) -> R:
        """Send, repeat while it may help, and parse the reply. Cancelling leaves the outcome unknown.

        A `lead` goes in front of the first try, whose failure, noted in `Lead.fault`, is none of the operation's yet.
        """
        async with self._gate:
            self._require_open(operation)
            slot, link = free = self._free.pop()
            slot.next_operation()
            clean = False
            try:
                replies, clean = await self._repeat(slot, link, operation, lead)
                return _parsed(operation, replies)
            finally:
                if not clean:
                    slot.retire()
                self._free.append(free)

    async def close(self) -> None:
        """Close every connection; operations under way end with StoreUnavailable."""
        self._closed = True
        for link in self._links:
            await link.close()

    def _require_open(self, operation: Call[Any] | Read[Any]) -> None:
        if self._closed:
            raise StoreUnavailable(f"{name_of(operation)}: the connection was closed")

    async def _repeat(
        self, slot: _Slot, link: AsyncLink, operation: Call[R] | Read[R], lead: Lead | None
    ) -> tuple[list[Any], bool]:
        patience, key, budget_s = None, _key_of(operation), self._budget_s
        clean, sent = True, False
        packed, count = slot.prepare(operation, load=False)
        if lead is not None and not lead.ended:
            try:
                return await lead.exchange(link, packed, count, key, self._try_s), clean
            except FAULTS as error:
                lead.fault = error
            clean, sent = False, link.has_sent
            await link.drop(key)
            self._require_open(operation)
            budget_s = lead.patience_s(self._budget_s, self._try_s)
        started = time.monotonic()
        while True:
            try:
                return await link.exchange(packed, count, key), clean
            except FAULTS as error:
                if isinstance(error, NoScriptError) and count == 1:
                    packed, count = slot.prepare(operation, load=True)
                    continue
                clean = False
                self._require_open(operation)
                patience = patience or _Patience(
                    operation, self._target.shown, started, budget_s, self._try_s, sent=sent
                )
                pause_s = patience.pause_after(error, link)
                await link.drop(key)  # a server that refuses writes is no longer the one to ask
                await asyncio.sleep(pause_s)
