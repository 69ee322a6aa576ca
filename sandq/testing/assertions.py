"""Assertions about what was added, with messages that show what was found instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sandq.job import Job
from sandq.queue import AsyncQueue, Queue
from sandq.store.reads import COUNTED

_ANY: Any = object()
PAGE = 50  # jobs whose data are in memory at a time
SHOWN = 5

AnyQueue = Queue | AsyncQueue | str


@dataclass(frozen=True, slots=True)
class _Held:
    """What a queue holds, seen by somebody who looks for jobs of one name."""

    named: list[Job]
    others: Counter[str]  # how many jobs of each other name


def assert_added(queue: AnyQueue, name: str, *, data: Any = _ANY, count: int | None = None) -> list[Job]:
    """The queue's jobs of this name and data, in whatever state; AssertionError when there is none, or not `count`.

    `queue` may be a name: then SANDQ_REDIS_URL says where, as the fixture `sandq_redis` does. Of an AsyncQueue it is
    not awaited: the event loop waits with the test. `data` is compared with `==`, so unittest.mock.ANY may stand in it.
    A job that was removed when it ended is not found.
    """
    __tracebackhide__ = True
    held = _look(queue, name)
    found = [job for job in held.named if data is _ANY or _plain(data) == job.data]
    if len(found) == count or (count is None and found):
        return found
    raise AssertionError("\n".join(_told(queue, held, found, name, data, count)))


def assert_not_added(queue: AnyQueue, name: str, *, data: Any = _ANY) -> None:
    """AssertionError when the queue holds a job of this name (and data), in whatever state."""
    __tracebackhide__ = True
    found = [job for job in _look(queue, name).named if data is _ANY or _plain(data) == job.data]
    if found:
        shown = "\n".join(f"  job {job.id}: {job.data!r}" for job in found[:SHOWN])
        raise AssertionError(f"{_wanted(queue, name, data)} should not have been added, but {len(found)} was:\n{shown}")


def differences(wanted: Any, found: Any, path: str = "data") -> Iterator[str]:
    """Where two JSON values differ, one line for each place."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            if key not in found:
                yield f"{path}[{key!r}] is missing, expected {wanted[key]!r}"
            elif key not in wanted:
                yield f"{path}[{key!r}] is {found[key]!r}, not expected"
            else:
                yield from differences(wanted[key], found[key], f"{path}[{key!r}]")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for n, pair in enumerate(zip(wanted, found, strict=True)):
            yield from differences(*pair, f"{path}[{n}]")
    elif wanted != found:
        yield f"{path} is {found!r}, expected {wanted!r}"


def _look(queue: AnyQueue, name: str) -> _Held:
    """All jobs of the queue, page by page: those of other names are only counted, since their data may be large."""
    named: list[Job] = []
    others = Counter[str]()
    with _opened(queue) as opened:
        places = sum(opened.counts().values())
        for start in range(0, places, PAGE):
            page = opened.jobs(COUNTED, start=start, limit=PAGE)
            named += [job for job in page if job.name == name]
            others.update(job.name for job in page if job.name != name)
    return _Held(sorted(named, key=lambda job: (job.timestamp, len(job.id), job.id)), others)


def _opened(queue: AnyQueue) -> AbstractContextManager[Queue]:
    if isinstance(queue, Queue):
        return nullcontext(queue)
    if isinstance(queue, str):
        return Queue(queue)
    return Queue(queue.name, redis=queue._url, prefix=queue.keys.prefix)


def _plain(value: Any) -> Any:
    """As it looks after JSON: a tuple is a list; whatever else stays, so that matchers keep matching."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _told(queue: AnyQueue, held: _Held, found: list[Job], name: str, data: Any, count: int | None) -> Iterator[str]:
    wanted = _wanted(queue, name, data)
    yield f"{wanted}: {len(found)} found, {count} expected" if count is not None else f"{wanted} was not added"
    near = [job for job in held.named if job not in found]
    by_distance = [(list(differences(_plain(data), job.data)), job.id) for job in near if data is not _ANY]
    for lines, job_id in sorted(by_distance, key=lambda pair: len(pair[0]))[:SHOWN]:
        yield f"  job {job_id} of this name differs: {'; '.join(lines[:SHOWN])}"
    if held.others:
        yield f"  other jobs there: {', '.join(f'{other!r} ({n})' for other, n in held.others.most_common(SHOWN))}"
    elif not held.named:
        yield "  the queue is empty"


def _wanted(queue: AnyQueue, name: str, data: Any) -> str:
    where = queue if isinstance(queue, str) else queue.name
    return f"job {name!r}{'' if data is _ANY else f' with data {_plain(data)!r}'} in queue {where!r}"
