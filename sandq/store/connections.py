"""What a supervisor does with connections beside running operations: sleep until woken, and ask if a server is fit."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sandq.errors import StartRefused, StoreUnavailable
from sandq.store.call import Call
from sandq.store.executors import REDIS_TIMEOUT_S, AsyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.lead import Lead
from sandq.store.link import FAULTS, Link, pack
from sandq.store.refusals import refused, silent, verdict
from sandq.store.urls import parse_url

R = TypeVar("R")

CHECK_LIMIT_S = 3.0
OLDEST = (6, 2)
_SHORTEST_BLOCK_S = 0.01  # 0 would mean: block for ever
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0


class Marker:
    """Sleeps until a queue has something to claim: the blocking pop by which BullMQ wakes its workers.

    Who is woken claims. So the claim goes with the pop, right behind it on the same connection: Redis runs it when the
    pop returns, with a marker or without, and we are woken once, jobs in hand, instead of asking for them then.
    """

    def __init__(
        self,
        url: str,
        keys: QueueKeys,
        client_name: str,
        on_trouble: Callable[[str], None],
        *,
        redis_timeout: float = REDIS_TIMEOUT_S,
    ) -> None:
        """`client_name` (QueueKeys.client_name) is how the connection is listed as a worker of the queue.

        `on_trouble(why)` is called when Redis refuses the pop, but not what is behind it.
        """
        self._what, self._shown, self._key = f"wait for jobs of {keys.queue}", parse_url(url).shown, keys.key("marker")
        self._executor = AsyncExecutor(url, redis_timeout=redis_timeout, client_name=client_name)
        self._on_trouble = on_trouble
        self._lead: Lead | None = None
        self._ended = asyncio.Event()
        self._pause_s = self._rest_s = 0.0

    async def run(self, operation: Call[R], wait_s: float) -> R:
        """Run it when a marker comes, and after `wait_s` at the latest; at once when the wait is ended, or fails.

        It is run once, and raises what it would without the wait. One at a time; `rest` in between.
        """
        block_s = max(wait_s, _SHORTEST_BLOCK_S)
        self._lead = lead = Lead(("BZPOPMIN", self._key, f"{block_s:.3f}"), block_s)
        if self._ended.is_set():
            lead.end()
        try:
            answer = await self._executor.run(operation, lead)
        finally:
            self._lead = None
        self._note(lead.fault)
        return answer

    async def rest(self, least_s: float = 0.0) -> None:
        """Sleep for so long, and after a wait that failed a little in any case: no loop must spin. `end` ends it."""
        rest_s, self._rest_s = max(least_s, self._rest_s), 0.0
        if rest_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._ended.wait()

    def end(self) -> None:
        """End a wait under way, and every later one at once. What is behind it is still run, and answered soon.

        Its connection is closed, which makes Redis forget the pop and what it has not begun; the same call then goes
        over a new one. It needs no permission, as CLIENT UNBLOCK would.
        """
        self._ended.set()
        if self._lead is not None:
            self._lead.end()

    async def close(self) -> None:
        """Close the connection; what is under way ends with StoreUnavailable."""
        self._ended.set()
        await self._executor.close()

    def _note(self, fault: BaseException | None) -> None:
        """What became of a wait whose operation did well; one that failed is told of by that."""
        if fault is None:
            self._pause_s = 0.0
            return
        self._pause_s = min(max(self._pause_s * 2, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
        if (word := verdict(fault)) is not None:
            self._pause_s = _LONGEST_PAUSE_S
            self._on_trouble(str(refused(self._what, self._shown, fault, word)))
        self._rest_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a start needs to know of the server, and what its owner should."""

    version: str
    warnings: tuple[str, ...] = ()


def check_server(url: str, *, allow_eviction: bool = False, timeout_s: float = CHECK_LIMIT_S) -> ServerFacts:
    """Ask the server whether jobs are safe with it: StartRefused names the fix, StoreUnavailable a server not there."""
    target = parse_url(url)
    link = Link(target, timeout_s)
    try:
        [info] = link.exchange(pack([("INFO",)]), 1, "")
    except FAULTS as error:
        word = verdict(error)
        if word is not None:
            raise refused("check of the server", target.shown, error, word) from error
        raise StoreUnavailable(silent(target.shown, error)) from error
    finally:
        link.close()
    return judge_server(info.decode("utf-8", "replace"), target.shown, allow_eviction)


def judge_server(info: str, shown: str, allow_eviction: bool = False) -> ServerFacts:
    """Read the answer to INFO: too old, or allowed to forget jobs, is refused."""
    facts = dict(line.partition(":")[::2] for line in info.splitlines() if ":" in line)
    version = facts.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise StartRefused(f"Redis at {shown} is version {version}; sandq needs {oldest} or newer, or any Valkey")
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return ServerFacts(version)
    fix = "run CONFIG SET maxmemory-policy noeviction (and set it in redis.conf)"
    if facts.get("maxmemory", "0") == "0":
        return ServerFacts(version, (f"maxmemory-policy is {policy}: harmless until maxmemory is set; {fix}",))
    if allow_eviction:
        return ServerFacts(version, (f"maxmemory-policy is {policy}: jobs and locks may vanish; {fix}",))
    raise StartRefused(f"Redis at {shown} may evict jobs and locks (maxmemory-policy {policy}); {fix}")
