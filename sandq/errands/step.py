"""The steps of an errand."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from sandq.store.call import Call, Read

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Listen:
    """Wait for events after `since`; the answer is a list of them, empty when none came for a while."""

    since: str


Step = Call[Any] | Read[Any]
Errand = Generator[Step, Any, R]
Waiting = Generator[Step | Listen, Any, R]  # an errand that may also listen
