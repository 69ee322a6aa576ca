"""The one error family. A class stands here only when somebody catches it."""

from __future__ import annotations


class SandqError(Exception):
    """Whatever sandq raises on purpose; the message says who, what and what to do next."""


class ConfigError(SandqError):
    """A setting, flag or file is wrong; nothing was started."""


class StartRefused(SandqError):  # noqa: N818
    """The supervisor will not run on this Redis or host; the message holds the fix."""


class StoreUnavailable(SandqError):  # noqa: N818
    """Redis did not answer within `redis_timeout`. For a write: the outcome is unknown."""


class StoreRefused(SandqError):  # noqa: N818
    """Redis answered with an error before anything was written (wrong type, missing permission, out of memory)."""


class QueueError(SandqError):
    """A queue operation was refused: bad name, bad option, data that is not JSON, a reserved id."""


class JobNotFound(QueueError):  # noqa: N818
    """No job with this id is in the queue."""


class SchedulerNotFound(QueueError):  # noqa: N818
    """No scheduler with this id is in the queue."""


class WrongState(QueueError):  # noqa: N818
    """The job or the queue is not in a state in which this can be done to it, or no longer."""


class JobFailed(QueueError):  # noqa: N818
    """The job that was waited for ended as failed; the message is its failedReason."""


class ResultTimeout(QueueError):  # noqa: N818
    """The job that was waited for has not ended within the given time."""


class ProtocolError(SandqError):
    """Bytes between supervisor and child break the protocol; the connection cannot be used again."""


class ProcessorError(SandqError):
    """A processor could not be loaded: missing file, syntax error, no such function."""


class UnrecoverableError(SandqError):
    """Raised by a handler: fail the job now, whatever attempts are left."""


class SoftTimeout(BaseException):
    """Raised inside a handler at its deadline; a BaseException, so `except Exception` does not swallow it."""
