"""A queue, supervisors in processes of their own, and an end that jobs wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import SupervisorProcess

from sandq.queue import Queue


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as made:
        yield made


@pytest.fixture
def supervise(redis_url: str, prefix: str) -> Iterator[Callable[..., SupervisorProcess]]:
    """Start supervisors as processes; they end with the test."""
    with ExitStack() as ends:
        yield lambda **asked: ends.enter_context(SupervisorProcess(redis_url, prefix, **asked))


@pytest.fixture
def end(tmp_path: Path) -> Iterator[Path]:
    """The file that jobs wait for; there at the latest when the test is over."""
    path = tmp_path / "end"
    yield path
    path.touch()
