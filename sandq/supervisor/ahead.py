"""Jobs claimed ahead, one per busy child, so that a child which ends a short job begins the next one at once.

Each is placed with a child where it can be (see `mailbox`), and waits here for one where it cannot. Worth it only for
short jobs, and safe only for them: a job that is held here is one that no other supervisor can run. So none is held
unless jobs of this queue have been short lately, and one that waits for long goes back as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sandq.clock import boottime
from sandq.supervisor.assignment import Assignment
from sandq.supervisor.process import ChildProcess

SHORT_S = 0.05  # jobs that run shorter than this on average are claimed ahead; far below lock/10, of at least 1 s
HOLD_S = 0.25  # a long job has appeared: what waits behind it goes back
_WEIGHT = 0.2  # of the newest run in the running mean


class Ahead:
    """What is held until a child is free, oldest first. `put_back` gets what has waited too long."""

    def __init__(self, put_back: Callable[[Assignment], None]) -> None:
        self._put_back = put_back
        self._held: dict[Assignment, float] = {}  # and since when
        self._places: dict[ChildProcess, None] = {}  # with these a job may be placed, the first to begin first
        self._mean_s = 1.0  # until short jobs have proven themselves
        self._begun = 0  # since a claim was sent
        self._meanwhile = 0.0  # so many have lately begun while a claim was on its way
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> Sequence[Assignment]:
        """Claimed, and not begun."""
        return tuple(self._held)

    def ran(self, wall_s: float) -> None:
        """A job ran for so long."""
        self._mean_s += (wall_s - self._mean_s) * _WEIGHT

    def claimed(self) -> None:
        """The answer to a claim is there."""
        self._meanwhile += (self._begun - self._meanwhile) * _WEIGHT

    def room(self, busy: int) -> int:
        """How many to claim ahead, now, with so many children busy: one for each, counted when the answer is there.

        By then some of those that are held have begun, and children that are busy now may be free.
        """
        self._begun = 0
        if self._mean_s >= SHORT_S:
            return 0
        return max(0, min(2 * busy, busy - len(self._held) + round(self._meanwhile)))

    def hold(self, assignment: Assignment) -> None:
        """Keep it until a child is free, but not for long."""
        self._held[assignment] = boottime()
        self._place(assignment)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HOLD_S, self._look)

    def next(self) -> Assignment | None:
        """The one that has waited longest and was placed with no child, else one that a child has not taken yet."""
        if (waiting := self._unplaced()) is not None:
            return self._let_go(waiting)
        for assignment in self._held:
            if _is_ours(assignment):
                return self._let_go(assignment)
        return None

    def begins(self, child: ChildProcess) -> None:
        """A job begins on it: one may be placed behind it."""
        self._begun += 1
        child.mailbox.accept()
        self._places[child] = None
        if (waiting := self._unplaced()) is not None:
            self._place(waiting)

    def ends(self, child: ChildProcess) -> Assignment | None:
        """A job has ended on it: the one that it has gone on to, if it has."""
        self._places.pop(child, None)
        for assignment in self._held:
            if assignment.child is child and not _is_ours(assignment):
                return self._let_go(assignment)
        return None

    def empty(self) -> None:
        """Put all of them back that have not begun, the newest first: each goes to the front of its queue."""
        for assignment in reversed(tuple(self._held)):
            if _is_ours(assignment):
                self._put_back(self._let_go(assignment))

    def _unplaced(self) -> Assignment | None:
        for assignment in self._held:
            if not assignment.placed and not assignment.has_begun:
                return assignment
        return None

    def _place(self, assignment: Assignment) -> None:
        for child in tuple(self._places):
            if child.mailbox.accepts:
                if assignment.place(child):
                    del self._places[child]
                return
            del self._places[child]

    def _let_go(self, assignment: Assignment) -> Assignment:
        del self._held[assignment]
        return assignment

    def _look(self) -> None:
        self._timer = None
        if not self._held:
            return
        waited_s = boottime() - next(iter(self._held.values()))
        if waited_s < HOLD_S:
            self._timer = asyncio.get_running_loop().call_later(HOLD_S - waited_s, self._look)
            return
        self._mean_s = max(self._mean_s, 1.0)
        self.empty()


def _is_ours(assignment: Assignment) -> bool:
    """Whether it has not begun, and will not unless we begin it."""
    if assignment.placed and assignment.child is not None:
        return assignment.child.mailbox.recall()
    return not assignment.has_begun
