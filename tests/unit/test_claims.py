"""When a queue is asked for jobs again."""

from __future__ import annotations

import pytest

from sandq.store.work import Claimed
from sandq.supervisor.claims import DUE_WAIT_S, IDLE_WAIT_S, wait_after


@pytest.mark.parametrize(
    ("claimed", "wait_s"),
    [
        (Claimed((), None, ""), 0.0),  # every child got its job: there may be more
        (Claimed((), None, "empty"), IDLE_WAIT_S),
        (Claimed((), 0, "empty"), 0.0),
        (Claimed((), 700, "empty"), 0.7),
        (Claimed((), 3_600_000, "limited"), DUE_WAIT_S),
        (Claimed((), None, "paused"), IDLE_WAIT_S),
    ],
)
def test_the_next_claim_waits_until_something_is_due_and_not_for_long(claimed: Claimed, wait_s: float) -> None:
    assert wait_after(claimed) == wait_s
