"""What everything that works on one queue shares."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from sandq.config import Lease, QueueSettings
from sandq.store.executors import AsyncExecutor
from sandq.store.keys import QueueKeys
from sandq.supervisor.facts import Listener
from sandq.supervisor.heartbeat import Heartbeat
from sandq.supervisor.oom import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Of one queue in one supervisor."""

    keys: QueueKeys
    settings: QueueSettings
    lease: Lease
    supervisor_id: str
    store: AsyncExecutor
    heartbeat: Heartbeat
    publish: Listener
    rng: random.Random
    oom: Watch
    claims: Iterator[int]  # one count for all queues of a supervisor: a token is used once, whatever it locks
