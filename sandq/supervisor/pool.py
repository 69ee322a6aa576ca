"""The children of one queue: as many as may run jobs plus warm spares, replaced before anybody misses them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from sandq.clock import boottime
from sandq.config import QueueSettings, usable_cores
from sandq.protocol import Frame, Kind
from sandq.supervisor.breaker import Breaker
from sandq.supervisor.exit import Exit
from sandq.supervisor.facts import ChildDied, ChildReady, Listener, ProcessorBroken, Recycled
from sandq.supervisor.fleet import Fleet, SpawnFailed
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.processor import Processor
from sandq.supervisor.recycle import Service, due, looks_every_s, may_claim_ahead, recycles, rss_of
from sandq.supervisor.source import answer_to_load, source_of, why_broken

YOUNG_S = 1.0  # a child that dies idle before this age did not really load
BYE_WAIT_S = 5.0  # a child that was told goodbye has this long for its teardown
HAND_ON_S = 0.02  # within this time a job whose child died has nearly always begun again on a spare


class Pool:
    """Children of one processor. `on_change` is called whenever one can be taken, or cannot be had."""

    def __init__(
        self,
        queue: str,
        processor: Processor,
        settings: QueueSettings,
        fleet: Fleet,
        publish: Listener,
        on_change: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._processor = processor
        self._settings = settings
        self._source = source_of(queue, processor, settings, fleet, publish)
        self._recycling = recycles(settings)
        # What a child kept of memory is known only when its job is over, and then another must not have begun in it.
        self._mailboxes = may_claim_ahead(settings) and settings.soft_memory is None
        self._publish = publish
        self._on_change = on_change
        self._ready: deque[ChildProcess] = deque()
        self._busy: set[ChildProcess] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._dying: set[ChildProcess] = set()  # discarded; something of their jobs may still run
        self._retiring: set[ChildProcess] = set()  # their replacements are on the way; until then they may be needed
        self._look: asyncio.TimerHandle | None = None
        self._owed: asyncio.TimerHandle | None = None  # runs while a replacement waits to be asked for
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self.breaker = Breaker(self.refill)
        self.names: tuple[str, ...] = ()
        self.any_name = False
        self.loaded: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()  # None, or why not

    @property
    def ready(self) -> int:
        """Children that could take a job now."""
        return len(self._ready)

    @property
    def starting(self) -> int:
        """Children that are loading."""
        return len(self._starting)

    @property
    def busy(self) -> int:
        """Children that run a job."""
        return len(self._busy)

    @property
    def occupied(self) -> int:
        """Children that run something, of a job's or of its end."""
        return len(self._busy) + len(self._dying)

    @property
    def going_on(self) -> int:
        """Those of them that will take another job after it."""
        return len(self._busy - self._retiring)

    def refill(self) -> None:
        """Start what is missing, a few at a time: loading is CPU work that running jobs would feel."""
        if self._owed is not None:
            self._owed.cancel()
            self._owed = None
        if self._closing or self.breaker.open:
            return
        # The first child alone shows whether the processor loads at all.
        at_once = max(2, usable_cores()) if self.loaded.done() else 1
        ahead = min(len(self._retiring), at_once)
        while self.starting < at_once and self.ready + self.busy + self.starting - ahead < self._target:
            task = asyncio.get_running_loop().create_task(self._start())
            self._starting.add(task)
            task.add_done_callback(self._started)

    def take(self) -> ChildProcess | None:
        """A loaded child for one job; None when there is none."""
        while self._ready:
            child = self._ready.popleft()
            if child.alive:
                self._busy.add(child)
                return child
        return None

    def put_back(self, child: ChildProcess) -> None:
        """The child has nothing to do any more."""
        self._busy.discard(child)
        if not child.alive:
            self.refill()
        elif self._closing:
            self._dismiss(child)
        else:
            self._idle(child)
            self._ready.appendleft(child)  # the warmest first: spares stay spares
            self._relieve()
            self._on_change()

    def begins(self, child: ChildProcess) -> None:
        """The child is about to run a job. If that is its last, its replacement loads meanwhile."""
        if self._due(child, jobs=child.jobs + 1) is not None:
            self._retiring.add(child)
            self.refill()

    def keeps(self, child: ChildProcess) -> bool:
        """Whether it will run another job after the one that it has begun."""
        return child not in self._retiring

    def recycles(self, child: ChildProcess, unfit: str = "") -> bool:
        """Whether the child, whose job has ended, runs no other; then it leaves and its replacement is on the way."""
        rss = rss_of(child.worker) if self._settings.soft_memory is not None else 0
        reason = self._due(child, rss=rss, unfit=unfit)
        if reason is None:
            self._retiring.discard(child)
            child.idle_since = boottime()
            return False
        self._recycle(child, reason)
        return True

    def discard(self, child: ChildProcess, unfit: str = "") -> None:
        """The child cannot be trusted to leave by itself: kill it, and start another, not at once if a spare is there.

        Its job begins again on the spare. A child that loads takes a core from all that leads there: outcome written,
        job claimed, spare woken.
        """
        if unfit:
            self._publish(Recycled(queue=self._queue, pid=child.pid, reason=unfit))
        self._busy.discard(child)
        self._retiring.discard(child)
        if child.alive:
            self._dying.add(child)
            child.exited.add_done_callback(lambda _: self._dying.discard(child))
        child.kill("discarded")
        if self.ready + self.busy < self._settings.concurrency:  # a job may lack it
            self.refill()
        elif self._owed is None:
            self._owed = self._loop.call_later(HAND_ON_S, self.refill)

    async def close(self) -> None:
        """Say goodbye to all; whoever does not leave in time goes with the launcher."""
        self._closing = True
        self.breaker.close()
        for timer in (self._look, self._owed):
            if timer is not None:
                timer.cancel()
        for task in self._starting:
            task.cancel()
        for child in self._ready:
            self._dismiss(child)
        self._ready.clear()
        self._source.close()
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=BYE_WAIT_S)

    async def _start(self) -> None:
        """Start one child and wait until its processor is loaded."""
        try:
            child = await self._source.start()
        except SpawnFailed as error:
            self._failed(str(error), host=True)
            return
        child.exited.add_done_callback(lambda exit_: self._died(child, exit_.result()))
        child.allow_body(max(self._settings.max_result, self._settings.max_data))
        try:
            if self._mailboxes:
                child.open_mailbox()
            reply = await answer_to_load(child, self._processor.load_frame(self._settings))
        except asyncio.CancelledError:
            child.kill("cancelled")
            raise
        if isinstance(reply, Frame) and reply.kind is Kind.READY:
            self._loaded(child, reply)
        else:
            child.kill("broken")
            # With the launcher gone nobody can say that the processor is to blame.
            unseen = child.exited.done() and child.exited.result().status is None
            self._failed(why_broken(reply, child), host=unseen)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(f"internal error: {error!r}")
        self.refill()

    def _loaded(self, child: ChildProcess, reply: Frame) -> None:
        self.breaker.reset()
        self.names = tuple(str(name) for name in reply.head["names"])
        self.any_name = bool(reply.head["any_name"])
        self._idle(child)
        self._ready.append(child)
        self._publish(ChildReady(queue=self._queue, pid=child.pid, load_s=boottime() - child.started_at))
        self._relieve()
        if not self.loaded.done():
            self.loaded.set_result(None)
            self._look_later()
        self._on_change()

    def _failed(self, why: str, *, host: bool = False) -> None:
        """The processor, or the host, cannot give us a child now. No job is charged for it."""
        delay_s = self.breaker.fail(why, host=host)
        if not self.loaded.done():
            self.loaded.set_result(why)
            self._closing = True  # a start that cannot work is refused: nothing to try again
            return
        if self._closing or self.breaker.open:
            return
        self._publish(ProcessorBroken(queue=self._queue, why=why, retry_in_s=delay_s))
        self.breaker.wait(delay_s)
        self._on_change()

    @property
    def _target(self) -> int:
        return self._settings.concurrency + self._settings.spares

    def _due(self, child: ChildProcess, *, jobs: int | None = None, rss: int = 0, unfit: str = "") -> str | None:
        if not (unfit or self._recycling):
            return None
        now = boottime()
        service = Service(
            started_at=child.started_at,
            idle_since=now if child in self._busy else child.idle_since,
            jobs=child.jobs if jobs is None else jobs,
            rss=rss,
            unfit=unfit,
        )
        return due(service, self._settings, now)

    def _recycle(self, child: ChildProcess, reason: str) -> None:
        """Let it go in peace. Its replacement is asked for first."""
        self._busy.discard(child)
        self._retiring.discard(child)
        self.refill()
        self._publish(Recycled(queue=self._queue, pid=child.pid, reason=reason))
        self._dismiss(child)

    def _look_later(self) -> None:
        every_s = looks_every_s(self._settings)
        if every_s is not None and not self._closing:
            self._look = asyncio.get_running_loop().call_later(every_s, self._look_at_idle)

    def _look_at_idle(self) -> None:
        """Find children whose time has come while they wait for work."""
        self._retiring |= {child for child in self._ready if self._due(child) is not None}
        self._relieve()
        self.refill()
        self._look_later()

    def _relieve(self) -> None:
        """Let those idle children go for whom a replacement is there."""
        for child in [child for child in self._ready if child in self._retiring]:
            if self.ready + self.busy <= self._target:
                return
            if (reason := self._due(child)) is None:
                self._retiring.discard(child)
            else:
                self._ready.remove(child)
                self._recycle(child, reason)

    @staticmethod
    def _idle(child: ChildProcess) -> None:
        """Without a job a child has nothing to say."""
        child.on_frame = lambda _frame: None
        child.on_broken = lambda _why: child.kill("protocol")

    def _died(self, child: ChildProcess, exit_: Exit) -> None:
        if not self._closing:
            self._publish(ChildDied(queue=self._queue, pid=child.pid, how=str(exit_)))
        self._retiring.discard(child)
        if child not in self._ready:
            return  # whoever has it tells us, or it never loaded
        self._ready.remove(child)
        young = boottime() - child.started_at < YOUNG_S
        if young and exit_.status is not None and not self._closing:  # with the launcher gone it is not its fault
            self._failed(f"its child ended right after loading: {exit_}")
        self.refill()

    def _dismiss(self, child: ChildProcess) -> None:
        task = asyncio.get_running_loop().create_task(self._see_off(child))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _see_off(self, child: ChildProcess) -> None:
        child.send(Frame(Kind.BYE))
        _, late = await asyncio.wait([child.exited], timeout=BYE_WAIT_S)
        if late:
            child.kill("late")
