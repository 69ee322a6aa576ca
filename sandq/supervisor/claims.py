"""How a lane asks its queue for jobs: on what terms, at once or as soon as there are some, and when again."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from sandq.errors import SandqError
from sandq.store import work
from sandq.store.connections import Marker
from sandq.supervisor.facts import StoreTrouble
from sandq.supervisor.means import Means

R = TypeVar("R")

IDLE_WAIT_S = 5.0  # a marker that got lost costs at most this long
DUE_WAIT_S = 10.0
PAUSE_S = 1.0  # Redis refused or was away: it is asked again no sooner


class Claims:
    """Asks for the jobs of one queue. Redis' troubles are published; then nobody knows what came, and None is said."""

    def __init__(self, means: Means, marker: Marker, worker: str | None) -> None:
        self._means = means
        self._marker = marker
        self._worker = worker

    def terms(self, count: int, ahead: int) -> work.NextClaim:
        """A fresh token for each job that may come: for so many children, and so many to be held for one."""
        settings, number = self._means.settings, next(self._means.claims)
        return work.NextClaim(
            tokens=tuple(f"{self._means.supervisor_id}:{number}:{index}" for index in range(count + ahead)),
            at_once=count,
            lease=self._means.lease,
            worker_name=self._worker,
            max_data=settings.max_data,
            limiter_max=settings.limiter_max,
            # Without a limiter of our own nothing may stand in for the duration that the queue's owner set.
            limiter_ms=None if settings.limiter_max is None else int(settings.limiter_duration_s * 1000),
        )

    async def now(self, terms: work.NextClaim) -> work.Claimed | None:
        """What there is."""
        return await self._told("claim from", self._means.store.run(work.claim(self._means.keys, terms)))

    async def when_marked(self, terms: work.NextClaim, wait_s: float) -> work.Claimed | None:
        """What there is as soon as a marker comes, or when `wait_s` or what the first lease can spare is over."""
        claim = work.claim(self._means.keys, terms)
        return await self._told("claim from", self._marker.run(claim, self._bounded(wait_s)))

    async def marked(self, wait_s: float) -> None:
        """Until a marker comes, or as long. What is behind the wait changes nothing."""
        look = work.has_backlog(self._means.keys)
        left = await self._told("wait for jobs of", self._marker.run(look, self._bounded(wait_s)))
        await self.rest(left)

    async def rest(self, answer: object) -> None:
        """After `answer`, wait a little if Redis is in trouble; `end` ends it."""
        await self._marker.rest(0.0 if answer is not None else PAUSE_S * self._means.rng.uniform(0.5, 1.5))

    def end(self) -> None:
        """Wait no more: a claim that waits is answered now."""
        self._marker.end()

    def _bounded(self, wait_s: float) -> float:
        return min(wait_s, self._means.lease.claim_wait_s)

    async def _told(self, doing: str, asked: Awaitable[R]) -> R | None:
        try:
            return await asked
        except SandqError as error:
            self._means.publish(StoreTrouble(doing=f"{doing} {self._means.keys.queue}", why=str(error)))
            return None


def wait_after(claimed: work.Claimed) -> float:
    """How long to wait for a marker before the next claim; 0: there may be more."""
    if not claimed.why:
        return 0.0
    return IDLE_WAIT_S if claimed.wait_ms is None else min(DUE_WAIT_S, claimed.wait_ms / 1000)
