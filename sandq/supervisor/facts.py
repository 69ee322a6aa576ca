"""What a supervisor tells whoever listens: logs, the live view, tests. One frozen value per thing that happened."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class ChildReady(Struct, frozen=True, kw_only=True):
    """A child loaded its processor and can take a job."""

    queue: str
    pid: int
    load_s: float


class ChildDied(Struct, frozen=True, kw_only=True):
    """A child's process ended, expected or not."""

    queue: str
    pid: int
    how: str  # "exit 0", "SIGKILL", "unknown (launcher died)"


class Recycled(Struct, frozen=True, kw_only=True):
    """A child runs no further job and leaves; another takes its place."""

    queue: str
    pid: int
    reason: str  # "has run 100 jobs", "left 1 thread running: ..."


class Started(Struct, frozen=True, kw_only=True):
    """A claimed job was handed to a child."""

    queue: str
    job_id: str
    name: str
    attempt: int
    pid: int


class Progressed(Struct, frozen=True, kw_only=True):
    """A handler reported progress."""

    queue: str
    job_id: str
    progress_json: bytes


class Settled(Struct, frozen=True, kw_only=True):
    """An attempt ended and Redis answered: `outcome` is the Outcome's class name, `to` where the job went."""

    queue: str
    job_id: str
    name: str
    outcome: str
    to: str  # a Place, or "" when nothing was written
    word: str  # "ok", or why Redis refused: "lost", "missing", ...
    reason: str
    wall_s: float
    pid: int | None = None  # of the child that had it; None when none did


class Recovered(Struct, frozen=True, kw_only=True):
    """The stalled check put back jobs whose supervisor vanished."""

    queue: str
    job_ids: tuple[str, ...]


class ProcessorBroken(Struct, frozen=True, kw_only=True):
    """A processor could not load; its queue pauses here and tries again."""

    queue: str
    why: str
    retry_in_s: float


class StoreTrouble(Struct, frozen=True, kw_only=True):
    """Redis did not answer, or refused; what was being done goes on by itself."""

    doing: str
    why: str


class LauncherDied(Struct, frozen=True, kw_only=True):
    """The launcher ended; its children are dead with it, and a new one is being started."""

    pid: int


class Stopping(Struct, frozen=True, kw_only=True):
    """The supervisor was told to stop and claims nothing more; what still runs after `limit_s` is killed."""

    running: int
    run_on_s: dict[str, float]  # of each queue with running jobs: how long until those are asked, then made, to end
    limit_s: float


class Output(Struct, frozen=True, kw_only=True):
    """One line that a child wrote to its stdout or stderr, or logged with `job.log`."""

    queue: str
    job_id: str  # "" for what was written between two jobs, or while the processor loaded
    stream: str  # "stdout", "stderr", "log"
    line: str
    level: str = ""  # of a `logging` record or a `job.log`


class OutputLost(Struct, frozen=True, kw_only=True):
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
