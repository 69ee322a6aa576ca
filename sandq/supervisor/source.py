"""Where a pool's children come from: each exec'd by the launcher, or forked from a template that is loaded once."""

from __future__ import annotations

import asyncio
from typing import Protocol

from sandq.config import QueueSettings
from sandq.protocol import Frame, Kind
from sandq.supervisor.confine import Confinement
from sandq.supervisor.environment import child_env
from sandq.supervisor.facts import ChildDied, Listener, Output
from sandq.supervisor.fleet import Fleet, SpawnFailed
from sandq.supervisor.output import Capture
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.processor import Processor

LOAD_WAIT_S = 120.0  # a processor that has not loaded by then (a large model, a hung import) is broken


class Source(Protocol):
    """Starts children of one processor."""

    async def start(self) -> ChildProcess:
        """A child that waits for its LOAD frame; SpawnFailed when there is none to be had now."""

    def close(self) -> None:
        """No more are wanted."""


class Exec:
    """Every child is a new interpreter: nothing is shared with another."""

    def __init__(self, queue: str, settings: QueueSettings, fleet: Fleet, publish: Listener) -> None:
        self._queue = queue
        self._settings = settings
        self._fleet = fleet
        self._publish = publish

    async def start(self) -> ChildProcess:
        """A child that imports its processor itself."""
        child = await self._fleet.spawn(child_env(self._settings.env), Confinement.of(self._settings))
        _overhear(child, self._queue, self._settings.output_rate, self._publish)
        return child

    def close(self) -> None:
        """Nothing is kept between children."""


class Forks:
    """Children of one template. It is started with the first of them, and again after its end."""

    def __init__(
        self, queue: str, processor: Processor, settings: QueueSettings, fleet: Fleet, publish: Listener
    ) -> None:
        self._queue = queue
        self._processor = processor
        self._settings = settings
        self._fleet = fleet
        self._publish = publish
        self._template: ChildProcess | None = None
        self._loading = asyncio.Lock()
        self._closed = False

    async def start(self) -> ChildProcess:
        """A child that has imported its processor already."""
        async with self._loading:
            template = self._template
            if template is None or not template.alive:
                template = self._template = await self._load()
        try:
            child = await self._fleet.fork(template)
        except SpawnFailed:
            template.kill("template")  # whatever ails it, the next try begins with a new one
            raise
        _overhear(child, self._queue, self._settings.output_rate, self._publish)
        return child

    def close(self) -> None:
        """The template may go; its children stay."""
        self._closed = True
        if self._template is not None:
            self._template.send(Frame(Kind.BYE))

    async def _load(self) -> ChildProcess:
        template = await self._fleet.spawn(child_env(self._settings.env), forks=True)
        _overhear(template, self._queue, self._settings.output_rate, self._publish)
        try:
            reply = await answer_to_load(template, self._processor.load_frame(self._settings))
        except asyncio.CancelledError:
            template.kill("cancelled")
            raise
        if not (isinstance(reply, Frame) and reply.kind is Kind.READY):
            template.kill("broken")
            raise SpawnFailed(why_broken(reply, template))
        template.on_frame = lambda _frame: None
        template.on_broken = lambda _why: template.kill("protocol")
        template.exited.add_done_callback(lambda exit_: self._ended(template, str(exit_.result())))
        return template

    def _ended(self, template: ChildProcess, how: str) -> None:
        if not self._closed:
            self._publish(ChildDied(queue=self._queue, pid=template.pid, how=f"{how} (template)"))


def source_of(
    queue: str, processor: Processor, settings: QueueSettings, fleet: Fleet, publish: Listener
) -> Exec | Forks:
    """What `start` in the settings asks for."""
    if settings.start == "template":
        return Forks(queue, processor, settings, fleet, publish)
    return Exec(queue, settings, fleet, publish)


def _overhear(child: ChildProcess, queue: str, rate: int, publish: Listener) -> None:
    """Tell what it writes while it has no job: an import that warns, a template, what a job left running."""
    child.output.limit(rate)
    unasked = Capture(
        lambda stream, line, level: publish(Output(queue=queue, job_id="", stream=stream, line=line, level=level))
    )
    child.output.between_jobs = unasked.feed
    child.exited.add_done_callback(lambda _: unasked.end())


async def answer_to_load(child: ChildProcess, frame: Frame) -> Frame | str:
    """The first frame that a child answers, or how it failed to; after LOAD_WAIT_S it has failed."""
    answered: asyncio.Future[Frame | str] = asyncio.get_running_loop().create_future()

    def answer(value: Frame | str) -> None:
        if not answered.done():
            answered.set_result(value)

    child.on_frame = answer
    child.on_broken = answer
    child.exited.add_done_callback(lambda exit_: answer(f"its child ended while loading: {exit_.result()}"))
    child.send(frame)
    try:
        async with asyncio.timeout(LOAD_WAIT_S):
            return await answered
    except TimeoutError:
        return f"it did not load within {LOAD_WAIT_S:g}s"


def why_broken(reply: Frame | str, child: ChildProcess) -> str:
    """What an answer other than READY says about the processor."""
    if isinstance(reply, str):
        tail = child.output.stderr_tail.strip().splitlines()
        return f"{reply} ({tail[-1]})" if tail else reply
    if reply.kind is not Kind.BROKEN:
        return f"its child said {reply.kind.name} instead of READY"
    return str(reply.head["error"])
