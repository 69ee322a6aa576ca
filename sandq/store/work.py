"""What a worker does to a queue: claim, renew, settle, and all it owes the queue in between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from sandq.config import Lease, QueueSettings
from sandq.job import Job
from sandq.outcome import Settlement
from sandq.store import cron
from sandq.store.call import Arg, Call, Read, call
from sandq.store.keys import QueueKeys
from sandq.store.settlement import finish_args, settlement_args

WriteWord = Literal["ok", "lost", "missing"]
SettleWord = Literal[
    "ok",
    "lost",
    "missing",
    "not-active",
    "pending-children",
    "failed-children",
    "nothing-to-wait-for",
    "cancel-requested",
]
IterateWord = Literal["ok", "lost", "no-schedule", "not-current", "ended", "taken"]


class Taken(msgspec.Struct, frozen=True):
    """A job that is now ours, and the token that proves it."""

    job: Job
    token: str
    oversize: int | None = None  # bytes of data over the limit: measured, and left in Redis


class Claimed(msgspec.Struct, frozen=True):
    """What a claim brought: jobs, and if fewer than tokens, why and for how long there are no more."""

    jobs: tuple[Taken, ...]
    wait_ms: int | None  # until something is due; None when nothing is known
    why: Literal["", "empty", "paused", "limited", "full"]


class NextClaim(msgspec.Struct, frozen=True, kw_only=True):
    """What to claim: one job per token, each token used once in all time.

    The first `at_once` tokens (None: all) are for jobs that begin at once. The others are for jobs to be held until a
    child is free; they bring none where the queue bounds how many may run.
    """

    tokens: Sequence[str]
    at_once: int | None = None
    lease: Lease
    worker_name: str | None = None
    limiter_max: int | None = None
    limiter_ms: int | None = None
    max_data: int = 1 << 20


class Settled(msgspec.Struct, frozen=True):
    """Redis' answer to a settlement; anything but `ok` and `missing` changed nothing."""

    word: SettleWord
    claimed: Claimed | None = None


class Ending(msgspec.Struct, frozen=True):
    """What became of one attempt: a settlement with the token that proves that it is ours to write."""

    job_id: str
    token: str
    settlement: Settlement


class AllSettled(msgspec.Struct, frozen=True):
    """Redis' answer to settlements, one word each in their order, and what the claim in the same call brought."""

    words: tuple[SettleWord, ...]
    claimed: Claimed | None = None


@dataclass(frozen=True, slots=True)
class StalledCheck:
    """The jobs put back, and when the next check is allowed."""

    recovered: tuple[str, ...]
    again_in_ms: int


def claim(keys: QueueKeys, wanted: NextClaim) -> Call[Claimed]:
    """Claim up to one job per token; also promotes what is due, even when the queue is paused."""
    return call("claim", keys.base, lambda reply: _claimed(keys, reply), _claim_args(wanted), tuple(wanted.tokens))


def has_backlog(keys: QueueKeys) -> Call[bool]:
    """Whether jobs are left to do: waiting, prioritized, or delayed and not a scheduler's next iteration."""
    return call("backlog", keys.base, bool, {})


def renew(keys: QueueKeys, held: Sequence[tuple[str, str]], lock_ms: int) -> Call[frozenset[str]]:
    """Renew the locks of (job id, token) pairs; answers the tokens of those that are no longer ours."""
    flat = tuple(part for pair in held for part in pair)
    return call("renew", keys.base, lambda reply: frozenset(map(_text, reply)), {"lock_ms": lock_ms}, flat)


def settle(
    keys: QueueKeys,
    job_id: str,
    token: str,
    settlement: Settlement,
    settings: QueueSettings,
    *,
    next_claim: NextClaim | None = None,
) -> Call[Settled]:
    """Write what became of an attempt, all of it or nothing, and claim the next jobs if asked to."""
    many = settle_all(keys, (Ending(job_id, token, settlement),), settings, next_claim)

    def parse(reply: Sequence[Any]) -> Settled:
        settled = many.parse(reply)
        return Settled(settled.words[0], settled.claimed)

    return Call(many.script, many.base, many.args, many.mutates, parse)


def settle_all(
    keys: QueueKeys, endings: Sequence[Ending], settings: QueueSettings, next_claim: NextClaim | None = None
) -> Call[AllSettled]:
    """Write what became of several attempts, each all of it or nothing; one refused does not hold up the next."""
    wanted = next_claim or NextClaim(tokens=(), lease=Lease())
    repeated = [value for ending in endings for value in _ending_args(ending)]

    def parse(reply: Sequence[Any]) -> AllSettled:
        words = tuple(map(_text, reply[: len(endings)]))
        return AllSettled(words, _claimed(keys, reply, len(words)) if len(reply) > len(words) else None)

    named = {**_claim_args(wanted), **finish_args(settings), "count": len(endings)}
    return call("settle", keys.base, parse, named, (*repeated, *wanted.tokens))


def check_stalled(keys: QueueKeys, every_ms: int, max_stalled_count: int) -> Call[StalledCheck]:
    """Put back jobs whose holder vanished; at most one check per interval, whoever makes it."""

    def parse(reply: Sequence[Any]) -> StalledCheck:
        return StalledCheck(tuple(map(_text, reply[1:])), int(reply[0]))

    return call("stalled", keys.base, parse, {"every_ms": every_ms, "most": max_stalled_count})


def restore(keys: QueueKeys, job_id: str, ats: int) -> Call[Literal["ok", "locked", "not-ours"]]:
    """Put a job back, uncharged, whose lock ran out; only if it is active, unlocked and still at our claim's `ats`."""
    return call("restore", keys.base, _text, {"id": job_id, "ats": ats})


def iterate(keys: QueueKeys, job: Job, token: str) -> Call[IterateWord] | None:
    """Create the next iteration of the schedule a claimed job belongs to; None when none is owed.

    Owed before the job runs. QueueError when the schedule's pattern or time zone cannot be read.
    """
    schedule = job.opts.get("repeat")
    if job.scheduler_id is None or not isinstance(schedule, dict):
        return None
    now = job.processed_on or job.timestamp  # Redis' clock at the claim
    count = _whole(schedule.get("count")) + 1
    limit, end = _whole(schedule.get("limit")), _whole(schedule.get("endDate"))
    if (limit and limit < count) or (end and now > end):
        return None
    dedup = job.opts.get("de")
    named: dict[str, Arg] = {
        "id": job.id,
        "token": token,
        "scheduler": job.scheduler_id,
        "name": job.name,
        "opts": _without({"attempts": 0, **job.opts}, cron.OF_ITERATION),
        "repeat_opts": msgspec.json.encode({**schedule, "count": count}),
        "every": _whole(schedule.get("every")) or "",
        "end_ms": end or "",
        "priority": _whole(job.opts.get("priority")),
        "lifo": _flag(job.opts.get("lifo") is True),
        "deid": str(dedup.get("id", "")) if isinstance(dedup, dict) else "",
    }
    return call("iterate", keys.base, _text, named, _cron_runs(job, schedule, now))


def progress(keys: QueueKeys, job_id: str, progress_json: bytes, token: str = "") -> Call[WriteWord]:
    """Note how far a job is and tell the listeners. One JSON text: a bad one would stop every Node QueueEvents."""
    return call("progress", keys.base, _text, {"id": job_id, "token": token, "progress": progress_json})


def log(keys: QueueKeys, job_id: str, line: str, token: str = "") -> Call[WriteWord]:
    """Add a line to a job's log, which keeps as many as its `keep_logs` says."""
    return log_lines(keys, job_id, (line,), token)


def log_lines(keys: QueueKeys, job_id: str, lines: Sequence[str], token: str = "") -> Call[WriteWord]:
    """Add lines to a job's log, all of them or none, oldest first."""
    return call("log", keys.base, _text, {"id": job_id, "token": token}, tuple(lines))


def update_data(keys: QueueKeys, job_id: str, data_json: bytes, token: str = "") -> Call[WriteWord]:
    """Replace a job's data."""
    return call("data", keys.base, _text, {"id": job_id, "token": token, "data": data_json})


def take_cancels(keys: QueueKeys, held: Mapping[str, str]) -> Read[dict[str, str]]:
    """Read the cancel requests for jobs (id -> token) we hold, as id -> reason; each stays until its job is settled."""
    ids = tuple(held)

    def parse(replies: list[Any]) -> dict[str, str]:
        requests = ((job_id, raw.partition(b"\n")) for job_id, raw in zip(ids, replies[0], strict=True) if raw)
        return {job_id: _text(reason) for job_id, (token, _, reason) in requests if _text(token) == held[job_id]}

    # HMGET takes at least one field; an empty one is no job's id.
    return Read((("HMGET", keys.key("sq:cancels"), *(ids or ("",))),), parse if ids else lambda _: {})


def register(keys: QueueKeys, supervisor_id: str, info_json: bytes, ttl_ms: int) -> Call[str]:
    """List a supervisor as serving the queue for `ttl_ms` more, with what it says of itself."""
    return call("register", keys.base, _text, {"supervisor": supervisor_id, "info": info_json, "ttl_ms": ttl_ms})


def unregister(keys: QueueKeys, supervisor_id: str) -> Call[str]:
    """Take a supervisor off the list."""
    return call("unregister", keys.base, _text, {"supervisor": supervisor_id})


def _claim_args(wanted: NextClaim) -> dict[str, Arg]:
    return {
        "lock_ms": wanted.lease.lock_ms,
        "worker": wanted.worker_name or "",
        "limiter_max": "" if wanted.limiter_max is None else wanted.limiter_max,
        "limiter_ms": "" if wanted.limiter_ms is None else wanted.limiter_ms,
        "max_data": wanted.max_data,
        "at_once": len(wanted.tokens) if wanted.at_once is None else wanted.at_once,
    }


def _ending_args(ending: Ending) -> tuple[Arg, ...]:
    return ending.job_id, ending.token, *settlement_args(ending.settlement)


def _claimed(keys: QueueKeys, reply: Sequence[Any], start: int = 0) -> Claimed:
    why, wait_ms = reply[start], reply[start + 1]
    jobs = tuple(_taken(keys, *reply[at : at + 4]) for at in range(start + 2, len(reply), 4))
    return Claimed(jobs, None if wait_ms < 0 else wait_ms, _text(why))


def _taken(keys: QueueKeys, job_id: bytes, token: bytes, size: int, flat: Sequence[bytes]) -> Taken:
    job = Job.from_pairs(keys.queue, _text(job_id), zip(flat[::2], flat[1::2], strict=True))
    return Taken(job, _text(token), None if size < 0 else size)


def _cron_runs(job: Job, schedule: Mapping[str, Any], now: int) -> tuple[int, ...]:
    pattern = schedule.get("pattern")
    if not isinstance(pattern, str) or schedule.get("every"):
        return ()
    zone = schedule.get("tz")
    return cron.next_runs(
        pattern, max(now, _whole(job.opts.get("prevMillis"))), zone if isinstance(zone, str) else None, cron.RUNS
    )


def _without(options: Mapping[str, Any], names: Iterable[str]) -> bytes:
    return msgspec.json.encode({name: value for name, value in options.items() if name not in set(names)})


def _whole(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0


def _flag(on: bool) -> str:
    return "1" if on else ""


def _text(raw: bytes) -> Any:
    return raw.decode("utf-8", "replace")
