"""Jobs that wait for other jobs: `Flow` for threads, `AsyncFlow` for asyncio."""

from __future__ import annotations

from sandq.client import AsyncClient, Client, awaited, blocking
from sandq.errands import flow as of_flow
from sandq.errands.family import FlowTree
from sandq.errands.flow import FlowJob
from sandq.store.executors import REDIS_TIMEOUT_S

__all__ = ["AsyncFlow", "Flow", "FlowJob", "FlowTree"]


class Flow(Client):
    """Adds flows to the queues under one prefix, for any number of threads.

    Every method may raise StoreUnavailable after `redis_timeout`.
    """

    def __init__(
        self, *, redis: str | None = None, prefix: str = "bull", redis_timeout: float = REDIS_TIMEOUT_S
    ) -> None:
        """`redis`: a URL, "embedded", or nothing for SANDQ_REDIS_URL. Connects at the first operation."""
        self.prefix = prefix
        super().__init__(redis, redis_timeout)

    @property
    def _scope(self) -> str:
        return self.prefix

    add = blocking(of_flow.add)
    add_many = blocking(of_flow.add_many)
    tree = blocking(of_flow.tree)


class AsyncFlow(AsyncClient):
    """`Flow` for asyncio: the same methods, awaited. For the event loop that first uses it."""

    def __init__(
        self, *, redis: str | None = None, prefix: str = "bull", redis_timeout: float = REDIS_TIMEOUT_S
    ) -> None:
        """As for `Flow`; nothing is started or connected before the first await."""
        self.prefix = prefix
        super().__init__(redis, redis_timeout)

    @property
    def _scope(self) -> str:
        return self.prefix

    add = awaited(of_flow.add)
    add_many = awaited(of_flow.add_many)
    tree = awaited(of_flow.tree)
