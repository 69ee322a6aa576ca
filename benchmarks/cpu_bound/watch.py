"""A watch on locks that run out."""

from __future__ import annotations

import time

from redis import Redis


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
