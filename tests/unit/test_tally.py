"""The figures of a queue in the live view and in `sandq status`."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sandq.cli.live import COLUMNS, LiveView
from sandq.config import QueueSettings
from sandq.supervisor.facts import Settled
from sandq.supervisor.tally import Tally

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
POOL = SimpleNamespace(ready=2, starting=0, breaker=SimpleNamespace(why=None, retry_in_s=None))
IDLE: Any = SimpleNamespace(running={}, pool=POOL)


def shown(*ends: tuple[str, str]) -> dict[str, Any]:
    """What is shown after these ends of runs: outcome, and where the job went."""
    tally = Tally()
    for outcome, to in ends:
        tally.hear(
            Settled(queue="q", job_id="1", name="n", outcome=outcome, to=to, word="ok", reason="", wall_s=0.1, pid=1)
        )
    return tally.show("q", IDLE, QueueSettings())


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([("Crashed", "wait"), ("Crashed", "delayed"), ("Crashed", "failed")], (0, 1, 2, 3)),
        ([("Raised", "delayed"), ("Interrupted", "wait"), ("Completed", "completed")], (1, 0, 2, 0)),
        ([("Raised", "failed"), ("Cancelled", "failed")], (0, 2, 0, 0)),
        ([("LockLost", "")], (0, 0, 0, 0)),
    ],
)
def test_a_run_counts_where_its_job_went_and_a_crash_beside_that(ends: Any, expected: tuple[int, ...]) -> None:
    told = shown(*ends)
    assert tuple(told[column] for column in ("completed", "failed", "retried", "crashed")) == expected


def test_the_live_view_has_a_column_for_each_and_the_docs_say_what_it_counts() -> None:
    console = Console(width=120, file=StringIO())
    console.print(LiveView("sandq").draw({"queues": {"q": shown(("Crashed", "failed"))}}))
    assert isinstance(console.file, StringIO)
    drawn = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["queue", *COLUMNS, "processor"] in drawn
    assert ["q", "0", "2", "0", "0", "1", "0", "1", "ok"] in drawn
    section = PAGE.split("## The live view\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(COLUMNS)
