"""The pytest plugin. It is imported at every start of pytest, so it imports nothing of sandq before a test asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sandq.private import PrivateServer
    from sandq.queue import Queue
    from sandq.testing.supervisor import RunningSupervisor


@pytest.fixture(scope="session")
def sandq_server() -> Iterator[PrivateServer]:
    """A Redis server of this test run alone, on a unix socket; started when the first test asks for it."""
    from sandq.private import PrivateServer

    with PrivateServer() as server:
        yield server


@pytest.fixture
def sandq_redis(sandq_server: PrivateServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the private server, empty, and named by SANDQ_REDIS_URL for as long as the test lasts."""
    sandq_server.flush()
    monkeypatch.setenv("SANDQ_REDIS_URL", sandq_server.url)
    return sandq_server.url


@pytest.fixture
def sandq_queue(sandq_redis: str) -> Iterator[Callable[..., Queue]]:
    """Make queues on the private server, `sandq_queue("render")`; they are closed after the test."""
    from sandq.queue import Queue

    with ExitStack() as ends:
        yield lambda name, **options: ends.enter_context(Queue(name, redis=sandq_redis, **options))


@pytest.fixture
def sandq_supervisor(sandq_redis: str) -> Iterator[Callable[..., RunningSupervisor]]:
    """Start supervisors with real children, `sandq_supervisor({"render": "jobs/a.py"})`; they end with the test."""
    from sandq.testing.supervisor import running_supervisor

    with ExitStack() as ends:

        def start(queues: Any, **options: Any) -> RunningSupervisor:
            return ends.enter_context(running_supervisor(queues, sandq_redis, **options))

        yield start
