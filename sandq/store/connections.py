"""What a supervisor does with connections beside running operations: sleep until woken, and ask if a server is fit."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from sandq.errors import StartRefused, StoreUnavailable
from sandq.store.keys import QueueKeys
from sandq.store.link import FAULTS, AsyncLink, Link, pack
from sandq.store.refusals import refused, silent, verdict
from sandq.store.urls import parse_url

CHECK_LIMIT_S = 3.0
OLDEST = (6, 2)
WATCHDOG_S = 1.0  # a blocking command that has not come back this long after its time never will
_SHORTEST_BLOCK_S = 0.01  # 0 would mean: block for ever
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0


class Marker:
    """Sleeps until a queue has something to claim: the blocking pop by which BullMQ wakes its workers."""

    def __init__(self, url: str, keys: QueueKeys, client_name: str) -> None:
        """`client_name` (QueueKeys.client_name) is how the connection is listed as a worker of the queue."""
        self._target, self._key = parse_url(url), keys.key("marker")
        self._what = f"wait for jobs of {keys.queue}"
        self._link = AsyncLink(self._target, WATCHDOG_S * 2, client_name)
        self._closed = asyncio.Event()
        self._pause_s = _SHORTEST_PAUSE_S

    async def wait(self, timeout_s: float) -> bool:
        """True: a marker came, look at the queue. False: none came in time, Redis was not there, or we are closed.

        Never longer than `timeout_s` and a second. StoreRefused when Redis says no; when it says nothing, the command
        connection is the one to complain.
        """
        if self._closed.is_set():
            return False
        block_s = max(timeout_s, _SHORTEST_BLOCK_S)
        started = time.monotonic()
        try:
            command = pack([("BZPOPMIN", self._key, f"{block_s:.3f}")])
            [popped] = await self._link.exchange(command, 1, self._key, block_s + WATCHDOG_S)
        except FAULTS as error:
            word = verdict(error)
            if word is not None and not self._closed.is_set():
                raise refused(self._what, self._target.shown, error, word) from error
            await self._rest(timeout_s - (time.monotonic() - started))
            return False
        self._pause_s = _SHORTEST_PAUSE_S
        return popped is not None

    async def close(self) -> None:
        """End a wait under way at once, and every later one."""
        self._closed.set()
        await self._link.close()

    async def _rest(self, left_s: float) -> None:
        """Sleep a little, so that a loop around `wait` does not spin while Redis is away."""
        await self._link.drop(self._key)
        pause_s = min(self._pause_s * random.uniform(0.5, 1.0), max(left_s, 0))  # noqa: S311
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        try:
            async with asyncio.timeout(pause_s):
                await self._closed.wait()
        except TimeoutError:
            return


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
