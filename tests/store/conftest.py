"""Fixtures of the store tests: a worker's hands on a queue, on the shared server or on one without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from worker_bench import Bench

from sandq.store.call import Call
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys


@pytest.fixture
def bench(keys: QueueKeys, redis_url: str, redis_client: Redis) -> Iterator[Bench]:
    """This test's own queue."""
    executor = SyncExecutor(redis_url)
    yield Bench(keys, executor, redis_client)
    executor.close()


@pytest.fixture
def leaves(bench: Bench) -> Bench:
    """The queue of the children; their parents are in `bench`."""
    return bench.other("leaves")


@pytest.fixture
def starved(keys: QueueKeys, server: Any) -> Iterator[Bench]:
    """A queue on a server of its own, which `pause_writes` may leave without memory."""
    executor = SyncExecutor(server.url)
    with server.client() as client:
        yield Bench(keys, executor, client)
    executor.close()


@pytest.fixture
def repeat(keys: QueueKeys, redis_client: Redis) -> Callable[[Call[Any], str], Any]:
    """`repeat(operation, op)` sends an operation under an op-id of the test's choice, as often as it likes."""

    def send(operation: Call[Any], op: str) -> Any:
        named = [keys.base, keys.slot("repeat")]
        return operation.parse(redis_client.eval(operation.script.source, len(named), *named, op, *operation.args))

    return send
