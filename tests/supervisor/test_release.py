"""The moment between a job's end and its settlement: the lock is renewed, the child is free."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sandq.clock import boottime
from sandq.config import Lease
from sandq.store.keys import QueueKeys
from sandq.supervisor.heartbeat import Heartbeat

KEYS = QueueKeys("render", "t")
CHILD = 7


class Beats:
    """A heartbeat whose renewals say `lost`, and what the launcher and the holder hear of that."""

    def __init__(self, before: Callable[[Heartbeat], None]) -> None:
        lost, self.renewed = frozenset({"token"}), threading.Event()

        def renew(_keys: QueueKeys, _held: list[tuple[str, str]]) -> frozenset[str]:
            self.renewed.set()
            return lost

        self.told: list[str] = []
        self.heartbeat = Heartbeat(Lease(1.0), renew, self.told.append)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.heartbeat.attach(ours)
        self.heartbeat.hold(KEYS, "1", "token", boottime(), self.told.append)
        self.heartbeat.begin("token", CHILD)
        before(self.heartbeat)
        self.heartbeat.start()
        try:
            assert self.renewed.wait(5)
            self.over = [self._over(theirs) for _ in range(5)]  # some beats later, too
        finally:
            self.heartbeat.stop()
            theirs.close()

    @staticmethod
    def _over(launcher: socket.socket) -> bool:
        """Whether the next packet has a lease for the child that has passed."""
        launcher.settimeout(5)
        packet: dict[str, Any] = json.loads(launcher.recv(1 << 16))
        return packet["leases"].get(str(CHILD), packet["pulse"] + 1) <= packet["pulse"]


def test_a_renewal_that_meets_a_settled_job_does_not_cost_its_child() -> None:
    beats = Beats(lambda heartbeat: heartbeat.release("token"))
    assert (any(beats.over), beats.told, beats.heartbeat.locks_lost) == (False, [], 0)
    assert beats.heartbeat.leases() == {}  # a settlement that Redis refuses is not repeated for ever


def test_a_renewal_that_meets_a_lost_lock_ends_the_child_while_its_handler_runs() -> None:
    beats = Beats(lambda _heartbeat: None)
    assert any(beats.over)
    assert len(beats.told) == beats.heartbeat.locks_lost == 1


def test_a_child_with_two_jobs_has_to_end_when_either_of_their_leases_does() -> None:
    """One runs, one lies in its mailbox, and the launcher knows children, not jobs."""
    now, lost = boottime(), frozenset[str]()
    heartbeat = Heartbeat(Lease(10.0), lambda _keys, _held: lost, lambda _why: None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    heartbeat.attach(ours)
    for job_id, sent_at in (("1", now - 0.2), ("2", now - 0.4), ("3", now - 0.1)):
        heartbeat.hold(KEYS, job_id, job_id, sent_at, lambda _why: None)
        assert heartbeat.begin(job_id, CHILD)
    heartbeat.start()
    try:
        theirs.settimeout(5)
        packet: dict[str, Any] = json.loads(theirs.recv(1 << 16))
        assert packet["leases"] == {str(CHILD): pytest.approx((now - 0.4 + Lease(10.0).kill_after_s) * 1e9, abs=1e6)}
    finally:
        heartbeat.stop()
        theirs.close()
