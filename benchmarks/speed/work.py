"""The handlers, the same for every Python system. Little is imported: a child's memory is one of the things measured.

Every job's data says what to do: nothing, so much computing, or noting when it runs.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

HOLD_LIMIT_S = 120.0  # a held job waits to be killed with its worker; nobody waits for ever


def process(job: Any) -> bool:
    """Run as a sandq processor."""
    return run(job.data)


def run(data: Mapping[str, Any]) -> bool:
    """Do what `data` says. True, since some systems store no result that is None or false."""
    kind = data["kind"]
    if kind == "spin":
        spin(data["turns"])
    elif kind != "noop":
        _noting(kind, data, time.monotonic())
    return True


def spin(turns: int) -> int:
    """Turn so often in pure Python: the same work on whatever system, however long it is kept from a core."""
    total = 0
    for turn in range(turns):
        total += turn
    return total


def turns_per_ms(tries: int = 7) -> int:
    """How often `spin` turns in a millisecond of an idle core: the best of some tries of about 20 ms."""
    turns, best = 400_000, 0.0
    for _ in range(tries):
        started = time.perf_counter()
        spin(turns)
        best = max(best, turns / (time.perf_counter() - started))
    return int(best / 1000)


def _noting(kind: str, data: Mapping[str, Any], now: float) -> None:
    journal, number = data["journal"], data["n"]
    if kind == "stamp":
        write(journal, event="start", n=number, sent=data["sent"], at=now)
    elif _is_first(f"{journal}.{number}"):
        write(journal, event="first", n=number, pid=os.getpid(), at=time.monotonic())
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(HOLD_LIMIT_S)
    else:
        write(journal, event="again", n=number, pid=os.getpid(), at=now)


def _is_first(mark: str) -> bool:
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def write(journal: str, **event: Any) -> None:
    """Append one event; one write with O_APPEND, so that lines of several processes do not mix."""
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, (json.dumps(event) + "\n").encode())
    finally:
        os.close(file)
