"""Fixtures of the interop tests: BullMQ in a real Node process, sandq's supervisor beside it, one server for both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from node import why_not
from peer import PROCESSOR, Peer, PeerQueue

from sandq import Queue, Supervisor
from sandq.config import Lease, QueueSettings, SupervisorSettings
from sandq.store import work
from sandq.store.executors import SyncExecutor

START_LIMIT_S = 20.0
STOP_LIMIT_S = 20.0


@pytest.fixture(scope="session")
def node_process(redis_url: str) -> Iterator[Peer]:
    """The session's Node process; skips where there is no Node, or no way to install BullMQ."""
    if (why := why_not()) is not None:
        pytest.skip(why)
    process = Peer("node", "driver.mjs", redis_url, "bullmq")
    yield process
    process.close()


@pytest.fixture
def node(node_process: Peer, prefix: str, queue_name: str) -> Iterator[PeerQueue]:
    """This test's queue as BullMQ sees it; the test fails if BullMQ reported an error meanwhile."""
    yield PeerQueue(node_process, prefix, queue_name)
    assert node_process.ask("close", prefix=prefix) == []


@pytest.fixture
def queue(redis_url: str, prefix: str, queue_name: str) -> Iterator[Queue]:
    """The same queue as sandq sees it."""
    with Queue(queue_name, redis=redis_url, prefix=prefix) as opened:
        yield opened


@pytest.fixture
def supervise(redis_url: str, prefix: str, queue_name: str) -> Iterator[Callable[..., None]]:
    """`supervise("a", "b", max_crashes=0)` serves these queues (default: the test's own) to the end of the test."""
    with ExitStack() as stack:

        def start(*names: str, lock_s: float = 5.0, **asked: Any) -> None:
            wanted = {"processor": PROCESSOR, "concurrency": 2, **asked}
            queues = {name: QueueSettings(**wanted) for name in names or (queue_name,)}
            settings = SupervisorSettings(prefix=prefix, name="sandq", lease=Lease(lock_s))
            stack.enter_context(_serving(Supervisor(queues, redis_url, settings=settings)))

        yield start


@pytest.fixture
def why_no_claim(queue: Queue, redis_url: str) -> Iterator[Callable[[], str]]:
    """`why_no_claim()` is what a claim by sandq answers instead of a job."""
    executor = SyncExecutor(redis_url)

    def ask() -> str:
        claimed = executor.run(work.claim(queue.keys, work.NextClaim(tokens=["t"], lease=Lease())))
        assert claimed.jobs == ()
        return claimed.why

    yield ask
    executor.close()


@contextmanager
def _serving(supervisor: Supervisor) -> Iterator[None]:
    """The supervisor in a thread with an event loop of its own."""
    started: Future[asyncio.AbstractEventLoop] = Future()

    async def serve() -> None:
        try:
            await supervisor.start()
        except BaseException as error:  # the test's thread raises it
            started.set_exception(error)
            return
        started.set_result(asyncio.get_running_loop())
        await supervisor.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop = started.result(START_LIMIT_S)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(supervisor.stop)
        thread.join(STOP_LIMIT_S)
        assert not thread.is_alive(), "the supervisor did not stop"
        assert supervisor.failure is None
