"""One queue as this supervisor serves it: it claims while children are free, and watches what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from sandq.clock import boottime
from sandq.errors import SandqError
from sandq.store import work
from sandq.store.connections import Marker
from sandq.supervisor.assignment import Assignment
from sandq.supervisor.claims import Claims, wait_after
from sandq.supervisor.facts import StoreTrouble
from sandq.supervisor.means import Means
from sandq.supervisor.pool import Pool
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.rounds import Rounds
from sandq.supervisor.settler import Settler
from sandq.supervisor.slots import Slots


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
        self.pool = pool
        self._slots = Slots(means, pool, self._rested, self._task_ended)
        self.rounds = Rounds(means, self._slots)
        self.quiet = asyncio.Event()  # for a burst: nothing was left when we looked last, or `trouble` says why not
        self.trouble: str | None = None
        self._means = means
        self._claims = Claims(means, marker, worker)
        self._burst = burst
        self._on_end = on_end
        self._settler = Settler(means.store, means.keys, means.settings, self._wanted, self._arrived, self._task_ended)
        self._reserved: list[ChildProcess] = []  # for the jobs that the settler's call under way may bring
        self._serving: asyncio.Task[None] | None = None
        self._free = asyncio.Event()
        self._claiming = False
        self._unasked = False  # a settlement was sent without a claim, since one was under way
        self._accepting = True

    @property
    def running(self) -> Mapping[str, Assignment]:
        """What runs here, by token."""
        return self._slots.running

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
            self._slots.begin_held()
            if wait_s > 0:
                wait_s = await self._sleep(wait_s)
                continue
            children = self._slots.borrow()
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
        self._slots.stop()
        self._free.set()
        self._claims.end()

    async def close(self) -> None:
        """Nothing is left to wait for: end what still runs, and with it what it holds."""
        self._settler.close()
        tasks = [task for task in (self._serving, *self._slots.tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ended(self, limit_s: float) -> None:
        """Wait until all running jobs are settled, at most `limit_s`."""
        deadline = boottime() + limit_s
        while (left_s := deadline - boottime()) > 0:
            tasks = [task for task in (self._serving, *self._slots.tasks) if task is not None and not task.done()]
            if not tasks:
                return
            await asyncio.wait(tasks, timeout=left_s)

    # -- claiming ------------------------------------------------------------------------------------------------------

    async def _claim(self, children: list[ChildProcess]) -> float:
        """Claim a job for each child and start them; how long to sleep before the next claim."""
        claimed, sent_at = None, boottime()
        self._claiming = True
        try:
            claimed = await self._claims.now(self._next(len(children)))
            if claimed is not None:
                self._slots.claimed()
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
        with self._slots.promised() as count:
            if count < 1:
                return 0.0
            sent_at = boottime()
            claimed = await self._claims.when_marked(self._next(count), wait_s)
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
        self._reserved = self._slots.borrow()
        wanted = self._next(len(self._reserved))
        return wanted if wanted.tokens else None

    def _arrived(self, claimed: work.Claimed | None, sent_at: float) -> None:
        children, self._reserved = self._reserved, []
        if claimed is not None:
            self._slots.claimed()
        self._assign(claimed, sent_at, children)

    def _assign(self, claimed: work.Claimed | None, sent_at: float, children: list[ChildProcess]) -> None:
        """Hand on what a claim brought, and the children that were borrowed for it."""
        jobs = claimed.jobs if claimed is not None else ()
        if jobs:
            self.quiet.clear()
        self._slots.take((Assignment(self._means, self._settler, taken, sent_at) for taken in jobs), children)

    def _next(self, count: int) -> work.NextClaim:
        """The terms of a claim for so many children, and ahead."""
        return self._claims.terms(count, self._slots.room_ahead())

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._free.set()
        if task.cancelled() or (error := task.exception()) is None:
            return
        # A bug of ours in one job must not end the lane: its lock runs out, and the stalled check recovers it. A lane
        # that claims no more must not look alive.
        why = f"internal error: {type(error).__name__}: {error}"
        self._means.publish(StoreTrouble(doing=f"work on {self._means.keys.queue}", why=why))
        if task is self._serving:
            self._on_end(why)

    # -- burst ---------------------------------------------------------------------------------------------------------

    async def has_work(self) -> bool:
        """Whether jobs of this queue run here, are being claimed, or could be now or later; schedulers do not count."""
        try:
            left = await self._means.store.run(work.has_backlog(self._means.keys))
        except SandqError:
            left = True  # nobody knows; the next empty claim looks again
        others = self._slots.tasks - {asyncio.current_task()}
        if left or self._claiming or self._slots.running or others or self._slots.held:
            self.quiet.clear()
            return True
        return False

    def _note_broken(self) -> None:
        if self._burst and self.pool.breaker.processor_broken and not self._slots.tasks:
            self.trouble = f"queue {self._means.keys.queue}: its processor is broken: {self.pool.breaker.why}"
            self.quiet.set()

    async def _rested(self) -> None:
        await self._look_for_the_end(None)

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
