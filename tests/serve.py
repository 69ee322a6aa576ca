"""A supervisor in a process of its own: serves until SIGTERM and prints each fact as a line of JSON.

`python serve.py '{"redis": ..., "queues": {...}, ...}'`; see `harness.SupervisorProcess`. A named mutation switches one
mechanism off, so that a test can show that the promise rests on it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from msgspec.structs import asdict

from sandq.clock import boottime
from sandq.config import Lease, QueueSettings, SupervisorSettings
from sandq.supervisor import ahead
from sandq.supervisor.assignment import Assignment
from sandq.supervisor.facts import Fact
from sandq.supervisor.heartbeat import Heartbeat
from sandq.supervisor.loop import Supervisor
from sandq.supervisor.mailbox import Mailbox
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.rounds import Rounds


def tell(kind: str, fields: dict[str, Any]) -> None:
    line = json.dumps({"at": boottime(), "kind": kind, "fields": fields}, default=bytes.decode)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def publish(fact: Fact) -> None:
    tell(type(fact).__name__, asdict(fact))


def tell_of_mailboxes() -> None:
    """Say of each job when it is placed with a busy child, and what comes of it there."""
    place, begun, returned = Assignment.place, Assignment.begun, Assignment.returned

    def place_aloud(assignment: Assignment, child: ChildProcess) -> bool:
        placed = place(assignment, child)
        if placed:
            tell("Placed", {"job_id": assignment.claim.job.id})
        return placed

    def begin_aloud(assignment: Assignment) -> None:
        begun(assignment)
        tell("Begun", {"job_id": assignment.claim.job.id})

    def return_aloud(assignment: Assignment) -> None:
        returned(assignment)
        tell("Returned", {"job_id": assignment.claim.job.id})

    target: Any = Assignment
    target.place, target.begun, target.returned = place_aloud, begin_aloud, return_aloud


def mutate(name: str) -> None:
    """Switch one mechanism off."""

    def no_renewals(heartbeat: Heartbeat) -> None:
        heartbeat._renew_at = float("inf")

    def no_death_notice(child: ChildProcess) -> None:
        child._loop.remove_reader(child._pidfd)

    async def no_stalled_check(_rounds: Rounds) -> None:
        await asyncio.Event().wait()

    def recall_blindly(mailbox: Mailbox) -> bool:
        recall(mailbox)
        mailbox.give_back()
        return True

    recall = Mailbox.recall

    target: Any
    match name:
        case "no renewals":
            target = Heartbeat
            target._renew_all = no_renewals
        case "no death notice":
            target = ChildProcess
            target._on_death = no_death_notice
        case "no stalled check":
            target = Rounds
            target._check_stalled = no_stalled_check
        case "holds for long":  # for a test that has to see what is placed
            ahead.HOLD_S = 60.0
            tell_of_mailboxes()
        case "tells of mailboxes":  # and all else as it is
            tell_of_mailboxes()
        case "recalls what has begun":
            target = Mailbox
            target.recall = recall_blindly
            tell_of_mailboxes()


def main() -> int:
    asked = json.loads(sys.argv[1])
    mutate(asked["mutation"])
    lease = Lease(asked["lock_s"])
    supervisor = Supervisor(
        {name: QueueSettings(**settings) for name, settings in asked["queues"].items()},
        asked["redis"],
        settings=SupervisorSettings(lease=lease, prefix=asked["prefix"], **asked["settings"]),
        listeners=[publish],
    )
    code = supervisor.run()
    tell("stats", supervisor.stats())
    return code


if __name__ == "__main__":
    sys.exit(main())
