"""The producer's and operator's side of one queue: `Queue` for threads, `AsyncQueue` for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

from sandq.client import AsyncQueueClient, QueueClient, awaited, blocking, drive, drive_async
from sandq.errands import ending
from sandq.errands import jobs as of_jobs
from sandq.errands import queue as of_queue
from sandq.errands.ending import Event, Limit
from sandq.errands.step import Listen, Step
from sandq.job import Job
from sandq.store import reads
from sandq.store.executors import REDIS_TIMEOUT_S
from sandq.store.keys import QueueKeys
from sandq.units import Duration


class Queue(QueueClient):
    """One queue, for any number of threads. Every method may raise StoreUnavailable after `redis_timeout`."""

    def __init__(
        self, name: str, *, redis: str | None = None, prefix: str = "bull", redis_timeout: float = REDIS_TIMEOUT_S
    ) -> None:
        """`redis`: a URL, "embedded", or nothing for SANDQ_REDIS_URL. Connects at the first operation."""
        self.keys = QueueKeys(name, prefix)
        super().__init__(redis, redis_timeout)

    @property
    def name(self) -> str:
        """The queue's name, without its prefix."""
        return self.keys.queue

    add = blocking(of_jobs.add)
    add_many = blocking(of_jobs.add_many)
    job = blocking(of_jobs.job)
    state = blocking(of_jobs.state)
    logs = blocking(of_jobs.logs)
    cancel = blocking(of_jobs.cancel)
    retry = blocking(of_jobs.retry)
    promote = blocking(of_jobs.promote)
    remove = blocking(of_jobs.remove)

    jobs = blocking(of_queue.jobs)
    counts = blocking(of_queue.counts)
    retry_all = blocking(of_queue.retry_all)
    pause = blocking(of_queue.pause)
    resume = blocking(of_queue.resume)
    paused = blocking(of_queue.paused)
    supervisors = blocking(of_queue.supervisors)

    def result(self, job: Job | str, timeout: Duration) -> Any:
        """Wait until the job ends, and return what its handler returned; JobFailed, or ResultTimeout after `timeout`.

        Works for a job that is removed when it completes, as long as the queue's events reach back to its end.
        """
        limit = Limit(timeout, self._redis_timeout)
        with closing(self._listener()) as listener:

            def answer(step: Step | Listen) -> Any:
                if not isinstance(step, Listen):
                    return self._executor.run(step)
                limit.check(self.name, job)
                return listener.run(ending.listen(self.keys, step.since, limit.block_ms()))

            return drive(ending.result(self.keys, job), answer)

    def events(self, since: str = "$", block: Duration | None = None) -> Iterator[Event]:
        """What happens in the queue after the event id `since` ("0": all that is kept, "$": from now on).

        Each event is its id and its fields, which are BullMQ's. Ends when nothing happened for `block`; None: never.
        """
        with closing(self._listener()) as listener:
            last = listener.run(reads.last_event(self.keys)) if since == "$" else since
            limit = Limit(block, self._redis_timeout)
            while True:
                entries = listener.run(ending.listen(self.keys, last, limit.block_ms()))
                for last, fields in entries:
                    yield last, fields
                if entries:
                    limit.restart()
                elif limit.passed():
                    return


class AsyncQueue(AsyncQueueClient):
    """`Queue` for asyncio: the same methods, awaited. For the event loop that first uses it."""

    def __init__(
        self, name: str, *, redis: str | None = None, prefix: str = "bull", redis_timeout: float = REDIS_TIMEOUT_S
    ) -> None:
        """As for `Queue`; nothing is started or connected before the first await."""
        self.keys = QueueKeys(name, prefix)
        super().__init__(redis, redis_timeout)

    @property
    def name(self) -> str:
        """The queue's name, without its prefix."""
        return self.keys.queue

    add = awaited(of_jobs.add)
    add_many = awaited(of_jobs.add_many)
    job = awaited(of_jobs.job)
    state = awaited(of_jobs.state)
    logs = awaited(of_jobs.logs)
    cancel = awaited(of_jobs.cancel)
    retry = awaited(of_jobs.retry)
    promote = awaited(of_jobs.promote)
    remove = awaited(of_jobs.remove)

    jobs = awaited(of_queue.jobs)
    counts = awaited(of_queue.counts)
    retry_all = awaited(of_queue.retry_all)
    pause = awaited(of_queue.pause)
    resume = awaited(of_queue.resume)
    paused = awaited(of_queue.paused)
    supervisors = awaited(of_queue.supervisors)

    async def result(self, job: Job | str, timeout: Duration) -> Any:
        """Wait until the job ends, and return what its handler returned; JobFailed, or ResultTimeout after `timeout`.

        Works for a job that is removed when it completes, as long as the queue's events reach back to its end.
        """
        executor, listener = await self._ready(), self._listener()
        limit = Limit(timeout, self._redis_timeout)

        async def answer(step: Step | Listen) -> Any:
            if not isinstance(step, Listen):
                return await executor.run(step)
            limit.check(self.name, job)
            return await listener.run(ending.listen(self.keys, step.since, limit.block_ms()))

        try:
            return await drive_async(ending.result(self.keys, job), answer)
        finally:
            await listener.close()

    async def events(self, since: str = "$", block: Duration | None = None) -> AsyncIterator[Event]:
        """What happens in the queue after the event id `since` ("0": all that is kept, "$": from now on).

        Each event is its id and its fields, which are BullMQ's. Ends when nothing happened for `block`; None: never.
        """
        await self._ready()
        listener = self._listener()
        try:
            last = await listener.run(reads.last_event(self.keys)) if since == "$" else since
            limit = Limit(block, self._redis_timeout)
            while True:
                entries = await listener.run(ending.listen(self.keys, last, limit.block_ms()))
                for last, fields in entries:
                    yield last, fields
                if entries:
                    limit.restart()
                elif limit.passed():
                    return
        finally:
            await listener.close()
