"""One attempt: a claimed job on a borrowed child, from the job frame to the evidence of how it ended."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandq.clock import boottime
from sandq.config import QueueSettings
from sandq.job import Job
from sandq.outcome import Cause, Death
from sandq.protocol import FINAL, MAX_LOG_LINE, Frame, Kind, encode
from sandq.supervisor.exit import Exit
from sandq.supervisor.mailbox import Follower
from sandq.supervisor.oom import Watch
from sandq.supervisor.process import ChildProcess
from sandq.units import show_duration
from sandq.verdict import Evidence, Stop, is_json

HOST = socket.gethostname()
STACK_WAIT_S = 1.0  # a child on a busy machine may take this long until its signal handler runs
STACK_LOOK_S = 0.01
SHORT_RESULT = 4 << 10  # bytes that may be looked at twice
# What faulthandler writes: it tells a stack dump from whatever else is on stderr.
_STACK = re.compile(r"^(?:Fatal Python error.*|Current thread 0x|Thread 0x)", re.MULTILINE)


@dataclass(slots=True)
class Attempt:
    """Runs once. `relay` gets every frame that is not final; `supervisor` signs the death certificate."""

    job: Job
    nonce: int
    child: ChildProcess
    settings: QueueSettings
    relay: Callable[[Frame], None]
    supervisor: str
    oom: Watch
    started_at: float = 0.0
    doomed: bool = False  # the child was sent a signal that ends it, even if it still answered
    _heard: bool = False  # it said something about this attempt: it has begun
    _placed: bool = False  # in the mailbox: it has begun when the child says so, and not before
    _stop: Stop | None = None
    _ladder: asyncio.Task[None] | None = None
    _ended: asyncio.Future[Frame | Exit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def begin(self) -> None:
        """Hand the job over. All else can wait, but nothing is read from the child before the loop's next turn."""
        child = self.child
        self.started_at = boottime()
        child.send(run_frame(self.job, self.nonce))
        child.runs(self._receive, self._broken)
        child.output.forget()
        child.resume_reading()
        self.oom.look(self.started_at)

    def place(self, follower: Follower) -> bool:
        """Leave the job where the child finds it when its present one is over; False when it cannot be left there."""
        self._placed = self.child.mailbox.place(encode(run_frame(self.job, self.nonce)), follower)
        return self._placed

    def begun(self) -> None:
        """The child found the job, and says that it begins now."""
        self.started_at = boottime()
        self._heard = True
        self.child.runs(self._receive, self._broken)
        self.oom.look(self.started_at)

    async def end(self) -> Evidence:
        """Wait for its end: a final frame or the death of the child, whichever is first."""
        child, clock = self.child, self._start_clock()
        child.jobs += 1
        child.exited.add_done_callback(self._exited)
        try:
            end = await self._ended
        finally:
            if clock is not None:
                clock.cancel()
            if self._ladder is not None:
                self._ladder.cancel()
            child.exited.remove_done_callback(self._exited)
        return self._evidence(end)

    def stop(self, stop: Stop) -> None:
        """Have the attempt end: by the ladder, or at once where nothing may run on. The first reason stays."""
        if self._is_over():
            return
        straight = stop.kind in ("lock-lost", "memory", "protocol")
        if straight and (self._stop is None or self._stop.kind not in ("lock-lost", "memory", "protocol")):
            self._stop = stop  # outranks a ladder that is under way
            self._kill_child(stop)
        elif self._stop is None:
            self._stop = stop
            self._ladder = asyncio.get_running_loop().create_task(self._climb(stop))

    def kill(self, stop: Stop) -> None:
        """Skip what is left of the ladder."""
        if self._is_over():
            return
        self._stop = self._stop or stop
        self._kill_child(stop)

    def _is_over(self) -> bool:
        """Whether nothing is left to stop. None follows a job that is stopped: what is meant for it would hit that."""
        if not self._ended.done() and not self.child.mailbox.recall():
            self.child.listen()  # it has the next job, so how this one ended is on its way
        return self._ended.done()

    def _kill_child(self, stop: Stop) -> None:
        self.doomed = True
        self.child.kill(stop.kind)

    async def _climb(self, stop: Stop) -> None:
        """Soft exception, stack dump and SIGTERM, SIGKILL of the tree. Ends with the attempt, wherever it stands."""
        try:
            await self._ask_to_end(stop)
        except Exception as error:  # noqa: BLE001  # whatever a lower rung ran into, the last one has to be reached
            asyncio.get_running_loop().call_exception_handler({"message": "stop ladder", "exception": error})
        self._kill_child(stop)

    async def _ask_to_end(self, stop: Stop) -> None:
        self.child.send(Frame(Kind.STOP, self.nonce, {"kind": stop.kind, "text": stop.text[:MAX_LOG_LINE]}))
        self.child.signal(signal.SIGUSR2)
        await asyncio.sleep(self.settings.soft_stop_s)
        self.doomed = True
        kill_at = boottime() + self.settings.term_stop_s
        self.child.signal(signal.SIGUSR1)
        await self._stack_taken(min(STACK_WAIT_S, self.settings.term_stop_s / 2))
        self.child.signal(signal.SIGTERM)
        await asyncio.sleep(kill_at - boottime())

    async def _stack_taken(self, limit_s: float) -> None:
        """Until the stack dump is on stderr. A SIGTERM that came before it was written would end the child first."""
        deadline = boottime() + limit_s
        while boottime() < deadline and _STACK.search(self.child.output.stderr_tail) is None:  # noqa: ASYNC110
            await asyncio.sleep(STACK_LOOK_S)
        await asyncio.sleep(STACK_LOOK_S)  # its first lines are there: the others follow at once

    def _start_clock(self) -> asyncio.TimerHandle | None:
        """The job's own timeout, else the queue's; the run ceiling caps either."""
        limit, what = self._timeout(), "timed out after"
        ceiling = self.settings.run_ceiling_s
        if ceiling is not None and (limit is None or limit > ceiling):
            limit, what = ceiling, "reached the run ceiling of"
        if limit is None:
            return None
        return asyncio.get_running_loop().call_later(limit, self._time_out, what, limit)

    def _time_out(self, what: str, limit_s: float) -> None:
        self.stop(Stop("timeout", f"{what} {show_duration(limit_s)}", limit_s))

    def _timeout(self) -> float | None:
        own_ms = self.job.limit("timeout")
        return self.settings.timeout_s if own_ms is None else own_ms / 1000

    def _receive(self, frame: Frame) -> None:
        if frame.nonce != self.nonce or self._ended.done():
            return  # about an earlier attempt, or after the end of this one
        self._heard = True
        if frame.kind in FINAL:
            self.child.between_jobs = True
            self._ended.set_result(frame)
        elif frame.kind in (Kind.READY, Kind.BROKEN):
            self._broken(f"it said {frame.kind.name} while a job was running")
        else:
            self.relay(frame)

    def _broken(self, why: str) -> None:
        self.stop(Stop("protocol", f"protocol violation: {why}"))

    def _exited(self, future: asyncio.Future[Exit]) -> None:
        if not self._ended.done():
            self._ended.set_result(future.result())

    def _evidence(self, end: Frame | Exit) -> Evidence:
        exit_ = end if isinstance(end, Exit) else None
        return Evidence(
            final=end if isinstance(end, Frame) else None,
            death=None if self._went_well(end) else self._certificate(exit_),
            exit_code=exit_.exit_code if exit_ else None,
            signal=exit_.signal if exit_ else None,
            killed_by=exit_.why if exit_ else "",
            unseen=str(exit_) if exit_ is not None and exit_.status is None else "",
            begun=exit_ is None or self._has_begun(),
            oom_kills=self.oom.recent() if exit_ is not None and exit_.signal == "SIGKILL" else 0,
            stop=self._stop,
            max_result=self.settings.max_result,
        )

    def _has_begun(self) -> bool:
        """Whether the job's frame was read. The kernel tells when a socket is closed with something unread in it.

        Whatever else we send comes after that frame and could be what was left: only silence on both sides proves it.
        """
        return self._heard or (not self._placed and (self._stop is not None or not self.child.left_unread))

    def _went_well(self, end: Frame | Exit) -> bool:
        """Nothing will have to be explained: making a certificate costs as much as all else for a short job."""
        if not isinstance(end, Frame) or end.kind is not Kind.DONE or self._stop is not None:
            return False
        return len(end.body) <= SHORT_RESULT and is_json(end.body)

    def _certificate(self, exit_: Exit | None) -> Death:
        """What is known of the child now; who reads the evidence fills in the cause."""
        stderr, stack = self.child.output.stderr_tail, ""
        if (match := _STACK.search(stderr)) is not None:
            stderr, stack = stderr[: match.start()], stderr[match.start() :]
        now = boottime()
        return Death(
            cause=Cause.EXIT,
            peak_rss=exit_.peak_rss if exit_ else None,
            wall_s=round(now - self.started_at, 4),
            stderr=stderr.strip(),
            stack=stack.strip(),
            pid=self.child.pid,
            host=HOST,
            child_age_s=round(now - self.child.started_at, 4),
            child_jobs=self.child.jobs,
            child_cpu_s=exit_.cpu_s if exit_ else None,
            supervisor=self.supervisor,
            crashes=self.job.crashes,
            interruptions=self.job.interruptions,
        )


def run_frame(job: Job, nonce: int) -> Frame:
    """What a child is told of the job that it is to run, but for what its LOAD said and what goes without saying."""
    head: dict[str, Any] = {"id": job.id, "name": job.name, "fence": job.fence, "timestamp": job.timestamp}
    if job.attempts_made:
        head["attempt"] = job.attempts_made + 1
    if job.crashes:
        head["crashes"] = job.crashes
    if job.parent_key is not None:
        head["parent"] = job.parent_key
    return Frame(Kind.RUN, nonce, head, job.data_json)
