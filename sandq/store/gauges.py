"""Figures about a queue for whoever watches over it: how much, how fast, by whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandq.job import JobState
from sandq.store.call import Arg, Call, Read, call
from sandq.store.keys import QueueKeys

STEP = 2**32  # between the scores of two priorities (wire-format 1.3)


@dataclass(frozen=True, slots=True)
class Metrics:
    """How many jobs ended, as counted by workers that have metrics on."""

    count: int  # since counting began
    data: tuple[int, ...]  # per minute, the newest first; the running minute is not among them
    points: int  # minutes that are kept
    counted_to: int | None  # ms since 1970: jobs that ended later are in `count` only


@dataclass(frozen=True, slots=True)
class Worker:
    """A connection whose name says that it is a worker of the queue, in whatever language."""

    name: str
    address: str
    age_s: int
    idle_s: int


def counts_per_priority(keys: QueueKeys, priorities: Sequence[int]) -> Read[dict[int, int]]:
    """How many jobs wait under each of these priorities."""
    wanted = tuple(dict.fromkeys(priorities))

    def command(priority: int) -> tuple[Arg, ...]:
        if priority == 0:
            return ("LLEN", keys.key("wait"))
        return ("ZCOUNT", keys.key("prioritized"), priority * STEP, (priority + 1) * STEP - 1)

    def parse(replies: list[Any]) -> dict[int, int]:
        return dict(zip(wanted, map(int, replies[1:]), strict=True))

    # A pipeline is routed by its first command, and there is always one.
    return Read((("EXISTS", keys.key("meta")), *map(command, wanted)), parse)


def due_within(keys: QueueKeys, within_ms: int) -> Call[int]:
    """How many delayed jobs are due at most this long from now."""
    return call("due", keys.base, int, {"within_ms": within_ms})


def limited_ms(keys: QueueKeys, most: int | None = None) -> Call[int]:
    """For how long a rate limit holds back claims, 0 when it does not; `most`: the limit of a worker's own."""
    return call("limited", keys.base, int, {"most": "" if most is None else most})


def is_maxed(keys: QueueKeys) -> Read[bool]:
    """Whether as many jobs run as the queue's concurrency allows."""

    def parse(replies: list[Any]) -> bool:
        most, active = replies
        return most is not None and most.isdigit() and int(active) >= int(most)

    return Read((("HGET", keys.key("meta"), "concurrency"), ("LLEN", keys.key("active"))), parse)


def metrics(keys: QueueKeys, state: JobState, start: int = 0, stop: int = -1) -> Read[Metrics]:
    """How many jobs completed or failed, in all and per minute from `start` to `stop`, both included."""
    name = keys.key(f"metrics:{state.value}")

    def parse(replies: list[Any]) -> Metrics:
        (count, at), data, points = replies
        return Metrics(_number(count) or 0, tuple(_number(raw) or 0 for raw in data), int(points), _number(at))

    return Read(
        (("HMGET", name, "count", "prevTS"), ("LRANGE", f"{name}:data", start, stop), ("LLEN", f"{name}:data")), parse
    )


def workers(keys: QueueKeys) -> Read[tuple[Worker, ...]]:
    """The workers of the queue that are connected, BullMQ's and sandq's alike; on a cluster to the queue's node."""
    own = keys.client_name()

    def parse(replies: list[Any]) -> tuple[Worker, ...]:
        lines = replies[1].decode("utf-8", "replace").splitlines()
        clients = [dict(part.partition("=")[::2] for part in line.split(" ")) for line in lines]
        return tuple(_worker(client, own) for client in clients if _is_worker(client.get("name", ""), own))

    # The first command says which node to ask: the wake-up connections of workers are open to the same one.
    return Read((("EXISTS", keys.key("meta")), ("CLIENT", "LIST")), parse)


def deduplication_owner(keys: QueueKeys, deduplication_id: str) -> Read[str | None]:
    """The job that stands for this deduplication id, None when the next one is added."""
    return Read(
        (("GET", keys.key(f"de:{deduplication_id}")),),
        lambda replies: None if replies[0] is None else replies[0].decode("utf-8", "replace"),
    )


def log_count(keys: QueueKeys, job_id: str) -> Read[int]:
    """How many lines a job's log has."""
    return Read((("LLEN", keys.key(f"{job_id}:logs")),), lambda replies: int(replies[0]))


def event_count(keys: QueueKeys) -> Read[int]:
    """How many events are kept."""
    return Read((("XLEN", keys.key("events")),), lambda replies: int(replies[0]))


def _is_worker(name: str, own: str) -> bool:
    return name == own or name.startswith(f"{own}:w:")


def _worker(client: Mapping[str, str], own: str) -> Worker:
    return Worker(
        name=client["name"].removeprefix(own).removeprefix(":w:"),
        address=client.get("addr", ""),
        age_s=int(client.get("age", 0)),
        idle_s=int(client.get("idle", 0)),
    )


def _number(raw: bytes | None) -> int | None:
    try:
        return None if raw is None else int(float(raw))
    except (ValueError, OverflowError):
        return None
