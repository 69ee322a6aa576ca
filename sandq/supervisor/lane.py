"""One queue as this supervisor serves it: it claims while children are free, and watches what runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from sandq.clock import boottime
from sandq.errors import SandqError
from sandq.outcome import Completed, InitFailed, LockLost, Outcome, Postponed
from sandq.store import work
from sandq.store.connections import Marker
from sandq.supervisor.ahead import Ahead
from sandq.supervisor.assignment import Assignment, Means
from sandq.supervisor.claims import Claims, wait_after
from sandq.supervisor.facts import StoreTrouble
from sandq.supervisor.pool import Pool
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.recycle import may_claim_ahead
from sandq.supervisor.rounds import Rounds
from sandq.supervisor.settler import Settler

NOT_BEGUN = InitFailed("the job was not begun")


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
        self.rounds = Rounds(means, self.running, lambda: self._ahead.held)
        self._claims = Claims(means, marker, worker)
        self._burst = burst
        self._on_end = on_end
        self._settler = Settler(means.store, means.keys, means.settings, self._wanted, self._arrived, self._task_ended)
        self._ahead = Ahead(self._put_back)
        self._reserved: list[ChildProcess] = []  # for the jobs that the settler's call under way may bring
        self._slots: set[asyncio.Task[None]] = set()
        self._serving: asyncio.Task[None] | None = None
        self._free = asyncio.Event()
        self._claiming = False
        self._promised = 0  # children for the jobs that the claim behind the marker may bring
        self._unasked = False  # a settlement was sent without a claim, since one was under way
        self._limiting = 0  # settlements under way that set a rate limit
        self._accepting = True

    def wake(self) -> None:
        """A child is ready, or cannot be had: look again."""
        self._free.set()

    def start(self) -> None:
        """Begin to claim."""
        self._serving = asyncio.get_running_loop().create_task(self._serve())
        self._serving.add_done_callback(self._task_ended)

    async def _serve(self) -> None:
        """Claim while a child is ready; with nothing to claim, sleep on the marker, a claim behind it."""
        wait_s = 0.0
        while self._accepting:
            if (writing := self._settler.writing) is not None:  # it claims as well, in the same call
                await asyncio.wait([writing])
                continue
            while self._ahead.held and (child := self._borrow_one()) is not None:
                if not self._release(child):
                    break
            if wait_s > 0:
                wait_s = await self._sleep(wait_s)
                continue
            children = self._borrow()
            if not children:
                self._note_broken()
                self._free.clear()
                await self._free.wait()
                continue
            self._unasked = False
            wait_s = await self._claim(children)
            if self._unasked:
                wait_s = 0.0

    def stop_claiming(self) -> None:
        """What runs goes on; nothing new begins. A claim under way is answered first: it may hold jobs already."""
        self._accepting = False
        self._ahead.empty()
        self._free.set()
        self._claims.end()

    async def close(self) -> None:
        """Nothing is left to wait for: end what still runs, and with it what it holds."""
        self._settler.close()
        tasks = [task for task in (self._serving, *self._slots) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ended(self, limit_s: float) -> None:
        """Wait until all running jobs are settled, at most `limit_s`."""
        deadline = boottime() + limit_s
        while (left_s := deadline - boottime()) > 0:
            tasks = [task for task in (self._serving, *self._slots) if task is not None and not task.done()]
            if not tasks:
                return
            await asyncio.wait(tasks, timeout=left_s)

    # -- claiming ------------------------------------------------------------------------------------------------------

    @property
    def _room(self) -> int:
        return self._means.settings.concurrency - self.pool.occupied - self._promised

    def _borrow_one(self) -> ChildProcess | None:
        return self.pool.take() if self._room > 0 else None

    def _borrow(self) -> list[ChildProcess]:
        return list(iter(self._borrow_one, None))

    async def _claim(self, children: list[ChildProcess]) -> float:
        """Claim a job for each child and start them; how long to sleep before the next claim."""
        claimed, sent_at = None, boottime()
        self._claiming = True
        try:
            claimed = await self._claims.now(self._next(len(children)))
            if claimed is not None:
                self._ahead.claimed()
        finally:
            self._claiming = False
            self._assign(claimed, sent_at, children)
        return await self._wait_after(claimed)

    async def _sleep(self, wait_s: float) -> float:
        """Sleep until a marker comes, then claim in the same breath; how long to sleep before the next claim.

        The children are not taken, only counted: a settlement claims for the others. One that dies meanwhile, or is
        replaced, is missed no sooner than its job is there; that job is then held, as if claimed ahead.
        """
        if self._burst:  # whoever asks if all is done must not miss a job that is on its way to us
            await self._claims.marked(wait_s)
            return 0.0
        count = min(self._room, self.pool.ready)
        if count < 1:
            return 0.0
        claimed, sent_at = None, boottime()
        self._promised = count
        try:
            claimed = await self._claims.when_marked(self._next(count), wait_s)
        finally:
            self._promised = 0
            self._assign(claimed, sent_at, [])
        return await self._wait_after(claimed)

    async def _wait_after(self, claimed: work.Claimed | None) -> float:
        if claimed is not None and claimed.jobs:
            await asyncio.sleep(0)  # they are on their way to their children before more is asked for
        elif claimed is not None:
            await self._look_for_the_end(claimed)
        await self._claims.rest(claimed)
        return 0.0 if claimed is None else wait_after(claimed)

    def _wanted(self) -> work.NextClaim | None:
        """What a settlement about to be sent should claim."""
        if not self._accepting:
            return None
        if self._claiming:  # what this settlement makes room for, that claim may come too early for: look again
            self._unasked = True
            return None
        self._reserved = self._borrow()
        wanted = self._next(len(self._reserved))
        return wanted if wanted.tokens else None

    def _arrived(self, claimed: work.Claimed | None, sent_at: float) -> None:
        children, self._reserved = self._reserved, []
        if claimed is not None:
            self._ahead.claimed()
        self._assign(claimed, sent_at, children)

    def _assign(self, claimed: work.Claimed | None, sent_at: float, children: list[ChildProcess]) -> None:
        """Begin the jobs on these children and any that came free meanwhile; hold the rest until one does."""
        free = deque(children)
        try:
            for taken in claimed.jobs if claimed is not None else ():
                assignment = Assignment(self._means, self._settler, taken, sent_at)
                if not self._accepting or self._limiting:
                    self._put_back(assignment)
                elif (child := free.popleft() if free else self._borrow_one()) is not None:
                    self._begin(self._work(assignment, child))
                else:
                    self._ahead.hold(assignment)
        finally:
            for child in free:
                self.pool.put_back(child)

    def _next(self, count: int) -> work.NextClaim:
        """The terms of a claim for so many children, and ahead."""
        ahead = self._ahead.room(self.pool.going_on) if may_claim_ahead(self._means.settings) else 0
        return self._claims.terms(count, ahead)

    # -- one job -------------------------------------------------------------------------------------------------------

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

    async def _work(self, assignment: Assignment, child: ChildProcess, *, follows: bool = False) -> None:
        """Run, decide, settle. The child goes on to its next job while this one's outcome is being written.

        `follows`: the child has found this one in its mailbox and begun it already.
        """
        token = assignment.claim.token
        self.running[token] = assignment
        held: ChildProcess | None = child
        try:
            self._enter(child)
            # A claim that came while we stopped, or while its child died, goes back as it was.
            begins = follows or (self._accepting and child.alive)
            outcome: Outcome = NOT_BEGUN
            if begins:
                outcome = await assignment.run(child)
                self._ahead.ran(boottime() - assignment.started_at)
            held = await self._successor(assignment, child, outcome)
            free, held = held, None
            with self._limited_by(outcome):
                if free is not None:
                    self._release(free)
                await self._finish(assignment, outcome)
        except BaseException:
            if held is not None:
                if (following := self._ahead.ends(held)) is not None:
                    self._means.heartbeat.drop(following.claim.token)  # it ends with the child, and is nobody's
                self.pool.discard(held)
            self._means.heartbeat.drop(token)
            self.running.pop(token, None)
            raise

    @contextlib.contextmanager
    def _limited_by(self, outcome: Outcome) -> Iterator[None]:
        """A handler that asks for a rate limit means claimed jobs, too: until it is written none begins."""
        if not (isinstance(outcome, Postponed) and outcome.until == "limit"):
            yield
            return
        self._limiting += 1
        self._ahead.empty()
        try:
            yield
        finally:
            self._limiting -= 1

    async def _finish(self, assignment: Assignment, outcome: Outcome) -> None:
        try:
            word = await assignment.settle(outcome)
        finally:
            self.running.pop(assignment.claim.token, None)
            self._means.heartbeat.drop(assignment.claim.token)
        if isinstance(outcome, LockLost) or word == "lost":
            await assignment.restore()
        if self._burst and not self.running:
            await self._look_for_the_end(None)

    def _enter(self, child: ChildProcess) -> None:
        self.pool.begins(child)
        if self._accepting and not self._limiting and child.alive and self.pool.keeps(child):
            self._ahead.begins(child)

    def _release(self, child: ChildProcess) -> bool:
        """The child has nothing to do: it begins the job that waits for one, if there is any."""
        assignment = self._ahead.next() if self._accepting else None
        if assignment is not None:
            self._begin(self._work(assignment, child))
        else:
            self.pool.put_back(child)
        return assignment is not None

    def _put_back(self, assignment: Assignment) -> None:
        """A job held for a child that did not come free goes back as it was."""
        self._begin(self._finish(assignment, NOT_BEGUN))

    async def _successor(self, assignment: Assignment, child: ChildProcess, outcome: Outcome) -> ChildProcess | None:
        """The child for the next job: the same one if it is fit, else a warm spare; None when it went on by itself."""
        following = self._ahead.ends(child)
        if following is not None:
            self._begin(self._work(following, child, follows=True))
        spent = not assignment.fit or not child.alive
        may_run_on = assignment.unfit and not isinstance(outcome, Completed)
        if spent or may_run_on:
            # Nothing is written about a job while something of it may run: it would be started beside what is left.
            # The lock is held meanwhile; a child that the kernel cannot end keeps it.
            self.pool.discard(child, assignment.unfit)
            await child.exited
        elif following is not None:
            return None
        elif not self.pool.recycles(child, assignment.unfit):
            return child
        return self._borrow_one()

    # -- burst ---------------------------------------------------------------------------------------------------------

    async def has_work(self) -> bool:
        """Whether jobs of this queue run here, are being claimed, or could be now or later; schedulers do not count."""
        try:
            left = await self._means.store.run(work.has_backlog(self._means.keys))
        except SandqError:
            left = True  # nobody knows; the next empty claim looks again
        others = self._slots - {asyncio.current_task()}
        if left or self._claiming or self.running or others or self._ahead.held:
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
