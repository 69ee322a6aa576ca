"""What a job may ask about its children, without loading what they returned."""

from __future__ import annotations

import json
from typing import Any

from sandq.store.call import Read
from sandq.store.keys import QueueKeys


def pending_children(keys: QueueKeys, job_id: str) -> Read[int]:
    """How many children have not ended yet."""
    return Read((("SCARD", keys.key(job_id) + ":dependencies"),), lambda replies: int(replies[0]))


def child_values(keys: QueueKeys, job_id: str) -> Read[bytes]:
    """One JSON object: the return values of the completed children by job key, each as its child's bytes."""

    def parse(replies: list[Any]) -> bytes:
        flat = replies[0]
        pairs = list(flat.items()) if isinstance(flat, dict) else list(zip(flat[::2], flat[1::2], strict=True))
        return b"{" + b",".join(json.dumps(key.decode()).encode() + b":" + value for key, value in pairs) + b"}"

    return Read((("HGETALL", keys.key(job_id) + ":processed"),), parse)
