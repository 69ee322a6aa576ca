"""What a supervisor tells whoever listens: logs, the live view, tests. One frozen value per thing that happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildReady:
    """A child loaded its processor and can take a job."""

    queue: str
    pid: int
    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildDied:
    """A child's process ended, expected or not."""

    queue: str
    pid: int
    how: str  # "exit 0", "SIGKILL", "unknown (launcher died)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycled:
    """A child runs no further job and leaves; another takes its place."""

    queue: str
    pid: int
    reason: str  # "has run 100 jobs", "left 1 thread running: ..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A claimed job was handed to a child."""

    queue: str
    job_id: str
    name: str
    attempt: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """A handler reported progress."""

    queue: str
    job_id: str
    progress_json: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An attempt ended and Redis answered: `outcome` is the Outcome's class name, `to` where the job went."""

    queue: str
    job_id: str
    name: str
    outcome: str
    to: str  # a Place, or "" when nothing was written
    word: str  # "ok", or why Redis refused: "lost", "missing", ...
    reason: str
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The stalled check put back jobs whose supervisor vanished."""

    queue: str
    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorBroken:
    """A processor could not load; its queue pauses here and tries again."""

    queue: str
    why: str
    retry_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTrouble:
    """Redis did not answer, or refused; what was being done goes on by itself."""

    doing: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherDied:
    """The launcher ended; its children are dead with it, and a new one is being started."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """The supervisor was told to stop, claims nothing more, and lets running jobs end within `limit_s`."""

    running: int
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One line that a child wrote to its stdout or stderr, or logged with `job.log`."""

    queue: str
    job_id: str  # "" for what was written between two jobs, or while the processor loaded
    stream: str  # "stdout", "stderr", "log"
    line: str
    level: str = ""  # of a `logging` record or a `job.log`


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLost:
    """The file of a job's output cannot be written; the job does not notice."""

    queue: str
    job_id: str
    why: str


Fact = (
    ChildReady
    | ChildDied
    | Recycled
    | Started
    | Progressed
    | Settled
    | Recovered
    | ProcessorBroken
    | StoreTrouble
    | LauncherDied
    | Stopping
    | Output
    | OutputLost
)
Listener = Callable[[Fact], None]
