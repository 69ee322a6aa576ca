"""A private Redis or Valkey server for one run, and a watch on locks that run out in it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from sandq.embedded import find_server
from sandq.supervisor.kernel import die_with_parent

START_LIMIT_S = 10.0
STOP_LIMIT_S = 5.0


@contextlib.contextmanager
def private_server(folder: Path) -> Iterator[str]:
    """The URL of a server on a unix socket in `folder`, without persistence, that ends with the block."""
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", "--appendonly", "no"]
    watching = ["--notify-keyspace-events", "Ex"]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [str(find_server()), *options, *watching],
            stdout=log,
            stderr=log,
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  # one thread only
        )
    try:
        _await_answer(f"unix://{socket}", process)
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait(STOP_LIMIT_S)


def _await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    with Redis.from_url(url) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(RedisError):
                client.ping()
                return
            time.sleep(0.01)
    raise RuntimeError(f"the private server did not answer within {START_LIMIT_S:g}s; see redis.log beside its socket")


class LockWatch:
    """Counts the locks of one queue that ran out, as the server itself tells it.

    A lock that is released is deleted, and one that is renewed lives on: only one that nobody renewed in time expires.
    """

    def __init__(self, url: str, queue: str) -> None:
        self._client = Redis.from_url(url)
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._pubsub.psubscribe("__keyevent@*__:expired")
        self._starts, self.lost = f"bull:{queue}:".encode(), 0

    def look(self, wait_s: float) -> None:
        """Take in what has happened, waiting at most so long for more."""
        deadline = time.monotonic() + wait_s
        while (message := self._pubsub.get_message(timeout=max(0.0, deadline - time.monotonic()))) or (
            time.monotonic() < deadline
        ):
            if message and message["data"].startswith(self._starts) and message["data"].endswith(b":lock"):
                self.lost += 1

    def close(self) -> None:
        """Stop watching."""
        self._pubsub.close()
        self._client.close()
