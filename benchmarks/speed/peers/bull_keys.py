"""How many jobs of a queue in BullMQ's data model have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis


def ended(client: Redis, queue: str, added: int) -> int:
    """Those that are in none of the places of unfinished jobs, all looked at in one moment."""
    base = f"bull:{queue}:"
    with client.pipeline(transaction=True) as pipe:
        for place in ("wait", "paused", "active"):
            pipe.llen(base + place)
        for place in ("delayed", "prioritized"):
            pipe.zcard(base + place)
        return added - int(sum(pipe.execute()))
