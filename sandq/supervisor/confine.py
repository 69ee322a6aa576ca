"""How the children of a queue are confined beyond a process of their own: one value, sent along with each spawn."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandq.config import Limits, QueueSettings

TMP = "{tmp}"  # in `wrap`: the child's own temporary folder


@dataclass(frozen=True, slots=True)
class Confinement:
    """`limits` are those of level 1, None at level 0; `wrap` is a program that starts the child as its own."""

    limits: Limits | None = None
    wrap: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: QueueSettings) -> Confinement:
        """What a queue asks for."""
        return cls(settings.limits, settings.wrap)

    @property
    def private_tmp(self) -> bool:
        """Each child gets a temporary folder of its own."""
        return self.limits is not None or any(TMP in part for part in self.wrap)

    def prefix(self, tmp: str | None) -> list[str]:
        """What stands in front of the child's own command line."""
        if not self.wrap:
            return []
        program, *rest = (part.replace(TMP, tmp or "") for part in self.wrap)
        return [shutil.which(program) or program, *rest]

    def wish(self) -> Mapping[str, Any] | None:
        """What the launcher is asked to put on before exec; None for nothing."""
        if self.limits is None:
            return None
        rlimits = {
            "RLIMIT_NOFILE": self.limits.open_files,
            "RLIMIT_DATA": self.limits.data,
            "RLIMIT_FSIZE": self.limits.file_size,
        }
        return {"rlimits": {name: value for name, value in rlimits.items() if value is not None}}
