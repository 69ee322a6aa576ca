"""One child without Redis: run one job by hand, or see whether a processor loads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from sandq.config import Lease, QueueSettings
from sandq.errors import ProcessorError
from sandq.job import Job
from sandq.outcome import Outcome
from sandq.protocol import Frame, Kind
from sandq.supervisor import memory
from sandq.supervisor.attempt import Attempt
from sandq.supervisor.facts import Fact, Listener, Output
from sandq.supervisor.fleet import Fleet
from sandq.supervisor.heartbeat import Heartbeat
from sandq.supervisor.oom import Watch
from sandq.supervisor.output import Capture
from sandq.supervisor.pool import Pool
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.processor import Processor
from sandq.verdict import Evidence, judge

Hear = Callable[[str, str], None]  # (stream, line): stdout, stderr, log, progress


def _unheard(_stream: str, _line: str) -> None:
    pass


def run_single(
    processor: str | Callable[..., Any],
    data_json: bytes,
    settings: QueueSettings | None = None,
    *,
    name: str = "run",
    hear: Hear = _unheard,
) -> Outcome:
    """The outcome of one job in a real, fenced child, with every limit of `settings`; ProcessorError if it cannot load.

    What needs Redis (`job.add`, `job.child_values`) is answered with an error.
    """
    return asyncio.run(_run_single(Processor.of(processor), data_json, settings or QueueSettings(), name, hear))


def check_processor(processor: str | Callable[..., Any], settings: QueueSettings | None = None) -> list[str]:
    """The job names a processor serves (`*`: any), as a real child found them; ProcessorError if it cannot load."""
    return asyncio.run(_check(Processor.of(processor), settings or QueueSettings()))


async def _run_single(
    processor: Processor, data_json: bytes, settings: QueueSettings, name: str, hear: Hear
) -> Outcome:
    # What setup() and teardown() write comes before and after the job; what an import writes, too.
    async with one_child(processor, settings, lambda fact: _tell(fact, hear)) as (child, _):
        return await run_on(child, data_json, settings, name, hear)


async def run_on(
    child: ChildProcess, data_json: bytes, settings: QueueSettings, name: str = "run", hear: Hear = _unheard
) -> Outcome:
    """The outcome of one job on a child that is loaded."""
    capture = Capture(lambda stream, line, level: hear(stream, _told(line, level)))
    child.output.hear(capture.feed)
    job = Job(queue="run", id="1", name=name, data_json=data_json, timestamp=0)
    nonce = random.getrandbits(64)

    def relay(frame: Frame) -> None:
        if frame.kind is Kind.LOG:
            hear("log", frame.body.decode("utf-8", "replace"))
        elif frame.kind is Kind.PROGRESS:
            hear("progress", frame.body.decode("utf-8", "replace"))
        elif frame.kind in (Kind.ADD, Kind.ASK):
            error = "this job runs by hand, without Redis; use `sandq supervise` to add jobs or ask for children"
            child.send(Frame(Kind.ANSWER, nonce, {"request": frame.head["request"], "error": error}))

    attempt = Attempt(job, nonce, child, settings, relay, "by hand", Watch())
    watch = asyncio.create_task(_watch_memory(attempt, settings.memory))
    attempt.begin()
    evidence: Evidence = await attempt.end()
    watch.cancel()
    child.output.hear(None)
    capture.end()
    return judge(evidence)


def _tell(fact: Fact, hear: Hear) -> None:
    if isinstance(fact, Output):
        hear(fact.stream, _told(fact.line, fact.level))


def _told(line: str, level: str) -> str:
    return f"{level} {line}" if level else line


async def _watch_memory(attempt: Attempt, limit: int | None) -> None:
    while limit is not None:
        await asyncio.sleep(memory.POLL_S)
        used = (await asyncio.to_thread(memory.tree_rss, [attempt.child.pid]))[attempt.child.pid]
        if (stop := memory.over(used, limit)) is not None:
            attempt.stop(stop)


async def _check(processor: Processor, settings: QueueSettings) -> list[str]:
    async with one_child(processor, settings) as (_, pool):
        return [*pool.names, *(["*"] if pool.any_name else [])]


@asynccontextmanager
async def one_child(
    processor: Processor, settings: QueueSettings, publish: Listener = lambda _fact: None
) -> AsyncIterator[tuple[ChildProcess, Pool]]:
    """A launcher with one loaded child. Nothing is locked here, so the heartbeat beats without a store."""
    ready = asyncio.Event()
    heartbeat = Heartbeat(Lease(), lambda _keys, _held: frozenset(), lambda _why: None)
    fleet = Fleet(Lease(), heartbeat.attach, lambda _pid: None)
    one = replace(settings, concurrency=1, spares=0)
    pool = Pool("run", processor, one, fleet, publish, ready.set)
    fleet.start()
    heartbeat.start()
    try:
        pool.refill()
        why = await pool.loaded
        child = pool.take() if why is None else None
        if child is None:
            raise ProcessorError(f"{processor}: {why}")
        yield child, pool
        pool.put_back(child)
    finally:
        await pool.close()
        await fleet.close()
        await asyncio.to_thread(heartbeat.stop)
