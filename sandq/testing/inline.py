"""Jobs run in this process: no child, no supervisor, and in Redis afterwards exactly what those would have left."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Self, TypeVar

from sandq.child.loop import run_handler
from sandq.child.resolve import Processor, resolve
from sandq.clock import boottime
from sandq.config import Lease, QueueSettings
from sandq.decide import decide, overrule
from sandq.embedded import find_redis
from sandq.errors import QueueError
from sandq.job import Claim, Job, JobState
from sandq.outcome import Cancelled, Deferred, InitFailed, Outcome, Place, Raised, Settlement, TooLarge
from sandq.queue import Queue
from sandq.store import maintain, produce, reads, work
from sandq.store.call import Call, Read
from sandq.store.executors import AsyncExecutor
from sandq.store.keys import QueueKeys
from sandq.supervisor.attempt import run_frame
from sandq.supervisor.processor import Processor as Named
from sandq.supervisor.processor import terms
from sandq.testing.aside import LoopThread
from sandq.testing.handover import Handover
from sandq.verdict import Evidence, judge

R = TypeVar("R")
Source = str | Callable[..., Any] | QueueSettings

# Nobody renews a lock here, and nobody may take a job away while its handler sits in a debugger.
LEASE = Lease(24 * 3600.0)
MOST_RUNS = 1000
LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class Ran:
    """One attempt that was run."""

    job: Job  # as it was claimed
    outcome: Outcome
    to: str  # where the job went: "completed", "failed", "wait", "delayed", "waiting-children"; "" when it was gone
    error: BaseException | None = None  # what the handler raised


@dataclass(frozen=True, slots=True)
class _Lane:
    keys: QueueKeys
    settings: QueueSettings
    processor: Processor


def run_inline(
    queue: Queue | str,
    processor: Source,
    *,
    promote_delayed: bool = False,
    raise_errors: bool = False,
) -> list[Ran]:
    """Run the queue's jobs in this process until nothing is left to run; see `InlineWorker.run_until_idle`."""
    name, options = queue, {}
    if isinstance(queue, Queue):
        name, options = queue.name, {"redis": queue._url, "prefix": queue.keys.prefix}
    with InlineWorker({str(name): processor}, **options, raise_errors=raise_errors) as worker:
        return worker.run_until_idle(promote_delayed=promote_delayed)


class InlineWorker:
    """Runs jobs one at a time in this thread, by a supervisor's rules: attempts, backoff, children, schedules, limits.

    What takes a process of its own is not there: a timeout or a memory limit stops nothing, and what a handler does to
    its process it does to yours. `queues` is what `Supervisor` takes; a callable is called as it is, never pickled.
    """

    def __init__(
        self,
        queues: Mapping[str, Source],
        redis: str | None = None,
        *,
        prefix: str = "bull",
        raise_errors: bool = False,
    ) -> None:
        """`raise_errors`: what a handler raised is raised here, too, once its job has failed for good."""
        self._raise_errors = raise_errors
        self._lanes = [_Lane(QueueKeys(name, prefix), *_plan(source)) for name, source in queues.items()]
        self._id, self._count = f"inline-{secrets.token_hex(4)}", itertools.count(1)
        self._rng = random.Random(secrets.randbits(64))  # noqa: S311  # jitter, not secrets
        with ExitStack() as ends:
            url, server = find_redis(redis)
            if server is not None:
                ends.callback(server.close)
            self._store = AsyncExecutor(url)
            self._aside = LoopThread("sandq-inline")
            ends.callback(self._aside.close)
            ends.callback(lambda: self._aside.run(self._store.close()))
            for lane in self._lanes:
                _call(lane.processor.setup)
                ends.callback(_call, lane.processor.teardown)
            self._ends = ends.pop_all()

    def close(self) -> None:
        """Call every teardown, also after one that raises, and close the connection."""
        self._ends.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run_one(self) -> Ran | None:
        """Run the next job of the first queue that has one; None when there is nothing to run now."""
        for lane in self._lanes:
            token = f"{self._id}:{next(self._count)}"
            claimed = self._do(work.claim(lane.keys, _terms(lane.settings, token)))
            if claimed.jobs:
                return self._run(lane, claimed.jobs[0])
        return None

    def run_until_idle(self, *, promote_delayed: bool = False, most: int = MOST_RUNS) -> list[Ran]:
        """Run jobs until there is none to run now, and tell what was run.

        With `promote_delayed` time does not count: delayed jobs run as soon as nothing else is left, first those that
        are due first, and a rate limit is lifted. The next run of a schedule is never brought forward.
        """
        ran: list[Ran] = []
        while len(ran) < most:
            if (one := self.run_one()) is not None:
                ran.append(one)
            elif not (promote_delayed and any(self._hasten(lane) for lane in self._lanes)):
                return ran
        raise AssertionError(f"jobs are left after {most} attempts; does a handler add or postpone jobs for ever?")

    def _run(self, lane: _Lane, taken: work.Taken) -> Ran:
        outcome, error = self._outcome(lane, taken)
        if error is not None and _is_for_the_runner(error):
            self._settle(lane, taken, InitFailed("the test was interrupted"))  # as if it had never been claimed
            raise error
        to = self._settle(lane, taken, outcome)
        if error is not None and self._raise_errors and to == Place.FAILED:
            raise error
        return Ran(taken.job, outcome, to, error)

    def _outcome(self, lane: _Lane, taken: work.Taken) -> tuple[Outcome, BaseException | None]:
        """How the attempt ended, and what its handler raised."""
        job, keys, settings = taken.job, lane.keys, lane.settings
        if job.deferred_failure is not None:
            return Deferred(job.deferred_failure), None
        if taken.oversize is not None:
            return TooLarge("data", taken.oversize, settings.max_data), None
        self._keep_schedule(keys, taken)
        claim = Claim(job=job, token=taken.token, sent_at=boottime())
        channel = Handover(self._aside, self._store, keys, claim, settings)
        final = run_handler(channel, lane.processor, run_frame(job, secrets.randbits(64)), terms(settings))
        return judge(Evidence(final=final, max_result=settings.max_result)), channel.raised

    def _keep_schedule(self, keys: QueueKeys, taken: work.Taken) -> None:
        try:
            owed = work.iterate(keys, taken.job, taken.token)
        except QueueError:  # a pattern that nobody can read ends its schedule; this iteration is still owed
            return
        if owed is not None:
            self._do(owed)

    def _settle(self, lane: _Lane, taken: work.Taken, outcome: Outcome) -> str:
        settlement = decide(taken.job, outcome, lane.settings, self._rng)
        if settlement is None:
            return ""
        word = self._write(lane, taken, settlement)
        if word == "cancel-requested":
            asked = self._do(work.take_cancels(lane.keys, {taken.job.id: taken.token}))
            return self._settle(lane, taken, Cancelled(asked.get(taken.job.id, "")))
        instead = overrule(word)
        if isinstance(instead, Raised):
            return self._settle(lane, taken, instead)
        if instead is not None:
            settlement, word = instead, self._write(lane, taken, instead)
        return str(settlement.to) if word == "ok" else ""  # removed meanwhile, or put back by somebody else

    def _write(self, lane: _Lane, taken: work.Taken, settlement: Settlement) -> work.SettleWord:
        return self._do(work.settle(lane.keys, taken.job.id, taken.token, settlement, lane.settings)).word

    def _hasten(self, lane: _Lane) -> bool:
        """Let what waits for its time run now; whether there was anything."""
        lifted = self._do(maintain.lift_limit(lane.keys))
        page = self._do(reads.page(lane.keys, JobState.DELAYED, 0, LOOKED_AT, newest_first=False))
        job = next((job for job in page if job.scheduler_id is None), None)
        return (job is not None and self._do(produce.promote(lane.keys, job.id)) == "ok") or bool(lifted)

    def _do(self, operation: Call[R] | Read[R]) -> R:
        return self._aside.run(self._store.run(operation))


def _plan(source: Source) -> tuple[QueueSettings, Processor]:
    settings = source if isinstance(source, QueueSettings) else QueueSettings()
    if not isinstance(source, (str, QueueSettings)):
        return settings, Processor(default=source)
    named = Named.of(source if isinstance(source, str) else source.processor)
    return settings, resolve(named.target, named.function)


def _call(hook: Callable[[], Any] | None) -> None:
    result = hook() if hook is not None else None
    if isinstance(result, CoroutineType):
        asyncio.run(result)


def _terms(settings: QueueSettings, token: str) -> work.NextClaim:
    limited = settings.limiter_max is not None
    return work.NextClaim(
        tokens=(token,),
        lease=LEASE,
        max_data=settings.max_data,
        limiter_max=settings.limiter_max,
        limiter_ms=int(settings.limiter_duration_s * 1000) if limited else None,
    )


def _is_for_the_runner(error: BaseException) -> bool:
    """Ctrl-C, pytest.fail() and pytest.skip() in a handler end the test, not the job."""
    pytest = sys.modules.get("_pytest.outcomes")
    return isinstance(error, KeyboardInterrupt) or (pytest is not None and isinstance(error, pytest.OutcomeException))
