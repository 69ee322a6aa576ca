"""Carries what a running handler says (progress, log, data, new jobs, questions) to Redis, in order, under its lock."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable

from sandq.config import QueueSettings
from sandq.errands.jobs import OPTIONS
from sandq.errors import QueueError, SandqError
from sandq.job import Claim
from sandq.protocol import MAX_LOG_LINE, Frame, Kind
from sandq.store import family, produce, work
from sandq.store.executors import AsyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.newjob import Parent, new_job
from sandq.supervisor.facts import Listener, Output, Progressed, StoreTrouble
from sandq.supervisor.process import ChildProcess
from sandq.verdict import is_json

_OPTIONS = OPTIONS - {"parent"}  # `child` says it
FULL, LOW = 64, 16  # frames held before the child has to wait, and from when it is heard again


class Relay:
    """One per attempt. `broken(why)` is called when the child says what it must not."""

    def __init__(
        self,
        store: AsyncExecutor,
        keys: QueueKeys,
        claim: Claim,
        child: ChildProcess,
        settings: QueueSettings,
        publish: Listener,
        broken: Callable[[str], None],
    ) -> None:
        self._store = store
        self._keys = keys
        self._claim = claim
        self._child = child
        self._settings = settings
        self._publish = publish
        self._broken = broken
        self._frames: deque[Frame] = deque()
        self._task: asyncio.Task[None] | None = None

    def push(self, frame: Frame) -> None:
        """Take one frame; a child that talks faster than Redis listens has to wait."""
        if frame.kind in (Kind.PROGRESS, Kind.DATA, Kind.ADD) and (why := self._unfit(frame.body)):
            self._broken(f"the body of a {frame.kind.name} frame {why}")
            return
        if self._frames and frame.kind is Kind.PROGRESS and self._frames[-1].kind is Kind.PROGRESS:
            self._frames.pop()  # only the newest of two progress reports in a row is news
        self._frames.append(frame)
        if len(self._frames) >= FULL:
            self._child.pause_reading()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._carry())

    def _unfit(self, body: bytes) -> str:
        if len(body) > self._settings.max_data:
            return f"has {len(body)} bytes, over max_data"
        return "" if is_json(body) else "is not one JSON text in UTF-8"

    async def flush(self, limit_s: float) -> None:
        """Wait until everything taken is in Redis, at most `limit_s`; the child is heard again in any case."""
        if self._task is None:
            return
        _, late = await asyncio.wait([self._task], timeout=limit_s)
        if late:
            self._task.cancel()
            self._child.resume_reading()
            why = f"Redis did not take {len(self._frames) + 1} messages of the handler within {limit_s:g}s"
            self._publish(StoreTrouble(doing=f"progress and logs of {self._claim.job.id}", why=why))

    async def _carry(self) -> None:
        while self._frames:
            frame = self._frames.popleft()
            try:
                await self._pass_on(frame)
            except Exception as error:  # noqa: BLE001  # the door for what a child asks: it must be answered, whatever it is
                why = str(error) if isinstance(error, SandqError) else f"{type(error).__name__}: {error}"
                is_asked = frame.kind in (Kind.ADD, Kind.ASK)
                if is_asked:
                    self._answer(frame, error=why[:MAX_LOG_LINE])
                if not (is_asked and isinstance(error, QueueError)):  # what it may not ask is its own affair
                    self._publish(StoreTrouble(doing=f"{frame.kind.name.lower()} of {self._claim.job.id}", why=why))
            if len(self._frames) <= LOW:
                self._child.resume_reading()

    async def _pass_on(self, frame: Frame) -> None:
        job, token, keys = self._claim.job, self._claim.token, self._keys
        match frame.kind:
            case Kind.PROGRESS:
                await self._store.run(work.progress(keys, job.id, frame.body, token))
                self._publish(Progressed(queue=keys.queue, job_id=job.id, progress_json=frame.body))
            case Kind.DATA:
                await self._store.run(work.update_data(keys, job.id, frame.body, token))
            case Kind.LOG:
                line = frame.body[:MAX_LOG_LINE].decode("utf-8", "replace")
                await self._store.run(work.log(keys, job.id, line, token))
                level = frame.head["level"]
                self._publish(Output(queue=keys.queue, job_id=job.id, stream="log", line=line, level=level))
            case Kind.ADD:
                self._answer(frame, json.dumps(await self._add(frame)).encode())
            case Kind.ASK:
                self._answer(frame, await self._ask(frame.head["what"]))
            case _:
                self._broken(f"a {frame.kind.name} frame has no place in a running job")

    async def _ask(self, what: str) -> bytes:
        keys, job_id = self._keys, self._claim.job.id
        match what:
            case "values":
                return await self._store.run(family.child_values(keys, job_id))
            case "failures":
                return json.dumps(await self._store.run(family.child_failures(keys, job_id))).encode()
            case _:
                pending = await self._store.run(family.pending_children(keys, job_id))
                return str(pending).encode()

    async def _add(self, frame: Frame) -> str:
        """Add a job on the handler's behalf, only where the configuration lets it."""
        queue = frame.head["queue"] or self._keys.queue
        if queue != self._keys.queue and queue not in self._settings.add_to:
            raise QueueError(f"this processor may not add to queue {queue!r}; allow it with add_to = [{queue!r}]")
        keys = QueueKeys(queue, self._keys.prefix)
        opts, parent = dict(frame.head["opts"]), None
        if frame.head["child"]:
            rule = opts.pop("on_failure", "wait")
            parent = Parent(id=self._claim.job.id, queue=self._keys.base[:-1], on_failure=rule)
        if unknown := sorted(opts.keys() - _OPTIONS):
            raise QueueError(f"job.add() has no option {', '.join(unknown)}; it takes {', '.join(sorted(_OPTIONS))}")
        new = new_job(frame.head["name"], data_json=frame.body, parent=parent, **opts)
        [added] = await self._store.run(produce.add(keys, [new]))
        return produce.added_job(keys, new, added).id

    def _answer(self, frame: Frame, body: bytes = b"", error: str = "") -> None:
        head = {"request": frame.head["request"], "error": error}
        self._child.send(Frame(Kind.ANSWER, frame.nonce, head, body))
