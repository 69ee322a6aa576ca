"""One queue as this supervisor serves it: it claims while children are free, and watches what runs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from sandq.clock import boottime
from sandq.errors import SandqError
from sandq.outcome import Completed, InitFailed, LockLost, Outcome
from sandq.store import work
from sandq.store.connections import Marker
from sandq.supervisor import memory
from sandq.supervisor.assignment import Assignment, Means
from sandq.supervisor.facts import Recovered, StoreTrouble
from sandq.supervisor.pool import Pool
from sandq.supervisor.process import ChildProcess
from sandq.verdict import Stop

IDLE_WAIT_S = 5.0  # a marker that got lost costs at most this long
DUE_WAIT_S = 10.0
NOT_BEGUN = InitFailed("the job was not begun")
PAUSE_S = 1.0  # Redis refused or was away: it is asked again no sooner


class Lane:
    """Serves one queue until it is stopped. What it writes about a job, it writes with that job's token."""

    def __init__(
        self,
        means: Means,
        pool: Pool,
        marker: Marker,
        worker: str | None,
        *,
        burst: bool,
        on_end: Callable[[str], None],
    ) -> None:
        self.running: dict[str, Assignment] = {}  # by token
        self.pool = pool
        self.quiet = asyncio.Event()  # for a burst: nothing was left when we looked last, or `trouble` says why not
        self.trouble: str | None = None
        self._means = means
        self._marker = marker
        self._worker = worker
        self._burst = burst
        self._on_end = on_end
        self._claims = itertools.count(1)
        self._slots: set[asyncio.Task[None]] = set()
        self._serving: asyncio.Task[None] | None = None
        self._sleeping: asyncio.Task[bool] | None = None
        self._free = asyncio.Event()
        self._claiming = False
        self._accepting = True

    def wake(self) -> None:
        """A child is ready, or cannot be had: look again."""
        self._free.set()

    def start(self) -> None:
        """Begin to claim."""
        self._serving = asyncio.get_running_loop().create_task(self._serve())
        self._serving.add_done_callback(self._task_ended)

    async def _serve(self) -> None:
        """Claim while a child is ready; sleep on the marker when there is nothing to claim."""
        while self._accepting:
            children = self._borrow()
            if not children:
                self._note_broken()
                self._free.clear()
                await self._free.wait()
                continue
            wait_s = await self._claim(children)
            if wait_s > 0 and self._accepting:
                await self._sleep(wait_s)

    def stop_claiming(self) -> None:
        """What runs goes on; nothing new begins. A claim under way is not cut short: it may hold jobs already."""
        self._accepting = False
        self._free.set()
        if self._sleeping is not None:
            self._sleeping.cancel()

    async def close(self) -> None:
        """Nothing is left to wait for: end what still runs, and with it what it holds."""
        tasks = [task for task in (self._serving, self._sleeping, *self._slots) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ended(self, limit_s: float) -> None:
        """Wait until all running jobs are settled, at most `limit_s`."""
        tasks = {*self._slots, *([self._serving] if self._serving is not None else [])}
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, limit_s))

    def _borrow(self) -> list[ChildProcess]:
        room = self._means.settings.concurrency - len(self._slots)
        children = (self.pool.take() for _ in range(room))
        return list(itertools.takewhile(lambda child: child is not None, children))  # type: ignore[arg-type]

    async def _claim(self, children: list[ChildProcess]) -> float:
        """Claim a job for each child and start them; how long to wait before the next claim."""
        sent_at = boottime()
        self._claiming = True
        try:
            claimed = await self._means.store.run(work.claim(self._means.keys, self._next(len(children))))
        except SandqError as error:
            self._means.publish(StoreTrouble(doing=f"claim from {self._means.keys.queue}", why=str(error)))
            claimed = None
        finally:
            self._claiming = False
        jobs = claimed.jobs if claimed is not None else ()
        for child, job in zip(children, jobs, strict=False):
            self._begin(self._slot(Assignment(self._means, job, sent_at, child)))
        for child in children[len(jobs) :]:
            self.pool.put_back(child)
        if claimed is None:
            return PAUSE_S * self._means.rng.uniform(0.5, 1.5)
        if jobs:
            return 0.0
        await self._look_for_the_end(claimed)
        return min(DUE_WAIT_S, claimed.wait_ms / 1000) if claimed.wait_ms is not None else IDLE_WAIT_S

    async def _sleep(self, wait_s: float) -> None:
        self._sleeping = asyncio.get_running_loop().create_task(self._marker.wait(wait_s))
        try:
            await self._sleeping
        except asyncio.CancelledError:
            if self._accepting:
                raise
        except SandqError as error:
            self._means.publish(StoreTrouble(doing=f"wait for jobs of {self._means.keys.queue}", why=str(error)))
            await asyncio.sleep(PAUSE_S)

    def _next(self, count: int) -> work.NextClaim:
        """The terms of a claim, with a fresh token for each job it may bring."""
        settings, number = self._means.settings, next(self._claims)
        return work.NextClaim(
            tokens=tuple(f"{self._means.supervisor_id}:{number}:{index}" for index in range(count)),
            lease=self._means.lease,
            worker_name=self._worker,
            max_data=settings.max_data,
            limiter_max=settings.limiter_max,
            # Without a limiter of our own nothing may stand in for the duration that the queue's owner set.
            limiter_ms=None if settings.limiter_max is None else int(settings.limiter_duration_s * 1000),
        )

    def _begin(self, slot: Coroutine[Any, Any, None]) -> None:
        self.quiet.clear()
        task = asyncio.get_running_loop().create_task(slot)
        self._slots.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._slots.discard(task)
        self._free.set()
        if task.cancelled() or (error := task.exception()) is None:
            return
        # A bug of ours in one job must not end the lane: its lock runs out, and the stalled check recovers it. A lane
        # that claims no more must not look alive.
        why = f"internal error: {type(error).__name__}: {error}"
        self._means.publish(StoreTrouble(doing=f"work on {self._means.keys.queue}", why=why))
        if task is self._serving:
            self._on_end(why)

    async def _slot(self, assignment: Assignment | None) -> None:
        """One job after the other, each settlement bringing the next, until there is none."""
        while assignment is not None:
            assignment = await self._work(assignment)
        if self._burst and len(self._slots) == 1:
            await self._look_for_the_end(None)

    async def _work(self, assignment: Assignment) -> Assignment | None:
        """Run, decide, settle; the next assignment if the settlement brought one."""
        token = assignment.claim.token
        self.running[token] = assignment
        child: ChildProcess | None = assignment.child
        try:
            self.pool.begins(assignment.child)
            # A claim that came while we stopped, or while its child died, goes back as it was.
            begins = self._accepting and assignment.child.alive
            outcome = await assignment.run() if begins else NOT_BEGUN
            child = await self._successor(assignment, outcome)
            sent_at = boottime()
            then = self._next(1) if child is not None and self._accepting else None
            word, claimed = await assignment.settle(outcome, then)
        except BaseException:
            if child is not None:
                self.pool.discard(child)
            raise
        finally:
            del self.running[token]
            self._means.heartbeat.drop(token)
        if claimed is not None and claimed.jobs and child is not None:
            return Assignment(self._means, claimed.jobs[0], sent_at, child)
        if child is not None:
            self.pool.put_back(child)
        if isinstance(outcome, LockLost) or word == "lost":
            await assignment.restore()
        return None

    async def _successor(self, assignment: Assignment, outcome: Outcome) -> ChildProcess | None:
        """The child for the next job: the same one if it is fit, else a warm spare."""
        child = assignment.child
        spent = not assignment.fit or not child.alive
        may_run_on = assignment.unfit and not isinstance(outcome, Completed)
        if spent or may_run_on:
            # Nothing is written about a job while something of it may run: it would be started beside what is left.
            # The lock is held meanwhile; a child that the kernel cannot end keeps it.
            self.pool.discard(child, assignment.unfit)
            await child.exited
        elif not self.pool.recycles(child, assignment.unfit):
            return child
        return self.pool.take()

    # -- beside the line -----------------------------------------------------------------------------------------------

    def watchers(self, cancel_every_s: float) -> Sequence[Coroutine[Any, Any, None]]:
        """What must go on beside claiming, as long as the supervisor lives."""
        return (self._check_stalled(), self._read_cancels(cancel_every_s), self._watch_memory())

    async def _check_stalled(self) -> None:
        """Recover jobs of vanished supervisors; the throttle in Redis says when to look again."""
        means = self._means
        every_ms = int(means.lease.stalled_every_s * 1000)
        while True:
            try:
                check = await means.store.run(
                    work.check_stalled(means.keys, every_ms, means.settings.max_stalled_count)
                )
            except SandqError as error:
                means.publish(StoreTrouble(doing=f"stalled check of {means.keys.queue}", why=str(error)))
                await asyncio.sleep(PAUSE_S)
                continue
            if check.recovered:
                means.publish(Recovered(queue=means.keys.queue, job_ids=tuple(check.recovered)))
            await asyncio.sleep(max(check.again_in_ms, 1) / 1000)

    async def _read_cancels(self, every_s: float) -> None:
        means = self._means
        while True:
            await asyncio.sleep(every_s)
            held = {assignment.claim.job.id: token for token, assignment in self.running.items()}
            if not held:
                continue
            try:
                requests = await means.store.run(work.take_cancels(means.keys, held))
            except SandqError as error:
                means.publish(StoreTrouble(doing=f"read cancel requests of {means.keys.queue}", why=str(error)))
                continue
            for job_id, reason in requests.items():
                if (assignment := self.running.get(held[job_id])) is not None:
                    assignment.stop(Stop("cancel", reason))

    async def _watch_memory(self) -> None:
        """Kill what outgrows its limit: a job over it does not stop growing for being asked nicely."""
        while True:
            await asyncio.sleep(memory.POLL_S)
            limits = {
                run: limit
                for run in self.running.values()
                if (limit := memory.limit_of(run.claim.job, self._means.settings.memory)) is not None
            }
            if not limits:
                continue
            used = await asyncio.to_thread(memory.tree_rss, [run.child.pid for run in limits])
            for run, limit in limits.items():
                stop = memory.over(used[run.child.pid], limit)
                if stop is not None and run.claim.token in self.running:
                    run.stop(stop)

    # -- burst ---------------------------------------------------------------------------------------------------------

    async def has_work(self) -> bool:
        """Whether jobs of this queue run here, are being claimed, or could be now or later; schedulers do not count."""
        try:
            left = await self._means.store.run(work.has_backlog(self._means.keys))
        except SandqError:
            left = True  # nobody knows; the next empty claim looks again
        if left or self._claiming or self.running:
            self.quiet.clear()
            return True
        return False

    def _note_broken(self) -> None:
        if self._burst and self.pool.processor_broken and not self._slots:
            self.trouble = f"queue {self._means.keys.queue}: its processor is broken: {self.pool.breaker.why}"
            self.quiet.set()

    async def _look_for_the_end(self, claimed: work.Claimed | None) -> None:
        if not self._burst:
            return
        queue = self._means.keys.queue
        if claimed is not None and claimed.why == "paused":
            self.trouble = f"queue {queue} is paused; resume it with: sandq resume {queue}"
            self.quiet.set()
            return
        if not await self.has_work():
            self.quiet.set()
