"""Which Redis a command talks to: flag, environment, file, else the private embedded server."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import click

from sandq.client import drive
from sandq.embedded import open_embedded
from sandq.errands.step import Errand
from sandq.errors import JobNotFound, QueueError, SchedulerNotFound
from sandq.queue import Queue
from sandq.settings import Settings, read_settings
from sandq.store.call import Read
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.urls import EMBEDDED

R = TypeVar("R")

PATIENCE_S = 5.0  # a person is waiting: a Redis that is away is told of sooner than a supervisor would give it up


@dataclass(frozen=True, slots=True)
class Store:
    """A Redis that was found, and what else the settings say."""

    url: str
    prefix: str
    settings: Settings
    limit_s: float  # of each operation
    executor: SyncExecutor  # for errands that no client offers; it connects when there is one

    def queue(self, name: str) -> Queue:
        """A client for one queue of this Redis."""
        return Queue(name, redis=self.url, prefix=self.prefix, redis_timeout=self.limit_s)

    def run(self, errand: Errand[R]) -> R:
        """The answer of an errand that no client offers."""
        return drive(errand, self.executor.run)


@contextmanager
def open_store(redis: str | None, prefix: str | None, *, begins: bool = False) -> Iterator[Store]:
    """The Redis of this command line; `begins`: this command may be the first that a new user tries."""
    settings = read_settings(flags={"redis": redis, "prefix": prefix})
    limit_s = min(settings.supervisor.redis_timeout_s, PATIENCE_S)
    with reach(settings, begins=begins) as url, closing(SyncExecutor(url, redis_timeout=limit_s)) as executor:
        yield Store(url, settings.supervisor.prefix, settings, limit_s, executor)


@contextmanager
def reach(settings: Settings, *, begins: bool = False) -> Iterator[str]:
    """The URL of the Redis that the settings name, else of the embedded server, which is started if it is not there.

    One line on stderr tells of the embedded server where a user begins, not at every look around.
    """
    if settings.supervisor.redis not in ("", EMBEDDED):
        yield settings.supervisor.redis
        return
    with open_embedded() as server:
        if begins:
            click.echo(f"sandq: no Redis was named, using a private one in {server.home}", err=True)
        yield server.url


@contextmanager
def open_queue(redis: str | None, prefix: str | None, name: str) -> Iterator[tuple[Queue, bool]]:
    """A queue to read from, and whether it is known: one that is not is empty, and a line on stderr has said why."""
    with open_store(redis, prefix) as store, store.queue(name) as queue:
        yield queue, tell_if_unknown(store, queue)


@contextmanager
def open_known_queue(redis: str | None, prefix: str | None, name: str) -> Iterator[Queue]:
    """A queue to change as a whole: QueueError for one that nobody knows, so that a typo makes none."""
    with open_store(redis, prefix) as store, store.queue(name) as queue:
        if unknown := _unknown(store, queue):
            raise QueueError(unknown)
        yield queue


@contextmanager
def open_member(redis: str | None, prefix: str | None, name: str) -> Iterator[tuple[Store, Queue]]:
    """A queue for what has an id in it. If the id is missing in a queue that nobody knows, the error says that, too."""
    with open_store(redis, prefix) as store, store.queue(name) as queue:
        try:
            yield store, queue
        except (JobNotFound, SchedulerNotFound) as error:
            if unknown := _unknown(store, queue):
                raise type(error)(f"{error}; {unknown}") from error
            raise


def tell_if_unknown(store: Store, queue: Queue) -> bool:
    """Whether somebody knows the queue. If not, that may be a typo, or too early: one line on stderr, no failure."""
    if unknown := _unknown(store, queue):
        click.echo(f"sandq: {unknown}", err=True)
    return not unknown


def _unknown(store: Store, queue: Queue) -> str:
    """What to say of a queue that is in no file, has no key and no worker; nothing for any other."""
    if queue.name in store.settings.queues or store.run(_exists(queue.keys)) or queue.supervisors():
        return ""
    near = difflib.get_close_matches(queue.name, _all_queues(store), n=1)
    hint = f"did you mean {near[0]}?" if near else "`sandq status` lists them"
    return f"there is no queue {queue.name} under the prefix {store.prefix}: it has no job and no worker yet; {hint}"


def _exists(keys: QueueKeys) -> Errand[bool]:
    found: bool = yield Read((("EXISTS", keys.key("meta")),), lambda replies: bool(replies[0]))
    return found


def find_queues(store: Store) -> list[str]:
    """The queues that the file names, else every queue under the prefix."""
    return list(store.settings.queues) or _all_queues(store)


def _all_queues(store: Store) -> list[str]:
    return sorted(store.run(_scan(store.prefix)))


def _scan(prefix: str) -> Errand[set[str]]:
    """Queue names, from the `meta` key that every queue has; SCAN never blocks the server."""
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + ":*:meta"
    found: set[str] = set()
    cursor = b"0"
    while True:
        command = ("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
        cursor, keys = yield Read((command,), lambda replies: replies[0])
        names = (key.decode("utf-8", "replace")[len(prefix) + 1 : -len(":meta")] for key in keys)
        found.update(name for name in names if name and ":" not in name)
        if cursor == b"0":
            return found
