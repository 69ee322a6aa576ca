"""The steps of an errand."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from sandq.store.call import Call, Read

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Listen:
    """Wait for an event that tells the job's end; the answer is its Ending, or None when it is time to look again."""

    job_id: str


Step = Call[Any] | Read[Any]
Errand = Generator[Step, Any, R]
Waiting = Generator[Step | Listen, Any, R]  # an errand that may also listen
