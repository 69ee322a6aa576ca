"""One queue on the test server, for tests that look at what an operation left there."""

from __future__ import annotations

from typing import Any

from redis import Redis

from sandq.store import produce, reads
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.newjob import Parent, new_job

T = 1700000000000
Event = tuple[str, ...]


class Bench:
    """One queue of the test server: add to it, look at it."""

    def __init__(self, executor: SyncExecutor, client: Redis, keys: QueueKeys) -> None:
        self.run, self.client, self.keys = executor.run, client, keys
        self.seen = "0"

    def add(self, name: str = "page", data: Any = None, **options: Any) -> produce.Added:
        (added,) = self.run(produce.add(self.keys, [new_job(name, data, **options)]))
        return added

    def events(self) -> list[Event]:
        """What was emitted since this was last asked: (event, field, value, ...)."""
        entries = self.run(reads.events(self.keys, self.seen, 10_000))
        self.seen = entries[-1][0] if entries else self.seen
        return [(fields.pop("event"), *(part for pair in fields.items() for part in pair)) for _, fields in entries]

    def wait(self) -> list[str]:
        """Head to tail: the last one is taken next."""
        return [raw.decode() for raw in self.client.lrange(self.keys.key("wait"), 0, -1)]

    def zset(self, name: str) -> dict[str, float]:
        return {raw.decode(): score for raw, score in self.client.zrange(self.keys.key(name), 0, -1, withscores=True)}

    def hash(self, job_id: str) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.client.hgetall(self.keys.key(job_id)).items()}

    def text(self, name: str) -> str | None:
        raw = self.client.get(self.keys.key(name))
        return raw.decode() if isinstance(raw, bytes) else None

    def image(self) -> dict[bytes, bytes | None]:
        """Everything the queue consists of, byte by byte."""
        return {key: self.client.dump(key) for key in self.client.scan_iter(f"{self.keys.base}*")}

    def activate(self, job_id: str) -> None:
        """As if a supervisor held it, without a lock."""
        self.client.lrem(self.keys.key("wait"), 0, job_id)
        self.client.lpush(self.keys.key("active"), job_id)

    def parent(self, job_id: str) -> Parent:
        return Parent(id=job_id, queue=self.keys.base.removesuffix(":"))

    def park(self, job_id: str) -> None:
        """As if it waited for its children."""
        self.client.lrem(self.keys.key("wait"), 0, job_id)
        self.client.zrem(self.keys.key("prioritized"), job_id)
        self.client.zadd(self.keys.key("waiting-children"), {job_id: T})
