"""What happened in a cell: one JSON line per event, appended by handlers and workers of all systems to one file.

A file and not Redis, because a sandq child has no connection to it, and what is measured must not depend on it.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Journal:
    """One file that any number of processes append to."""

    path: Path

    def write(self, event: str, **about: Any) -> None:
        """Append an event, stamped with the clock that all processes of the machine share."""
        line = json.dumps({"event": event, "at": time.monotonic(), **about}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())  # one write with O_APPEND: lines of several processes do not mix
        finally:
            os.close(file)

    def read(self) -> list[dict[str, Any]]:
        """All events so far, in the order in which they were written."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="ascii").splitlines()]


def count_starts(events: Sequence[dict[str, Any]]) -> int:
    """How often a handler began to run."""
    return sum(event["event"] == "start" for event in events)


def count_overlaps(events: Sequence[dict[str, Any]]) -> int:
    """How often a handler began to run while an earlier run of the same job provably went on: it ended later.

    A run that was killed wrote no end. It is not counted, since nobody can tell from here when it stopped.
    """
    starts: defaultdict[str, list[float]] = defaultdict(list)
    spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    open_runs: dict[tuple[str, int], float] = {}
    for event in events:
        if event["event"] == "start":
            starts[event["job"]].append(event["at"])
            open_runs[event["job"], event["pid"]] = event["at"]
        elif event["event"] == "end":
            spans[event["job"]].append((open_runs.pop((event["job"], event["pid"])), event["at"]))
    return sum(any(began < at < ended for began, ended in spans[job]) for job in starts for at in starts[job])
