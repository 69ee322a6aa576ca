"""The children of one queue: as many as may run jobs plus warm spares, replaced before anybody misses them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sandq.clock import boottime
from sandq.config import QueueSettings, usable_cores
from sandq.protocol import Frame, Kind
from sandq.supervisor.facts import ChildDied, ChildReady, Listener, ProcessorBroken
from sandq.supervisor.fleet import Fleet, SpawnFailed, child_env
from sandq.supervisor.process import ChildProcess, Exit
from sandq.supervisor.processor import Processor

FIRST_BACKOFF_S = 1.0
LAST_BACKOFF_S = 300.0
YOUNG_S = 1.0  # a child that dies idle before this age did not really load
BYE_WAIT_S = 5.0  # a child that was told goodbye has this long for its teardown


@dataclass(slots=True)
class Breaker:
    """Keeps a processor that cannot load from burning the CPU: 1 s, doubling, up to 5 min."""

    why: str | None = None
    failures: int = 0

    def fail(self, why: str) -> float:
        """Note a failure; how long to wait before the next try."""
        self.why = why
        self.failures += 1
        return min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self.failures - 1, 16))

    def reset(self) -> None:
        """It loaded."""
        self.why, self.failures = None, 0


class Pool:
    """Children of one processor. `on_ready` is called whenever one can be taken."""

    def __init__(
        self,
        queue: str,
        processor: Processor,
        settings: QueueSettings,
        fleet: Fleet,
        publish: Listener,
        on_ready: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._processor = processor
        self._settings = settings
        self._fleet = fleet
        self._publish = publish
        self._on_ready = on_ready
        self._ready: deque[ChildProcess] = deque()
        self._busy: set[ChildProcess] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._closing = False
        self.breaker = Breaker()
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

    def refill(self) -> None:
        """Start what is missing, a few at a time: loading is CPU work that running jobs would feel."""
        if self._closing or self._retry is not None:
            return
        target = self._settings.concurrency + self._settings.spares
        # The first child alone shows whether the processor loads at all.
        at_once = max(2, usable_cores()) if self.loaded.done() else 1
        while self.starting < at_once and self.ready + self.busy + self.starting < target:
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
            self._on_ready()

    def keeps(self, child: ChildProcess) -> bool:
        """Whether the child may run another job, or is due for recycling."""
        limit = self._settings.recycle_after
        return child.alive and not self._closing and (limit is None or child.jobs < limit)

    def dismiss(self, child: ChildProcess) -> None:
        """The child did its share: let it go in peace while its replacement loads."""
        self._busy.discard(child)
        self._dismiss(child)
        self.refill()

    def discard(self, child: ChildProcess) -> None:
        """The child is not fit for another job: kill it, and start another."""
        self._busy.discard(child)
        child.kill("discarded")
        self.refill()

    async def close(self) -> None:
        """Say goodbye to all; whoever does not leave in time goes with the launcher."""
        self._closing = True
        if self._retry is not None:
            self._retry.cancel()
        for task in self._starting:
            task.cancel()
        for child in self._ready:
            self._dismiss(child)
        self._ready.clear()
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=BYE_WAIT_S)

    async def _start(self) -> None:
        """Start one child and wait until its processor is loaded."""
        try:
            child = await self._fleet.spawn(child_env(self._settings.env))
        except SpawnFailed as error:
            self._failed(str(error))
            return
        answered: asyncio.Future[Frame | str] = asyncio.get_running_loop().create_future()

        def answer(value: Frame | str) -> None:
            if not answered.done():
                answered.set_result(value)

        child.on_frame = answer
        child.on_broken = answer
        child.exited.add_done_callback(lambda exit_: self._died(child, exit_.result()))
        child.exited.add_done_callback(lambda exit_: answer(f"its child ended while loading: {exit_.result()}"))
        child.send(self._processor.load_frame())
        try:
            reply = await answered
        except asyncio.CancelledError:
            child.kill("cancelled")
            raise
        if isinstance(reply, Frame) and reply.kind is Kind.READY:
            self._loaded(child, reply)
        else:
            child.kill("broken")
            self._failed(_why(reply, child))

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
        if not self.loaded.done():
            self.loaded.set_result(None)
        self._on_ready()

    def _failed(self, why: str) -> None:
        """The processor, or the host, cannot give us a child now. No job is charged for it."""
        delay = self.breaker.fail(why)
        if not self.loaded.done():
            self.loaded.set_result(why)
            self._closing = True  # a start that cannot work is refused: nothing to try again
            return
        if self._closing or self._retry is not None:
            return
        self._publish(ProcessorBroken(queue=self._queue, why=why, retry_in_s=delay))
        self._retry = asyncio.get_running_loop().call_later(delay, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.refill()

    @staticmethod
    def _idle(child: ChildProcess) -> None:
        """Without a job a child has nothing to say."""
        child.on_frame = lambda _frame: None
        child.on_broken = lambda _why: child.kill("protocol")
        child.on_output = lambda _stream, _data: None

    def _died(self, child: ChildProcess, exit_: Exit) -> None:
        if not self._closing:
            self._publish(ChildDied(queue=self._queue, pid=child.pid, how=str(exit_)))
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


def _why(reply: Frame | str, child: ChildProcess) -> str:
    if isinstance(reply, str):
        tail = child.stderr_tail.strip().splitlines()
        return f"{reply} ({tail[-1]})" if tail else reply
    if reply.kind is not Kind.BROKEN:
        return f"its child said {reply.kind.name} instead of READY"
    return str(reply.head["error"])
