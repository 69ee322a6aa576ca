"""Runs PyPI's `bullmq` on request: the commands of driver.mjs that it has, over the same lines.

`python driver.py URL`
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from bullmq import FlowProducer, Job, Queue, QueueEvents, Worker

URL = sys.argv[1]
WAIT_S = 15.0

Command = dict[str, Any]

made: dict[tuple[str, str, str], Any] = {}  # (kind, prefix, queue) -> an object of BullMQ's
errors: list[str] = []  # what BullMQ reported beside its answers: a healthy run leaves this empty
handled: defaultdict[str, list[str]] = defaultdict(list)  # "prefix:queue" -> ids of the jobs our workers ran


def once(kind: str, prefix: str, queue: str, make: Callable[[], Any]) -> Any:
    key = (kind, prefix, queue)
    if key not in made:
        made[key] = make()
        if kind != "queue":  # a Queue of this client has no listeners, though it inherits `on`
            made[key].on("error", lambda error, *_: errors.append(f"{key}: {error}"))
    return made[key]


def queue_of(c: Command) -> Queue:
    options = {"connection": URL, "prefix": c["prefix"]}
    return once("queue", c["prefix"], c["queue"], lambda: Queue(c["queue"], options))


class Listener:
    """What QueueEvents told since the stream's beginning."""

    NAMES = ("added", "waiting", "delayed", "active", "progress", "completed", "failed", "stalled", "removed")

    def __init__(self, c: Command) -> None:
        self.seen: list[Command] = []
        self._news = asyncio.Event()
        self._events = QueueEvents(c["queue"], {"connection": URL, "prefix": c["prefix"], "lastEventId": "0"})
        self.on, self.close = self._events.on, self._events.close
        for name in self.NAMES:
            self.on(name, lambda fields, _id, name=name: self._hear({"event": name, **fields}))

    def _hear(self, event: Command) -> None:
        self.seen.append(event)
        self._news.set()

    async def until(self, event: str, job_id: str | None, count: int) -> list[Command]:
        while True:
            found = [e for e in self.seen if e["event"] == event and job_id in (None, e["jobId"])]
            if len(found) >= count:
                return found
            self._news.clear()
            await self._news.wait()


async def run(job: Job, _token: str) -> Any:
    """What a Worker of ours does; processor.py is its twin."""
    handled[job.queueQualifiedName].append(job.id)
    data = job.data if isinstance(job.data, dict) else {}
    if "progress" in data:
        await job.updateProgress(data["progress"])
    if "raise" in data:
        raise ValueError(data["raise"])
    if job.name == "parent":
        return await job.getChildrenValues()
    return data.get("return")


async def on_queue(c: Command) -> Any:
    return await getattr(queue_of(c), c["call"])(*c["args"])


async def on_job(c: Command) -> Any:
    job = await Job.fromId(queue_of(c), c["job"])
    assert job is not None, f"there is no job {c['job']}"
    return await getattr(job, c["call"])(*c["args"])


async def flow(c: Command) -> str:
    producer = once("flow", c["prefix"], "", lambda: FlowProducer(URL, {"prefix": c["prefix"]}))
    return str((await producer.add(c["flow"]))["job"].id)


async def schedule(c: Command) -> None:
    template = c["template"]
    options = (template.get("name", c["scheduler"]), template.get("data"), template.get("opts"))
    await queue_of(c).upsertJobScheduler(c["scheduler"], c["repeat"], *options)


async def until(c: Command) -> list[Command]:
    listener = once("events", c["prefix"], c["queue"], lambda: Listener(c))
    try:
        return await asyncio.wait_for(listener.until(c["event"], c["job"], c["count"]), WAIT_S)
    except TimeoutError:
        told = ", ".join(f"{e['event']} {e.get('jobId')}" for e in listener.seen)
        raise TimeoutError(f"{c['count']} x {c['event']} {c['job']} did not come; seen: {told}") from None


async def work(c: Command) -> None:
    options = {"connection": URL, "prefix": c["prefix"], **c["options"]}
    once("worker", c["prefix"], c["queue"], lambda: Worker(c["queue"], run, options))


async def told_handled(c: Command) -> list[str]:
    return handled[f"{c['prefix']}:{c['queue']}"]


async def close(c: Command) -> list[str]:
    """End everything of one prefix; what went wrong meanwhile."""
    for key in [key for key in made if key[1] == c["prefix"]]:
        # A Worker of this client that is asked in peace just as it begins to wait does not end for many seconds.
        await made.pop(key).close(**({"force": True} if key[0] == "worker" else {}))
    told, errors[:] = errors[:], []
    return told


COMMANDS = {
    "queue": on_queue,
    "job": on_job,
    "flow": flow,
    "schedule": schedule,
    "until": until,
    "work": work,
    "handled": told_handled,
    "close": close,
}

JOB_FIELDS = ("id", "name", "data", "opts", "attemptsMade", "attemptsStarted", "returnvalue", "failedReason")


def shown(value: Any) -> Any:
    """What goes over the line: of a job, what the tests ask for."""
    if isinstance(value, Job):
        return {field: getattr(value, field) for field in JOB_FIELDS}
    return str(value)


async def answer(line: bytes) -> None:
    command = json.loads(line)
    try:
        reply = {"value": await COMMANDS[command["do"]](command)}
    except Exception as error:
        reply = {"error": f"{command['do']}: {error!r}"}
    sys.stdout.write(json.dumps({"n": command["n"], **reply}, default=shown) + "\n")
    sys.stdout.flush()


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    answers = set()
    while line := await reader.readline():
        task = asyncio.create_task(answer(line))
        answers.add(task)
        task.add_done_callback(answers.discard)


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main())
