"""A worker's hands on one queue: every operation as a method, every look at Redis as another."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from redis import Redis

from sandq.config import Lease, QueueSettings
from sandq.outcome import Place, Settlement
from sandq.store import produce, work
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.newjob import new_job

DONE = Settlement(to=Place.COMPLETED, result=b'{"ok":true}')
FAILED = Settlement(to=Place.FAILED, reason="boom")
RETRY = Settlement(to=Place.WAIT, reason="boom", stacktrace=("Error: boom",))
PUT_BACK = Settlement(to=Place.WAIT, front=True, spends_attempt=False)


class Bench:
    """One queue on a real server, seen through a worker's operations."""

    def __init__(self, keys: QueueKeys, executor: SyncExecutor, client: Redis) -> None:
        self.keys, self.executor, self.client = keys, executor, client
        self.run = executor.run
        self._tokens = itertools.count(1)

    def other(self, queue: str) -> Bench:
        """Another queue under the same prefix."""
        return Bench(QueueKeys(queue, self.keys.prefix), self.executor, self.client)

    def add(self, name: str = "page", data: Any = None, **asked: Any) -> str:
        """Add a job as a producer would; its id."""
        return self.run(produce.add(self.keys, [new_job(name, data, **asked)]))[0].id

    def write_job(self, job_id: str, **fields: Any) -> str:
        """A job hash in no list, for states that no add reaches; its key."""
        whole = {"name": "page", "data": "{}", "opts": "{}", "timestamp": 1, "delay": 0, "priority": 0, **fields}
        self.client.hset(self.keys.key(job_id), mapping=whole)
        return self.keys.key(job_id)

    def token(self) -> str:
        return f"w:{next(self._tokens)}"

    def claim(self, count: int = 1, lock_s: float = 30, **asked: Any) -> work.Claimed:
        tokens = [self.token() for _ in range(count)]
        return self.run(work.claim(self.keys, work.NextClaim(tokens=tokens, lease=Lease(lock_s), **asked)))

    def take(self, **asked: Any) -> work.Taken:
        """Claim exactly one job."""
        (taken,) = self.claim(**asked).jobs
        return taken

    def settle(self, taken: work.Taken, settlement: Settlement, *, claims: int = 0, **settings: Any) -> work.Settled:
        wanted = work.NextClaim(tokens=[self.token() for _ in range(claims)], lease=Lease(30)) if claims else None
        operation = work.settle(
            self.keys, taken.job.id, taken.token, settlement, QueueSettings(**settings), next_claim=wanted
        )
        return self.run(operation)

    def run_one(self, settlement: Settlement, **settings: Any) -> str:
        """Claim one job and settle it; its id."""
        taken = self.take()
        assert self.settle(taken, settlement, **settings).word == "ok"
        return taken.job.id

    def check_stalled(self, most: int = 1) -> tuple[str, ...]:
        """A stalled check that no throttle holds back; the recovered ids."""
        self.client.delete(self.keys.key("stalled-check"))
        return self.run(work.check_stalled(self.keys, 1000, most)).recovered

    def lose_lock(self, job_id: str) -> None:
        """What Redis does when a lock runs out."""
        assert self.client.delete(self.keys.lock(job_id)) == 1

    def hash(self, job_id: str) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.client.hgetall(self.keys.key(job_id)).items()}

    def list(self, suffix: str) -> list[str]:
        """A list from head (newest) to tail (next to be taken)."""
        return [raw.decode() for raw in self.client.lrange(self.keys.key(suffix), 0, -1)]

    def zset(self, suffix: str) -> dict[str, int]:
        found = self.client.zrange(self.keys.key(suffix), 0, -1, withscores=True)
        return {member.decode(): int(score) for member, score in found}

    def events(self) -> list[str]:
        """Every event as one line: `active jobId=1 prev=waiting`."""
        return [_line(fields) for _, fields in self.client.xrange(self.keys.key("events"))]

    def events_during(self, act: Callable[[], Any]) -> list[str]:
        """The events that `act` brought."""
        before = len(self.events())
        act()
        return self.events()[before:]

    def now_ms(self) -> int:
        second, micro = self.client.time()
        return second * 1000 + micro // 1000

    def pass_a_millisecond(self) -> None:
        """Let what ends next have a later score than what has ended; equal scores are ordered by job id."""
        before = self.now_ms()
        while self.now_ms() == before:
            pass

    def pause_writes(self) -> None:
        """Leave Redis no memory for any further write."""
        self.client.config_set("maxmemory", 1)


def _line(fields: Mapping[bytes, bytes]) -> str:
    named = {key.decode(): value.decode() for key, value in fields.items()}
    return " ".join([named.pop("event"), *(f"{key}={value}" for key, value in named.items())])


def as_json(raw: str) -> Any:
    return json.loads(raw)
