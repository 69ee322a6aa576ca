"""One claim from its start to its settlement: run -> decide -> settle, read from top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from sandq.clock import boottime
from sandq.config import Lease, QueueSettings
from sandq.decide import decide
from sandq.errors import ProtocolError, QueueError, SandqError
from sandq.job import Claim
from sandq.outcome import (
    Cancelled,
    Cause,
    Completed,
    Crashed,
    Death,
    Deferred,
    Interrupted,
    LockLost,
    Outcome,
    Place,
    Raised,
    Settlement,
    TimedOut,
    TooLarge,
)
from sandq.store import work
from sandq.store.executors import AsyncExecutor
from sandq.store.keys import QueueKeys
from sandq.supervisor.attempt import Attempt
from sandq.supervisor.facts import Listener, Output, OutputLost, Settled, Started, StoreTrouble
from sandq.supervisor.heartbeat import Heartbeat
from sandq.supervisor.output import Capture, Tail
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.relay import Relay
from sandq.supervisor.sink import JobFile, file_of
from sandq.verdict import Evidence, Stop, judge

SETTLE_PAUSE_S = 1.0
UNFINISHED = (Raised, TimedOut, Crashed, Cancelled, Interrupted, TooLarge)  # whose output people ask for
SETTLE_LIMIT_S = 60.0  # an outcome that Redis refuses for this long is given up: the lock runs out, the job runs again


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What all assignments of a queue share."""

    keys: QueueKeys
    settings: QueueSettings
    lease: Lease
    supervisor_id: str
    store: AsyncExecutor
    heartbeat: Heartbeat
    publish: Listener
    rng: random.Random


class Assignment:
    """A claim and the child that was borrowed for it."""

    def __init__(self, means: Means, claimed: work.Taken, sent_at: float, child: ChildProcess) -> None:
        self.claim = Claim(job=claimed.job, token=claimed.token, sent_at=sent_at)
        self.child = child
        self.started_at = boottime()
        self.progress: bytes | None = None
        self.fit = True  # whether the child may run another job
        self.unfit = ""  # what the job left behind in it, in its own words
        self._means = means
        self._oversize = claimed.oversize
        self._attempt: Attempt | None = None
        self._tail = Tail()

    def stop(self, stop: Stop) -> None:
        """Ask the attempt to end."""
        if self._attempt is not None:
            self._attempt.stop(stop)

    def kill(self, stop: Stop) -> None:
        """End the attempt at once."""
        if self._attempt is not None:
            self._attempt.kill(stop)

    async def run(self) -> Outcome:
        """The outcome of this claim; its lock is held and renewed until `settle` or `restore`."""
        job, means = self.claim.job, self._means
        if boottime() >= self.claim.sent_at + means.lease.kill_after_s:
            return LockLost("the claim's reply came after its lease had passed")
        means.heartbeat.hold(
            means.keys, job.id, self.claim.token, self.child.number, self.claim.sent_at, self._lock_lost()
        )
        if job.deferred_failure is not None:
            return Deferred(job.deferred_failure)
        if self._oversize is not None:
            return TooLarge("data", self._oversize, means.settings.max_data)
        if job.scheduler_id is not None and not await self._keep_schedule():
            return LockLost("the next iteration of its scheduler could not be added")
        self.fit = False  # until it has answered and nothing is on its way to end it
        try:
            evidence, doomed = await self._run()
            outcome = judge(evidence)
        except ProtocolError as error:  # its name, say, is longer than a frame's head may be
            return Raised(f"the job cannot be handed to a child: {error}", "", permanent=True)
        except Exception as error:  # noqa: BLE001  # whatever Redis or the child said to get here, the job must end by a rule
            return Crashed(Death(cause=Cause.PROTOCOL, detail=f"{type(error).__name__}: {error}", pid=self.child.pid))
        # A child whose answer broke the protocol may still be in its handler.
        answered = evidence.final is not None and not isinstance(outcome, Crashed)
        self.fit = self.child.alive and answered and not doomed
        self.unfit = evidence.final.head.get("unfit", "") if evidence.final is not None else ""
        return outcome

    async def settle(self, outcome: Outcome, then: work.NextClaim | None) -> tuple[str, work.Claimed | None]:
        """Decide and write, holding the lock until Redis has answered; claims the next in the same call if asked."""
        settlement = decide(self.claim.job, outcome, self._means.settings, self._means.rng)
        if self.fit:  # else its child may still be running and is being killed: the lease stays until it is dead
            self._means.heartbeat.release(self.claim.token)
        if settlement is None:
            self._settled(outcome, None, "lost")
            return "lost", None
        await self._keep_output(outcome)
        word, claimed = await self._write(settlement, then)
        if word in ("pending-children", "failed-children", "nothing-to-wait-for"):
            return await self._settle_family(word, then)
        if word == "cancel-requested":
            return await self.settle(Cancelled(await self._cancel_reason()), then)
        self._means.heartbeat.drop(self.claim.token)
        self._settled(outcome, settlement, word)
        return word, claimed

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

    async def _run(self) -> tuple[Evidence, bool]:
        job, means = self.claim.job, self._means
        nonce = secrets.randbits(64)
        relay = Relay(means.store, means.keys, self.claim, self.child, means.settings, self._hear, self._broken)
        self._attempt = attempt = Attempt(job, nonce, self.child, means.settings, relay.push, means.supervisor_id)
        number = job.attempts_made + 1
        means.publish(Started(queue=means.keys.queue, job_id=job.id, name=job.name, attempt=number, pid=self.child.pid))
        with self._captured(number):
            evidence = await attempt.run()
        await relay.flush(means.lease.lock_s)
        return evidence, attempt.doomed

    @contextlib.contextmanager
    def _captured(self, number: int) -> Iterator[None]:
        """While this lasts, what the child writes is this job's: told, kept for its log, and written to its file."""
        job, settings = self.claim.job, self._means.settings
        capture = Capture(self._emit)
        feeds: list[Callable[[str, bytes], None]] = [capture.feed, self._tail.feed]
        with contextlib.ExitStack() as ends:
            if settings.output_dir:
                title = f"attempt {number}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}, pid {self.child.pid}"
                file = JobFile(file_of(settings.output_dir, self._means.keys.queue, job.id), title, self._output_lost)
                feeds.append(file.feed)
                ends.callback(file.close)
            ends.callback(capture.end)
            ends.callback(self.child.output.hear, None)
            self.child.output.hear(partial(_each, feeds))
            yield

    async def _keep_output(self, outcome: Outcome) -> None:
        """Put the end of the output into the job's log, while the lock still proves that we may."""
        means, job = self._means, self.claim.job
        wanted = means.settings.keep_output
        if wanted == "never" or (wanted == "failed" and not isinstance(outcome, UNFINISHED)):
            return
        if not (lines := self._tail.lines()):
            return
        self._tail = Tail()
        keep = job.opts.get("kl")
        try:
            await means.store.run(
                work.log_lines(means.keys, job.id, lines, keep if isinstance(keep, int) else None, self.claim.token)
            )
        except SandqError as error:
            means.publish(StoreTrouble(doing=f"output of {job.id}", why=str(error)))

    async def _keep_schedule(self) -> bool:
        """A claimed scheduler job owes the queue its next iteration; without it the schedule stops for everybody."""
        means = self._means
        try:
            owed = work.iterate(means.keys, self.claim.job, self.claim.token)
            if owed is not None:
                await means.store.run(owed)
        except SandqError as error:
            means.publish(StoreTrouble(doing=f"next iteration of {self.claim.job.scheduler_id}", why=str(error)))
            # A pattern that nobody can read ends its schedule; this iteration is still owed.
            return isinstance(error, QueueError)
        return True

    async def _write(self, settlement: Settlement, then: work.NextClaim | None) -> tuple[str, work.Claimed | None]:
        means, deadline = self._means, boottime() + SETTLE_LIMIT_S
        job_id, token = self.claim.job.id, self.claim.token
        call = work.settle(means.keys, job_id, token, settlement, means.settings, next_claim=then)
        while True:
            try:
                settled = await means.store.run(call)
            except SandqError as error:
                means.publish(StoreTrouble(doing=f"settle {job_id}", why=str(error)))
                if boottime() > deadline or token not in means.heartbeat.leases():
                    return "lost", None
                await asyncio.sleep(SETTLE_PAUSE_S * means.rng.uniform(0.5, 1.0))
            else:
                return settled.word, settled.claimed

    async def _settle_family(self, word: str, then: work.NextClaim | None) -> tuple[str, work.Claimed | None]:
        """Redis knows more of the children than the handler did: what it reported cannot stand."""
        if word == "nothing-to-wait-for":  # the last child ended meanwhile: run again at once
            settlement = Settlement(to=Place.WAIT, front=True, spends_attempt=False)
            word, claimed = await self._write(settlement, then)
            self._means.heartbeat.drop(self.claim.token)
            return word, claimed
        why = "some of its children failed" if word == "failed-children" else "some of its children have not ended"
        text = f"the handler returned, but {why}; call job.wait_for_children() before the end"
        return await self.settle(Raised(text, "", permanent=True), then)

    async def _cancel_reason(self) -> str:
        """Why somebody asked for the end of this job, when its attempt ended before we had read the request."""
        job_id = self.claim.job.id
        try:
            requests = await self._means.store.run(work.take_cancels(self._means.keys, {job_id: self.claim.token}))
        except SandqError:
            return ""
        return requests.get(job_id, "")

    def _settled(self, outcome: Outcome, settlement: Settlement | None, word: str) -> None:
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

    def _emit(self, stream: str, line: str, level: str) -> None:
        queue, job_id = self._means.keys.queue, self.claim.job.id
        self._means.publish(Output(queue=queue, job_id=job_id, stream=stream, line=line, level=level))

    def _output_lost(self, why: str) -> None:
        self._means.publish(OutputLost(queue=self._means.keys.queue, job_id=self.claim.job.id, why=why))


def _each(feeds: Sequence[Callable[[str, bytes], None]], stream: str, data: bytes) -> None:
    for feed in feeds:
        feed(stream, data)
