"""One entry of a queue's event stream. Anybody may write there, so reading one never fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class NotJson(str):
    """Text that stands where JSON was due, as it was found: what somebody wrote who is not sandq."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a queue. `fields` are BullMQ's, as text; the properties read what has a type."""

    id: str  # of the stream entry: "1700000000000-0", milliseconds of Redis' clock and a counter
    fields: Mapping[str, str] = field(default_factory=dict)
    after_gap: bool = False  # events may be missing between the one before and this one

    @property
    def name(self) -> str:
        """What happened: "completed", "failed", "progress", ..., or a name somebody published."""
        return self.fields.get("event", "")

    @property
    def job_id(self) -> str | None:
        """The job it happened to; None for what happens to the whole queue."""
        return self.fields.get("jobId")

    @property
    def timestamp(self) -> int:
        """When it happened, in milliseconds since 1970 by Redis' clock."""
        return int(self.id.partition("-")[0])

    @property
    def returnvalue(self) -> Any:
        """What the handler of a completed job returned; NotJson when the text is none, None for other events."""
        return self._value("completed", "returnvalue")

    @property
    def progress(self) -> Any:
        """What a job reported as its progress; NotJson when the text is none, None for other events."""
        return self._value("progress", "data")

    @property
    def failed_reason(self) -> str | None:
        """Why a job failed; None for other events."""
        return self.fields.get("failedReason") if self.name == "failed" else None

    @property
    def due(self) -> int | None:
        """When a delayed job may run, in milliseconds since 1970 (BullMQ's `delay`); None for other events."""
        try:
            return int(float(self.fields["delay"])) if self.name == "delayed" else None
        except (KeyError, ValueError, OverflowError):
            return None

    def _value(self, name: str, of: str) -> Any:
        if self.name != name or of not in self.fields:
            return None
        try:
            return json.loads(self.fields[of])
        except (ValueError, RecursionError):
            return NotJson(self.fields[of])
