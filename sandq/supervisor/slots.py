"""The jobs that a supervisor has of one queue: each runs on a child, is held until one is free, or is being settled."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

from sandq.clock import boottime
from sandq.outcome import Completed, InitFailed, LockLost, Outcome, Postponed
from sandq.supervisor.ahead import Ahead
from sandq.supervisor.assignment import Assignment
from sandq.supervisor.means import Means
from sandq.supervisor.pool import Pool
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.recycle import may_claim_ahead

NOT_BEGUN = InitFailed("the job was not begun")


class Slots:
    """As many as the queue's concurrency, and for each at most one job that is held.

    `rested` is awaited when the last job that ran is settled; `ended` is told of a task that is over, however it ended.
    """

    def __init__(
        self,
        means: Means,
        pool: Pool,
        rested: Callable[[], Awaitable[None]],
        ended: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self.running: dict[str, Assignment] = {}  # by token
        self.tasks: set[asyncio.Task[None]] = set()
        self._means, self._pool = means, pool
        self._rested, self._ended = rested, ended
        self._ahead = Ahead(self._put_back)
        self._promised = 0  # children for jobs that may come
        self._limiting = 0  # settlements under way that set a rate limit
        self._accepting = True

    @property
    def held(self) -> Sequence[Assignment]:
        """Claimed, and not begun."""
        return self._ahead.held

    # -- children ------------------------------------------------------------------------------------------------------

    def borrow_one(self) -> ChildProcess | None:
        """A child for one job, to be taken with it or returned to the pool; None where no job may begin."""
        return self._pool.take() if self._room > 0 else None

    def borrow(self) -> list[ChildProcess]:
        """All that there are."""
        return list(iter(self.borrow_one, None))

    @contextlib.contextmanager
    def promised(self) -> Iterator[int]:
        """For how many jobs there are children, which nobody else borrows meanwhile."""
        count = self._promised = max(0, min(self._room, self._pool.ready))
        try:
            yield count
        finally:
            self._promised = 0

    @property
    def _room(self) -> int:
        return self._means.settings.concurrency - self._pool.occupied - self._promised

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def room_ahead(self) -> int:
        """How many jobs a claim that is about to be sent may bring beyond those for which there are children."""
        return self._ahead.room(self._pool.going_on) if may_claim_ahead(self._means.settings) else 0

    def take(self, assignments: Iterable[Assignment], children: Sequence[ChildProcess]) -> None:
        """Begin the jobs of a claim on these children and any that came free meanwhile; hold the rest until one is."""
        free = deque(children)
        try:
            for assignment in assignments:
                if not self._accepting or self._limiting:
                    self._put_back(assignment)
                elif (child := free.popleft() if free else self.borrow_one()) is not None:
                    self._begin(self._work(assignment, child))
                else:
                    self._ahead.hold(assignment)
        finally:
            for child in free:
                self._pool.put_back(child)

    def claimed(self) -> None:
        """The answer to a claim is there."""
        self._ahead.claimed()

    def begin_held(self) -> None:
        """Begin what is held, as far as children are free."""
        while self._ahead.held and (child := self.borrow_one()) is not None:
            if not self._release(child):
                break

    def stop(self) -> None:
        """What runs goes on; nothing new begins, and what is held goes back."""
        self._accepting = False
        self._ahead.empty()

    def _begin(self, slot: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(slot)
        self.tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._ended(task)

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
                self._pool.discard(held)
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
        if not self.running:
            await self._rested()

    def _enter(self, child: ChildProcess) -> None:
        self._pool.begins(child)
        if self._accepting and not self._limiting and child.alive and self._pool.keeps(child):
            self._ahead.begins(child)

    def _release(self, child: ChildProcess) -> bool:
        """The child has nothing to do: it begins the job that waits for one, if there is any."""
        assignment = self._ahead.next() if self._accepting else None
        if assignment is not None:
            self._begin(self._work(assignment, child))
        else:
            self._pool.put_back(child)
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
            self._pool.discard(child, assignment.unfit)
            await child.exited
            self._means.heartbeat.release(assignment.claim.token)  # it is dead: nothing is left to fence
        elif following is not None:
            return None
        elif not self._pool.recycles(child, assignment.unfit):
            return child
        return self.borrow_one()
