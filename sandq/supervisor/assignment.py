"""One claim from its start to its settlement: run -> decide -> settle, read from top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from sandq.clock import boottime
from sandq.decide import decide, overrule
from sandq.errors import ProtocolError, QueueError, SandqError
from sandq.job import Claim
from sandq.outcome import (
    Cancelled,
    Cause,
    Completed,
    Crashed,
    Death,
    Deferred,
    InitFailed,
    LockLost,
    Outcome,
    Raised,
    Settlement,
    TooLarge,
)
from sandq.store import work
from sandq.supervisor.attempt import Attempt
from sandq.supervisor.facts import Settled, Started, StoreTrouble
from sandq.supervisor.means import Means
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.recording import Recording
from sandq.supervisor.relay import Relay
from sandq.supervisor.settler import Settler
from sandq.verdict import Evidence, Stop, judge

SETTLE_PAUSE_S = 1.0
SETTLE_LIMIT_S = 60.0  # an outcome that Redis refuses for this long is given up: the lock runs out, the job runs again


class Assignment:
    """A claim, from the moment it is ours. A child is found for it at once, or when one is free."""

    def __init__(self, means: Means, settler: Settler, claimed: work.Taken, sent_at: float) -> None:
        self.claim = Claim(job=claimed.job, token=claimed.token, sent_at=sent_at)
        self.child: ChildProcess | None = None
        self.started_at = boottime()
        self.progress: bytes | None = None
        self.fit = True  # whether the child may run another job
        self.unfit = ""  # what the job left behind in it, in its own words
        self._means = means
        self._settler = settler
        self._oversize = claimed.oversize
        self.nonce = 0
        self.placed = False  # with its child, behind another job; it begins when the child says so
        self.has_begun = False
        self._attempt: Attempt | None = None
        self._relay: Relay | None = None
        self._stop: Stop | None = None  # came before the attempt
        self._recording: Recording | None = None
        means.heartbeat.hold(means.keys, self.claim.job.id, self.claim.token, sent_at, self._lock_lost())

    def stop(self, stop: Stop) -> None:
        """Ask the attempt to end; one that has not begun will not."""
        if self.placed and self.child is not None:
            self.child.mailbox.recall()
        if self._attempt is not None:
            self._attempt.stop(stop)
        else:
            self._stop = self._stop or stop

    def kill(self, stop: Stop) -> None:
        """End the attempt at once."""
        if self._attempt is not None:
            self._attempt.kill(stop)

    async def run(self, child: ChildProcess) -> Outcome:
        """The outcome of this claim on that child; its lock is held and renewed until `settle` or `restore`."""
        means = self._means
        if self._attempt is None:
            self.child, self.started_at = child, boottime()
            instead = await self._instead(child)
            if instead is not None:
                return instead
        self.placed = False
        self.fit = False  # until it has answered and nothing is on its way to end it
        try:
            evidence, doomed = await self._run(child)
            outcome = judge(evidence)
        except ProtocolError as error:  # its name, say, is longer than a frame's head may be
            return Raised(f"the job cannot be handed to a child: {error}", "", permanent=True)
        except Exception as error:  # noqa: BLE001  # whatever Redis or the child said to get here, the job must end by a rule
            return Crashed(Death(cause=Cause.PROTOCOL, detail=f"{type(error).__name__}: {error}", pid=child.pid))
        # A child whose answer broke the protocol may still be in its handler.
        answered = evidence.final is not None and not isinstance(outcome, Crashed)
        self.fit = child.alive and answered and not doomed
        self.unfit = evidence.final.head.get("unfit", "") if evidence.final is not None else ""
        if self.fit:  # else it may still be running and is being killed: the lease stays until it is dead
            means.heartbeat.release(self.claim.token)
        return outcome

    def place(self, child: ChildProcess) -> bool:
        """Leave the job where the child finds it when its present one is over; False when it has to wait until then."""
        job, means = self.claim.job, self._means
        owes = job.scheduler_id is not None or job.deferred_failure is not None or self._oversize is not None
        if owes or self._stop is not None or not means.heartbeat.begin(self.claim.token, child.number):
            return False
        attempt = self._prepare(child)
        with contextlib.suppress(ProtocolError):  # as for any job, when it is its turn
            self.placed = attempt.place(self)
        if self.placed:
            self.child = child
        else:
            self._unprepare()
        return self.placed

    def taken(self) -> None:
        """The child has it; what the child writes from now on is this job's."""
        if self.child is not None and self._recording is None:
            self._recording = Recording(self._means, self.claim, self.child)
            self._recording.follow()

    def begun(self) -> None:
        """The child says that it begins."""
        self.placed, self.has_begun, self.started_at = False, True, boottime()
        if self._attempt is not None:
            self._attempt.begun()
            self._tell_start()
            self.taken()

    def returned(self) -> None:
        """It is ours again, unless we wait for its end already: then that child's death is its end, too."""
        if self.placed:
            self.placed = False
            self._unprepare()

    async def settle(self, outcome: Outcome) -> str:
        """Decide and write, holding the lock until Redis has answered; its word."""
        if self._relay is not None:  # waited for here: the child, and a job that has begun in it, need not wait
            await self._relay.flush(self._means.lease.lock_s)
        settlement = decide(self.claim.job, outcome, self._means.settings, self._means.rng)
        if settlement is None:
            self._settled(outcome, None, "lost")
            return "lost"
        if self._recording is not None:
            await self._recording.keep(outcome)
        word = await self._write(settlement)
        if word == "cancel-requested":
            return await self.settle(Cancelled(await self._cancel_reason()))
        instead = overrule(word)
        if isinstance(instead, Raised):
            return await self.settle(instead)
        if instead is not None:
            settlement, word = instead, await self._write(instead)
        self._settled(outcome, settlement, word)
        return word

    async def restore(self) -> None:
        """A lost lock, the child dead: put the job back uncharged, unless somebody else has taken care of it."""
        means, job = self._means, self.claim.job
        means.heartbeat.drop(self.claim.token)
        for _ in range(int(2 * means.lease.lock_s / means.lease.fence_after_s)):
            try:
                word = await means.store.run(work.restore(means.keys, job.id, job.attempts_started))
            except SandqError as error:
                means.publish(StoreTrouble(doing=f"put back {job.id}", why=str(error)))
                word = "locked"
            if word != "locked":
                return
            await asyncio.sleep(means.lease.fence_after_s)  # the lock we lost sight of has to run out first

    async def _instead(self, child: ChildProcess) -> Outcome | None:
        """What becomes of the job without a run; None when the child is to have it now."""
        job, means = self.claim.job, self._means
        # Before anything that may end this iteration without a run: the schedule goes on whatever becomes of it.
        if job.scheduler_id is not None and not await self._keep_schedule():
            return LockLost("the next iteration of its scheduler could not be added")
        if self._stop is not None and self._stop.kind == "cancel":
            return Cancelled(self._stop.text)
        if job.deferred_failure is not None:
            return Deferred(job.deferred_failure)
        if self._oversize is not None:
            return TooLarge("data", self._oversize, means.settings.max_data)
        if not means.heartbeat.begin(self.claim.token, child.number):
            # The lease counts from when the claim was sent, the lock from when Redis ran it: it may well be ours, and
            # then the job goes back at once. Only its token, proven by the settlement, can tell.
            return InitFailed("its lease had passed before it could begin")
        return None

    def _prepare(self, child: ChildProcess) -> Attempt:
        job, means = self.claim.job, self._means
        self.nonce = means.rng.getrandbits(64)
        relay = Relay(means.store, means.keys, self.claim, child, means.settings, self._hear, self._broken)
        attempt = Attempt(job, self.nonce, child, means.settings, relay.push, means.supervisor_id, means.oom)
        self._relay, self._attempt = relay, attempt
        return attempt

    def _unprepare(self) -> None:
        self._means.heartbeat.release(self.claim.token)
        if self._recording is not None:
            self._recording.close()
        self._relay = self._attempt = self._recording = self.child = None

    async def _run(self, child: ChildProcess) -> tuple[Evidence, bool]:
        attempt = self._attempt
        if attempt is None:
            attempt = self._prepare(child)
            attempt.begin()
            self._tell_start()
            self._recording = Recording(self._means, self.claim, child)
            self._recording.begin()
        try:
            evidence = await attempt.end()
        finally:
            if self._recording is not None:
                self._recording.end()
        return evidence, attempt.doomed

    def _tell_start(self) -> None:
        job, child, means = self.claim.job, self.child, self._means
        if child is not None:
            number, queue = job.attempts_made + 1, means.keys.queue
            means.publish(Started(queue=queue, job_id=job.id, name=job.name, attempt=number, pid=child.pid))

    async def _keep_schedule(self) -> bool:
        """A claimed scheduler job owes the queue its next iteration; without it the schedule stops for everybody."""
        means = self._means
        try:
            owed = work.iterate(means.keys, self.claim.job, self.claim.token)
            if owed is not None and await means.store.run(owed) == "taken":
                why = "all its next times have jobs already, so it ends here; upsert it again"
                means.publish(StoreTrouble(doing=f"next iteration of {self.claim.job.scheduler_id}", why=why))
        except SandqError as error:
            means.publish(StoreTrouble(doing=f"next iteration of {self.claim.job.scheduler_id}", why=str(error)))
            # A pattern that nobody can read ends its schedule; this iteration is still owed.
            return isinstance(error, QueueError)
        return True

    async def _write(self, settlement: Settlement) -> str:
        means, deadline = self._means, boottime() + SETTLE_LIMIT_S
        job_id, token = self.claim.job.id, self.claim.token
        while True:
            try:
                return await self._settler.settle(job_id, token, settlement)
            except SandqError as error:
                means.publish(StoreTrouble(doing=f"settle {job_id}", why=str(error)))
                if boottime() > deadline or token not in means.heartbeat.leases():
                    return "lost"
                await asyncio.sleep(SETTLE_PAUSE_S * means.rng.uniform(0.5, 1.0))

    async def _cancel_reason(self) -> str:
        """Why somebody asked for the end of this job, when its attempt ended before we had read the request."""
        job_id = self.claim.job.id
        try:
            requests = await self._means.store.run(work.take_cancels(self._means.keys, {job_id: self.claim.token}))
        except SandqError:
            return ""
        return requests.get(job_id, "")

    def _settled(self, outcome: Outcome, settlement: Settlement | None, word: str) -> None:
        if self._attempt is None and isinstance(outcome, InitFailed):
            return  # it went back as it was: nobody was told that it had started
        job = self.claim.job
        reason = settlement.reason if settlement is not None else getattr(outcome, "why", "")
        self._means.publish(
            Settled(
                queue=self._means.keys.queue,
                job_id=job.id,
                name=job.name,
                outcome=type(outcome).__name__,
                to=str(settlement.to) if settlement is not None and word == "ok" else "",
                word=word,
                reason="" if isinstance(outcome, Completed) else (reason or ""),
                wall_s=boottime() - self.started_at,
                pid=None if self.child is None else self.child.pid,
            )
        )

    def _lock_lost(self) -> Callable[[str], None]:
        """What the heartbeat thread calls; the loop acts on it. The launcher has the lease and needs neither."""
        loop = asyncio.get_running_loop()

        def lost(why: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nothing runs any more
                loop.call_soon_threadsafe(self.stop, Stop("lock-lost", why))

        return lost

    def _hear(self, fact: object) -> None:
        self.progress = getattr(fact, "progress_json", self.progress)
        self._means.publish(fact)  # type: ignore[arg-type]  # the relay publishes facts only

    def _broken(self, why: str) -> None:
        self.stop(Stop("protocol", f"protocol violation: {why}"))
