"""The producer's and operator's side of one queue: `Queue` for threads, `AsyncQueue` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, TypedDict, TypeVar, Unpack

from sandq import errands
from sandq.backoff import Backoff
from sandq.embedded import EmbeddedServer, find_redis
from sandq.errands import CancelAnswer, Errand, Event, Limit, Listen, Step, Waiting
from sandq.job import Job, JobState
from sandq.store import produce, reads
from sandq.store.executors import REDIS_TIMEOUT_S, AsyncExecutor, SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.newjob import Parent, Retention, new_job
from sandq.store.urls import EMBEDDED, parse_url, resolve_url
from sandq.units import Duration

R = TypeVar("R")

SLOTS = 4  # operations of one AsyncQueue in flight at a time


class JobOptions(TypedDict, total=False):
    """What `add` may be told about a job beside its name and data."""

    attempts: int  # how often the handler may raise; 0 means once
    backoff: Backoff | Duration | Mapping[str, Any] | None  # "exponential:1s", "fixed:5s", or a fixed duration
    delay: Duration | None  # the job may run this long from now
    priority: int  # 0 runs first, then 1, 2, ...
    job_id: str | None  # a second job of the same id is not added
    lifo: bool  # before everything that waits
    timeout: Duration | None  # one attempt may take this long
    memory: int | str | None  # one attempt may hold this much: "2GiB"
    remove_on_complete: Retention | None  # True, or how many completed jobs to keep
    remove_on_fail: Retention | None
    keep_logs: int | None
    stacktrace_limit: int | None
    timestamp: int | None  # creation time in ms; Redis' own when left out
    parent: Parent | None
    deduplication: str | Mapping[str, Any] | None


class Queue:
    """One queue, for any number of threads. Every method may raise StoreUnavailable after `redis_timeout`."""

    def __init__(
        self, name: str, *, redis: str | None = None, prefix: str = "bull", redis_timeout: float = REDIS_TIMEOUT_S
    ) -> None:
        """`redis`: a URL, "embedded", or nothing for SANDQ_REDIS_URL. Connects at the first operation."""
        self.keys = QueueKeys(name, prefix)
        self._redis_timeout = redis_timeout
        self._server: EmbeddedServer | None
        self._url, self._server = find_redis(redis)
        self._executor = SyncExecutor(self._url, redis_timeout=redis_timeout)

    @property
    def name(self) -> str:
        """The queue's name, without its prefix."""
        return self.keys.queue

    def add(self, name: str, data: Any = None, **options: Unpack[JobOptions]) -> Job:
        """Add one job; when this returns, Redis holds it."""
        return self._run(errands.add(self.keys, [new_job(name, data, **options)]))[0]

    def add_many(self, items: Iterable[tuple[str, Any] | Mapping[str, Any]]) -> list[Job]:
        """Add jobs given as (name, data) or as mappings of `add`'s arguments, hundreds per call to Redis."""
        return self._run(errands.add(self.keys, items))

    def job(self, job: Job | str) -> Job:
        """The job as it stands now; JobNotFound when it is gone."""
        return self._run(errands.job(self.keys, job))

    def state(self, job: Job | str) -> JobState:
        """Where the job is now; JobNotFound when it is gone."""
        return self._run(errands.state(self.keys, job))

    def jobs(self, state: JobState | str, start: int = 0, limit: int = 20) -> list[Job]:
        """Jobs of one state: finished ones newest first, others in the order they will run."""
        return self._run(errands.page(self.keys, state, start, limit))

    def counts(self) -> dict[str, int]:
        """How many jobs each state holds, all at one moment."""
        return self._executor.run(reads.counts(self.keys))

    def logs(self, job: Job | str) -> list[str]:
        """The job's log lines, oldest first."""
        return self._executor.run(reads.logs(self.keys, errands.id_of(job)))

    def result(self, job: Job | str, timeout: Duration) -> Any:
        """Wait until the job ends, and return what its handler returned; JobFailed, or ResultTimeout after `timeout`.

        Works for a job that is removed when it completes, as long as the queue's events reach back to its end.
        """
        limit = Limit(timeout, self._redis_timeout)
        with closing(self._listener()) as listener:

            def answer(step: Step | Listen) -> Any:
                if not isinstance(step, Listen):
                    return self._executor.run(step)
                limit.check(self.name, errands.id_of(job))
                return listener.run(errands.listen(self.keys, step.since, limit.block_ms()))

            return _drive(errands.result(self.keys, job), answer)

    def events(self, since: str = "$", block: Duration | None = None) -> Iterator[Event]:
        """What happens in the queue after the event id `since` ("0": all that is kept, "$": from now on).

        Each event is its id and its fields, which are BullMQ's. Ends when nothing happened for `block`; None: never.
        """
        with closing(self._listener()) as listener:
            last = listener.run(reads.last_event(self.keys)) if since == "$" else since
            limit = Limit(block, self._redis_timeout)
            while True:
                entries = listener.run(errands.listen(self.keys, last, limit.block_ms()))
                for last, fields in entries:
                    yield last, fields
                if entries:
                    limit.restart()
                elif limit.passed():
                    return

    def cancel(self, job: Job | str, reason: str = "") -> CancelAnswer:
        """End the job: at once when it waits, by asking its supervisor when it runs. Never retried."""
        return self._run(errands.cancel(self.keys, job, reason))

    def retry(self, job: Job | str) -> None:
        """Run a finished job again: its crash budgets start afresh, the attempts it made stay counted."""
        self._run(errands.retry(self.keys, job))

    def retry_all(self, state: JobState = JobState.FAILED, *, cancelled: bool = False) -> int:
        """Run all failed (or completed) jobs again; how many that were. Cancelled ones only with `cancelled`."""
        return self._run(errands.retry_all(self.keys, state, cancelled))

    def promote(self, job: Job | str) -> None:
        """Let a delayed job run now."""
        self._run(errands.promote(self.keys, job))

    def remove(self, job: Job | str) -> None:
        """Remove the job and its children; refused while one of them runs."""
        self._run(errands.remove(self.keys, job))

    def pause(self) -> None:
        """Let no job be claimed any more, by any worker; running jobs go on."""
        self._executor.run(produce.pause(self.keys))

    def resume(self) -> None:
        """Undo `pause`."""
        self._run(errands.resume(self.keys))

    def paused(self) -> bool:
        """Whether the queue is paused."""
        return self._executor.run(reads.meta(self.keys)).paused

    def supervisors(self) -> list[dict[str, Any]]:
        """What each living supervisor of this queue last said about itself."""
        return self._executor.run(reads.supervisors(self.keys))

    def close(self) -> None:
        """Close the connection, and leave the embedded server if that was used."""
        self._executor.close()
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, errand: Errand[R]) -> R:
        return _drive(errand, self._executor.run)

    def _listener(self) -> SyncExecutor:
        # Of its own: a blocking read would hold up everybody else on the shared connection.
        return SyncExecutor(self._url, redis_timeout=self._redis_timeout)


class AsyncQueue:
    """`Queue` for asyncio: the same methods, awaited. For the event loop that first uses it."""

    def __init__(
        self, name: str, *, redis: str | None = None, prefix: str = "bull", redis_timeout: float = REDIS_TIMEOUT_S
    ) -> None:
        """As for `Queue`; nothing is started or connected before the first await."""
        self.keys = QueueKeys(name, prefix)
        self._redis, self._redis_timeout = resolve_url(redis), redis_timeout
        if self._redis != EMBEDDED:
            parse_url(self._redis)  # refused here, not at the first await
        self._starting = asyncio.Lock()
        self._url = ""
        self._server: EmbeddedServer | None = None
        self._executor: AsyncExecutor | None = None

    @property
    def name(self) -> str:
        """The queue's name, without its prefix."""
        return self.keys.queue

    async def add(self, name: str, data: Any = None, **options: Unpack[JobOptions]) -> Job:
        """Add one job; when this returns, Redis holds it."""
        return (await self._run(errands.add(self.keys, [new_job(name, data, **options)])))[0]

    async def add_many(self, items: Iterable[tuple[str, Any] | Mapping[str, Any]]) -> list[Job]:
        """Add jobs given as (name, data) or as mappings of `add`'s arguments, hundreds per call to Redis."""
        return await self._run(errands.add(self.keys, items))

    async def job(self, job: Job | str) -> Job:
        """The job as it stands now; JobNotFound when it is gone."""
        return await self._run(errands.job(self.keys, job))

    async def state(self, job: Job | str) -> JobState:
        """Where the job is now; JobNotFound when it is gone."""
        return await self._run(errands.state(self.keys, job))

    async def jobs(self, state: JobState | str, start: int = 0, limit: int = 20) -> list[Job]:
        """Jobs of one state: finished ones newest first, others in the order they will run."""
        return await self._run(errands.page(self.keys, state, start, limit))

    async def counts(self) -> dict[str, int]:
        """How many jobs each state holds, all at one moment."""
        return await (await self._ready()).run(reads.counts(self.keys))

    async def logs(self, job: Job | str) -> list[str]:
        """The job's log lines, oldest first."""
        return await (await self._ready()).run(reads.logs(self.keys, errands.id_of(job)))

    async def result(self, job: Job | str, timeout: Duration) -> Any:
        """Wait until the job ends, and return what its handler returned; JobFailed, or ResultTimeout after `timeout`.

        Works for a job that is removed when it completes, as long as the queue's events reach back to its end.
        """
        executor, listener = await self._ready(), self._listener()
        limit = Limit(timeout, self._redis_timeout)

        async def answer(step: Step | Listen) -> Any:
            if not isinstance(step, Listen):
                return await executor.run(step)
            limit.check(self.name, errands.id_of(job))
            return await listener.run(errands.listen(self.keys, step.since, limit.block_ms()))

        try:
            return await _drive_async(errands.result(self.keys, job), answer)
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
                entries = await listener.run(errands.listen(self.keys, last, limit.block_ms()))
                for last, fields in entries:
                    yield last, fields
                if entries:
                    limit.restart()
                elif limit.passed():
                    return
        finally:
            await listener.close()

    async def cancel(self, job: Job | str, reason: str = "") -> CancelAnswer:
        """End the job: at once when it waits, by asking its supervisor when it runs. Never retried."""
        return await self._run(errands.cancel(self.keys, job, reason))

    async def retry(self, job: Job | str) -> None:
        """Run a finished job again: its crash budgets start afresh, the attempts it made stay counted."""
        await self._run(errands.retry(self.keys, job))

    async def retry_all(self, state: JobState = JobState.FAILED, *, cancelled: bool = False) -> int:
        """Run all failed (or completed) jobs again; how many that were. Cancelled ones only with `cancelled`."""
        return await self._run(errands.retry_all(self.keys, state, cancelled))

    async def promote(self, job: Job | str) -> None:
        """Let a delayed job run now."""
        await self._run(errands.promote(self.keys, job))

    async def remove(self, job: Job | str) -> None:
        """Remove the job and its children; refused while one of them runs."""
        await self._run(errands.remove(self.keys, job))

    async def pause(self) -> None:
        """Let no job be claimed any more, by any worker; running jobs go on."""
        await (await self._ready()).run(produce.pause(self.keys))

    async def resume(self) -> None:
        """Undo `pause`."""
        await self._run(errands.resume(self.keys))

    async def paused(self) -> bool:
        """Whether the queue is paused."""
        return (await (await self._ready()).run(reads.meta(self.keys))).paused

    async def supervisors(self) -> list[dict[str, Any]]:
        """What each living supervisor of this queue last said about itself."""
        return await (await self._ready()).run(reads.supervisors(self.keys))

    async def close(self) -> None:
        """Close the connections, and leave the embedded server if that was used."""
        if self._executor is not None:
            await self._executor.close()
        if self._server is not None:
            await asyncio.to_thread(self._server.close)

    async def __aenter__(self) -> AsyncQueue:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ready(self) -> AsyncExecutor:
        if self._executor is None:
            async with self._starting:
                if self._executor is None:
                    # Starting an embedded server takes long enough to hold up everybody else in the loop.
                    self._url, self._server = await asyncio.to_thread(find_redis, self._redis)
                    self._executor = AsyncExecutor(self._url, slots=SLOTS, redis_timeout=self._redis_timeout)
        return self._executor

    def _listener(self) -> AsyncExecutor:
        return AsyncExecutor(self._url, redis_timeout=self._redis_timeout)

    async def _run(self, errand: Errand[R]) -> R:
        return await _drive_async(errand, (await self._ready()).run)


def _drive(errand: Waiting[R], answer: Callable[[Any], Any]) -> R:
    try:
        step = next(errand)
        while True:
            step = errand.send(answer(step))
    except StopIteration as stop:
        found: R = stop.value
        return found


async def _drive_async(errand: Waiting[R], answer: Callable[[Any], Awaitable[Any]]) -> R:
    try:
        step = next(errand)
        while True:
            step = errand.send(await answer(step))
    except StopIteration as stop:
        found: R = stop.value
        return found
