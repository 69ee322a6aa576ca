"""The heartbeat: one thread that renews every lock and writes every lease, whatever the event loop or a job does.

It has a Redis connection and a launcher socket of its own and shares nothing with the event loop but a dict of held
locks. A lease counts from the moment a renewal was SENT, never from its reply: a reply that took long proves only that
the lock was alive when Redis ran the script.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sandq.clock import boottime, boottime_ns
from sandq.config import Lease
from sandq.errors import SandqError
from sandq.store.keys import QueueKeys

BEAT_S = 0.05
LAG_SAMPLES = 12_000  # ten minutes of beats

Renew = Callable[[QueueKeys, list[tuple[str, str]]], frozenset[str]]  # -> tokens of the locks that are no longer ours


@dataclass(slots=True)
class _Held:
    keys: QueueKeys
    job_id: str
    child: int | None
    deadline: float  # boottime at which the child must be dead
    on_lost: Callable[[str], None]
    lost: bool = False
    idle: bool = False  # its handler has not begun, or has ended: nothing runs that would have to be fenced


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the heartbeat woke, in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    samples: int


class Heartbeat:
    """Holds locks until they are dropped, and tells each holder when its lock is lost. Thread-safe."""

    def __init__(self, lease: Lease, renew: Renew, on_trouble: Callable[[str], None]) -> None:
        self._lease = lease
        self._renew = renew
        self._on_trouble = on_trouble
        self._held: dict[str, _Held] = {}  # by token: never reused, so a dropped lock is never mistaken for a new one
        self._guard = threading.Lock()
        self._stopped = threading.Event()
        self._socket: socket.socket | None = None
        self._leases: dict[str, int] = {}  # what the launcher was told last
        self._pulsed_at = 0.0
        self._renew_at = boottime() + lease.renew_every_s
        self._lags: deque[float] = deque(maxlen=LAG_SAMPLES)
        self._max_lag = 0.0
        self._failed: set[QueueKeys] = set()
        self.locks_lost = 0
        self._thread = threading.Thread(target=self._run, name="sandq-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self, wait_s: float = 5.0) -> None:
        """Stop beating; waits for a renewal in flight at most `wait_s`."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)
        self.attach(None)

    def attach(self, leases: socket.socket | None) -> None:
        """Write leases to this launcher from now on. The previous socket is closed."""
        with self._guard:
            old, self._socket, self._leases, self._pulsed_at = self._socket, leases, {}, 0.0
            if leases is not None:
                leases.setblocking(False)
        if old is not None:
            old.close()

    def hold(
        self,
        keys: QueueKeys,
        job_id: str,
        token: str,
        sent_at: float,
        on_lost: Callable[[str], None],
    ) -> None:
        """Renew this lock from now on; no child has the job before `begin`.

        `on_lost(why)` is called from the heartbeat's thread, once, should the lock be lost while one has.
        """
        deadline = sent_at + self._lease.kill_after_s
        with self._guard:
            self._held[token] = _Held(keys, job_id, None, deadline, on_lost, idle=True)

    def begin(self, token: str, child: int) -> bool:
        """The child is about to get the job; False when its lock is lost, or may be by now: then nothing may begin."""
        now = boottime()
        with self._guard:
            held = self._held.get(token)
            if held is None or held.lost or held.deadline <= now:
                return False
            held.child, held.idle = child, False
            confirmed_at = held.deadline - self._lease.kill_after_s
        if now - confirmed_at > self._lease.renew_try_s:
            # The last pulse may be so much younger than this lease that it would fence the child too late: the lease
            # has to be at the launcher before the job is at the child.
            self._write_leases(now)
        return True

    def release(self, token: str) -> None:
        """The handler has ended and its outcome is being written, or did not begin: renew the lock, let its child be.

        The settlement deletes the lock, and a renewal that comes just after it says "lost" of a job that is done. Its
        child may be running the next one by then.
        """
        with self._guard:
            if (held := self._held.get(token)) is not None:
                held.idle = True

    def drop(self, token: str) -> None:
        """The attempt is over: no more renewals, no more lease."""
        with self._guard:
            self._held.pop(token, None)

    def lag(self) -> Lag:
        """How late the beats of the last ten minutes were; the maximum is of the whole run."""
        lags = sorted(self._lags)
        if not lags:
            return Lag(0.0, 0.0, 0.0, 0)
        at = [lags[min(len(lags) - 1, int(len(lags) * share))] * 1000 for share in (0.5, 0.99)]
        return Lag(round(at[0], 2), round(at[1], 2), round(self._max_lag * 1000, 2), len(lags))

    def _run(self) -> None:
        due = boottime()
        while not self._stopped.is_set():
            due = max(due + BEAT_S, boottime())
            self._stopped.wait(max(0.0, due - boottime()))
            now = boottime()
            self._lags.append(now - due)
            self._max_lag = max(self._max_lag, now - due)
            try:
                self._beat(now)
            except Exception as error:  # noqa: BLE001  # a thread that ends here would end every child, again and again
                self._on_trouble(f"internal error: {type(error).__name__}: {error}")

    def _beat(self, now: float) -> None:
        self._expire(now)
        self._write_leases(now)
        if now >= self._renew_at:
            self._renew_all()

    def _expire(self, now: float) -> None:
        """A lease that passed is a lock we must assume lost. The launcher has killed the child by itself."""
        with self._guard:
            passed = [token for token, held in self._held.items() if held.deadline <= now and not held.lost]
        self._lose(passed, "its lease passed before Redis confirmed a renewal")

    def _lose(self, tokens: list[str], why: str) -> None:
        for token in tokens:
            with self._guard:
                held = self._held.get(token)
                if held is None or held.lost:
                    continue
                # It stays until it is dropped, with a lease that is over: the launcher kills the child on that, however
                # long the event loop takes to hear of it.
                held.lost, held.deadline = True, min(held.deadline, boottime())
                if held.idle:
                    continue  # nothing to stop; the settlement is told by Redis itself
            self.locks_lost += 1
            held.on_lost(why)

    def _write_leases(self, now: float) -> None:
        """All leases in one packet, when one changed or a pulse is due: the launcher fences by the older of both."""
        with self._guard:
            leases: dict[str, int] = {}
            for held in self._held.values():
                if not held.idle:  # a child may have two jobs, one of them in its mailbox: it has to end with either's
                    child, deadline = str(held.child), int(held.deadline * 1e9)
                    leases[child] = min(deadline, leases.get(child, deadline))
            if self._socket is None or (leases == self._leases and now < self._pulsed_at + self._lease.fence_after_s):
                return
            packet = json.dumps({"pulse": boottime_ns(), "leases": leases}).encode()
            # A launcher that does not read is stopped or dead: its kernel timer, or its death, ends the children.
            with contextlib.suppress(OSError):
                self._socket.send(packet)
                self._leases, self._pulsed_at = leases, now

    def _renew_all(self) -> None:
        """One script call per queue, each with its own short limit; what fails is tried again at the next beats."""
        with self._guard:
            by_queue: dict[QueueKeys, list[tuple[str, str]]] = {}
            for token, held in self._held.items():
                if not held.lost:
                    by_queue.setdefault(held.keys, []).append((held.job_id, token))
        self._renew_at = boottime() + self._lease.renew_every_s
        # One that failed last time goes last: a node that hangs must not cost the others their turn.
        for keys, pairs in sorted(by_queue.items(), key=lambda item: item[0] in self._failed):
            self._write_leases(boottime())
            sent_at = boottime()
            try:
                lost = self._renew(keys, pairs)
            except SandqError as error:
                self._on_trouble(str(error))
                self._renew_at = boottime() + self._lease.fence_after_s
                self._failed.add(keys)
                continue
            self._failed.discard(keys)
            self._extend(pairs, lost, sent_at + self._lease.kill_after_s)
        self._write_leases(boottime())

    def _extend(self, pairs: list[tuple[str, str]], lost: frozenset[str], deadline: float) -> None:
        with self._guard:
            for _, token in pairs:
                held = self._held.get(token)
                # A renewal whose reply came after the old deadline revives nothing: the child is already being killed.
                if held is not None and token not in lost and held.deadline > boottime():
                    held.deadline = deadline
        self._lose([token for _, token in pairs if token in lost], "Redis says that the lock is not ours any more")

    def leases(self) -> Mapping[str, float]:
        """Deadlines of the locks that are ours, by token."""
        with self._guard:
            return {token: held.deadline for token, held in self._held.items() if not held.lost}
