"""The producer's and operator's side of one queue: `Queue` for threads, `AsyncQueue` for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import closing
from typing import Any

from sandq.client import AsyncQueueClient, QueueClient, awaited, blocking, drive, drive_async
from sandq.errands import adjust as of_adjust
from sandq.errands import ending
from sandq.errands import family as of_family
from sandq.errands import gauges as of_gauges
from sandq.errands import jobs as of_jobs
from sandq.errands import limits as of_limits
from sandq.errands import maintain as of_maintain
from sandq.errands import queue as of_queue
from sandq.errands import scheduler as of_schedulers
from sandq.errands import stream as of_stream
from sandq.errands.jobs import id_of
from sandq.errands.patience import Patience
from sandq.errands.step import Listen, Step
from sandq.event import Event
from sandq.events import AsyncQueueEvents, QueueEvents
from sandq.job import Job
from sandq.store.executors import REDIS_TIMEOUT_S
from sandq.store.keys import QueueKeys
from sandq.units import Duration
from sandq.waiters import Waiters


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

    tree = blocking(of_family.tree)
    children = blocking(of_family.children)
    child_counts = blocking(of_family.child_counts)
    child_values = blocking(of_family.child_values)
    child_failures = blocking(of_family.child_failures)
    remove_child_dependency = blocking(of_family.remove_child_dependency)
    remove_unprocessed_children = blocking(of_family.remove_unprocessed_children)

    change_priority = blocking(of_adjust.change_priority)
    change_delay = blocking(of_adjust.change_delay)
    update_data = blocking(of_adjust.update_data)
    update_progress = blocking(of_adjust.update_progress)
    log = blocking(of_adjust.log)
    clear_logs = blocking(of_adjust.clear_logs)
    log_count = blocking(of_adjust.log_count)

    drain = blocking(of_maintain.drain)
    clean = blocking(of_maintain.clean)
    obliterate = blocking(of_maintain.obliterate)
    promote_all = blocking(of_maintain.promote_all)
    trim_events = blocking(of_maintain.trim_events)
    event_count = blocking(of_maintain.event_count)
    remove_deduplication_key = blocking(of_maintain.remove_deduplication_key)
    deduplication_job_id = blocking(of_maintain.deduplication_job_id)

    meta = blocking(of_limits.meta)
    set_global_concurrency = blocking(of_limits.set_global_concurrency)
    global_concurrency = blocking(of_limits.global_concurrency)
    is_maxed = blocking(of_limits.is_maxed)
    set_global_rate_limit = blocking(of_limits.set_global_rate_limit)
    global_rate_limit = blocking(of_limits.global_rate_limit)
    rate_limit = blocking(of_limits.rate_limit)
    rate_limit_ttl = blocking(of_limits.rate_limit_ttl)
    remove_rate_limit = blocking(of_limits.remove_rate_limit)

    counts_per_priority = blocking(of_gauges.counts_per_priority)
    delayed_count = blocking(of_gauges.delayed_count)
    metrics = blocking(of_gauges.metrics)
    workers = blocking(of_gauges.workers)

    jobs = blocking(of_queue.jobs)
    count = blocking(of_queue.count)
    counts = blocking(of_queue.counts)
    retry_all = blocking(of_queue.retry_all)
    pause = blocking(of_queue.pause)
    resume = blocking(of_queue.resume)
    paused = blocking(of_queue.paused)
    supervisors = blocking(of_queue.supervisors)

    upsert_scheduler = blocking(of_schedulers.upsert_scheduler)
    scheduler = blocking(of_schedulers.scheduler)
    schedulers = blocking(of_schedulers.schedulers)
    schedulers_count = blocking(of_schedulers.schedulers_count)
    remove_scheduler = blocking(of_schedulers.remove_scheduler)
    publish = blocking(of_stream.publish)

    def result(self, job: Job | str, timeout: Duration) -> Any:
        """Wait until the job ends, and return what its handler returned; JobFailed, or ResultTimeout after `timeout`.

        Works for a job that is removed when it completes, as long as the queue's events reach back to its end.
        """
        limit, since = Patience(timeout, self._redis_timeout), self._run(of_stream.mark(self.keys))
        after = since
        with closing(self._listener()) as listener:

            def answer(step: Step | Listen) -> Any:
                nonlocal after
                if not isinstance(step, Listen):
                    return self._executor.run(step)
                if limit.passed():
                    raise ending.not_ended(self.keys, job, limit)
                look = Patience(min(limit.left_s, ending.LOOK_EVERY_S), self._redis_timeout)
                after, heard = drive(ending.hear(self.keys, step.job_id, after, look), listener.run)
                return heard

            return drive(ending.result(self.keys, job, since), answer)

    def events(
        self, since: str = "$", block: Duration | None = None, names: Collection[str] | str = ()
    ) -> Iterator[Event]:
        """What happens in the queue after the event id `since` ("0": all that is kept, "$": from now on).

        Only events called as in `names`, if there are any. Ends when none came for `block`; None: never.
        """
        place: dict[str, Any] = {"redis": self._url, "prefix": self.keys.prefix, "redis_timeout": self._redis_timeout}
        with QueueEvents(self.name, since=since, block=block, names=names, **place) as found:
            yield from found


class AsyncQueue(AsyncQueueClient):
    """`Queue` for asyncio: the same methods, awaited. For the event loop that first uses it."""

    def __init__(
        self, name: str, *, redis: str | None = None, prefix: str = "bull", redis_timeout: float = REDIS_TIMEOUT_S
    ) -> None:
        """As for `Queue`; nothing is started or connected before the first await."""
        self.keys = QueueKeys(name, prefix)
        self._waiters: Waiters | None = None  # the first to wait makes it
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

    tree = awaited(of_family.tree)
    children = awaited(of_family.children)
    child_counts = awaited(of_family.child_counts)
    child_values = awaited(of_family.child_values)
    child_failures = awaited(of_family.child_failures)
    remove_child_dependency = awaited(of_family.remove_child_dependency)
    remove_unprocessed_children = awaited(of_family.remove_unprocessed_children)

    change_priority = awaited(of_adjust.change_priority)
    change_delay = awaited(of_adjust.change_delay)
    update_data = awaited(of_adjust.update_data)
    update_progress = awaited(of_adjust.update_progress)
    log = awaited(of_adjust.log)
    clear_logs = awaited(of_adjust.clear_logs)
    log_count = awaited(of_adjust.log_count)

    drain = awaited(of_maintain.drain)
    clean = awaited(of_maintain.clean)
    obliterate = awaited(of_maintain.obliterate)
    promote_all = awaited(of_maintain.promote_all)
    trim_events = awaited(of_maintain.trim_events)
    event_count = awaited(of_maintain.event_count)
    remove_deduplication_key = awaited(of_maintain.remove_deduplication_key)
    deduplication_job_id = awaited(of_maintain.deduplication_job_id)

    meta = awaited(of_limits.meta)
    set_global_concurrency = awaited(of_limits.set_global_concurrency)
    global_concurrency = awaited(of_limits.global_concurrency)
    is_maxed = awaited(of_limits.is_maxed)
    set_global_rate_limit = awaited(of_limits.set_global_rate_limit)
    global_rate_limit = awaited(of_limits.global_rate_limit)
    rate_limit = awaited(of_limits.rate_limit)
    rate_limit_ttl = awaited(of_limits.rate_limit_ttl)
    remove_rate_limit = awaited(of_limits.remove_rate_limit)

    counts_per_priority = awaited(of_gauges.counts_per_priority)
    delayed_count = awaited(of_gauges.delayed_count)
    metrics = awaited(of_gauges.metrics)
    workers = awaited(of_gauges.workers)

    jobs = awaited(of_queue.jobs)
    count = awaited(of_queue.count)
    counts = awaited(of_queue.counts)
    retry_all = awaited(of_queue.retry_all)
    pause = awaited(of_queue.pause)
    resume = awaited(of_queue.resume)
    paused = awaited(of_queue.paused)
    supervisors = awaited(of_queue.supervisors)

    upsert_scheduler = awaited(of_schedulers.upsert_scheduler)
    scheduler = awaited(of_schedulers.scheduler)
    schedulers = awaited(of_schedulers.schedulers)
    schedulers_count = awaited(of_schedulers.schedulers_count)
    remove_scheduler = awaited(of_schedulers.remove_scheduler)
    publish = awaited(of_stream.publish)

    async def result(self, job: Job | str, timeout: Duration) -> Any:
        """Wait until the job ends, and return what its handler returned; JobFailed, or ResultTimeout after `timeout`.

        Works for a job that is removed when it completes, as long as the queue's events reach back to its end.
        """
        executor, limit = await self._ready(), Patience(timeout, self._redis_timeout)
        if self._waiters is None:
            self._waiters = Waiters(self.keys, self._listener(), self._redis_timeout)
        async with self._waiters.waiting(id_of(self.keys, job)) as waiter:

            async def answer(step: Step | Listen) -> Any:
                if not isinstance(step, Listen):
                    return await executor.run(step)
                if limit.passed():
                    raise ending.not_ended(self.keys, job, limit)
                return await waiter.hear(min(limit.left_s, ending.LOOK_EVERY_S))

            return await drive_async(ending.result(self.keys, job, waiter.since), answer)

    async def events(
        self, since: str = "$", block: Duration | None = None, names: Collection[str] | str = ()
    ) -> AsyncIterator[Event]:
        """What happens in the queue after the event id `since` ("0": all that is kept, "$": from now on).

        Only events called as in `names`, if there are any. Ends when none came for `block`; None: never.
        """
        await self._ready()
        place: dict[str, Any] = {"redis": self._url, "prefix": self.keys.prefix, "redis_timeout": self._redis_timeout}
        async with AsyncQueueEvents(self.name, since=since, block=block, names=names, **place) as found:
            async for event in found:
                yield event

    async def close(self) -> None:
        """Close the connections, and leave the embedded server if that was used; who waits gets StoreUnavailable."""
        if self._waiters is not None:
            await self._waiters.close()
        await super().close()
