"""What one attempt ended as (Outcome) and what to write about it (Settlement). Closed sets of frozen values."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec


class Cause(StrEnum):
    """Why a child or an attempt died: the first word of every death certificate."""

    EXIT = "exit"
    SIGNAL = "signal"
    OOM_KERNEL = "oom-kernel"
    OOM_LIMIT = "oom-limit"
    TIMEOUT_SOFT = "timeout-soft"
    TIMEOUT_HARD = "timeout-hard"
    CANCELLED = "cancelled"
    LOCK_LOST = "lock-lost"
    PROTOCOL = "protocol"
    INIT = "init"
    LAUNCHER = "launcher"
    DRAIN = "drain"


class Death(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A death certificate: what is known of how an attempt's child ended, and how it is known. Stored as `sq_death`."""

    cause: Cause
    detail: str = ""  # one sentence for people: "exit 3 before a result", "SIGSEGV"
    exit_code: int | None = None
    signal: str | None = None
    peak_rss: int | None = None  # bytes, of the child over its whole life (rusage)
    wall_s: float | None = None  # of this attempt
    stderr: str = ""  # the last 4 KiB
    stack: str = ""  # Python stack, if one could be taken
    pid: int | None = None
    host: str = ""
    child_age_s: float | None = None
    child_jobs: int | None = None
    child_cpu_s: float | None = None  # of all its jobs and of loading: nobody measures where one job ends in it
    supervisor: str = ""
    crashes: int = 0  # the counters as they stood, since a terminal settlement clears them
    interruptions: int = 0


class Completed(msgspec.Struct, frozen=True):
    """The handler returned; `result` is one JSON text, proven so."""

    result: bytes


class Raised(msgspec.Struct, frozen=True):
    """The handler raised. `permanent`: it asked not to be tried again."""

    error: str  # "ValueError: no such page"
    traceback: str
    permanent: bool = False


class TimedOut(msgspec.Struct, frozen=True):
    """The attempt was stopped at its deadline; the child may have outlived it (soft) or not."""

    limit_s: float
    death: Death


class Crashed(msgspec.Struct, frozen=True):
    """The child ended, or had to be ended, without a final message."""

    death: Death


class Interrupted(msgspec.Struct, frozen=True):
    """Never the job's fault: our drain ran out of patience, our launcher died, or its child had not read it yet."""

    death: Death


class Cancelled(msgspec.Struct, frozen=True):
    """Somebody asked for the end of this job."""

    reason: str
    death: Death | None = None


class LockLost(msgspec.Struct, frozen=True):
    """The job is no longer ours: nothing may be written about it."""

    why: str


class Postponed(msgspec.Struct, frozen=True):
    """The handler asked to run again: after a delay, after a rate limit, or when its children are done."""

    until: Literal["delay", "limit", "children"]
    delay_s: float = 0.0


class InitFailed(msgspec.Struct, frozen=True):
    """The job was ours and could not begin: no processor was loaded for it, or there was no time or child left."""

    why: str


class UnknownName(msgspec.Struct, frozen=True):
    """The processor has no handler for this job's name."""

    known: tuple[str, ...]


class TooLarge(msgspec.Struct, frozen=True):
    """Data or result over its limit; measured, never loaded."""

    what: Literal["data", "result"]
    size: int
    limit: int


class Deferred(msgspec.Struct, frozen=True):
    """The hash carried `defa`: the job was already condemned when it was claimed."""

    reason: str


Outcome = (
    Completed
    | Raised
    | TimedOut
    | Crashed
    | Interrupted
    | Cancelled
    | LockLost
    | Postponed
    | InitFailed
    | UnknownName
    | TooLarge
    | Deferred
)


class Place(StrEnum):
    """Where a settlement puts the job."""

    COMPLETED = "completed"
    FAILED = "failed"
    WAIT = "wait"
    DELAYED = "delayed"
    CHILDREN = "waiting-children"


class Counter(StrEnum):
    """sandq's own counters in the job's hash."""

    CRASHES = "sq_crashes"
    INTERRUPTIONS = "sq_interruptions"
    UNKNOWN = "sq_unknown"


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What to write about an attempt that ended. Made by `decide`, written by settle.lua, in one call."""

    to: Place
    front: bool = False  # WAIT only: next to be taken (put back) instead of at the end (retry)
    spends_attempt: bool = True  # atm + 1
    counts: Counter | None = None  # this sandq counter + 1
    result: bytes = b"null"  # COMPLETED: the returnvalue
    reason: str | None = None  # failedReason
    stacktrace: tuple[str, ...] | None = None  # the whole new array, oldest first; None leaves it alone
    delay_s: float = 0.0  # DELAYED
    limit_s: float = 0.0  # WAIT after a rate limit: the queue's limiter is set for this long
    death: Death | None = None
