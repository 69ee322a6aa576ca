"""How a child ended."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace

UNREPORTED = "unreported"
_BY_SIGNAL = 128  # and the number of the signal: the exit code of a wrapper whose process was killed by one


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended, as the launcher saw it; `status` None when nobody could see it."""

    status: int | None
    cpu_s: float | None = None
    peak_rss: int | None = None
    why: str = ""  # why the launcher killed it, if it did: "lease" or what we asked for

    @property
    def exit_code(self) -> int | None:
        """The exit code of a process that was not killed by a signal."""
        return os.WEXITSTATUS(self.status) if self.status is not None and os.WIFEXITED(self.status) else None

    @property
    def signal(self) -> str | None:
        """The name of the signal that ended it."""
        if self.status is None or not os.WIFSIGNALED(self.status):
            return None
        try:
            return signal.Signals(os.WTERMSIG(self.status)).name
        except ValueError:
            return f"signal {os.WTERMSIG(self.status)}"

    @property
    def unwrapped(self) -> Exit:
        """How the process under a wrapper ended, which says 128 and the number for a signal that killed it."""
        if self.exit_code is None or self.exit_code <= _BY_SIGNAL:
            return self
        return replace(self, status=self.exit_code - _BY_SIGNAL)

    def __str__(self) -> str:
        if self.status is None:
            return "unknown (launcher did not report it)" if self.why == UNREPORTED else "unknown (launcher died)"
        return self.signal or f"exit {self.exit_code}"
