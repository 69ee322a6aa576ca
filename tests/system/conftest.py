"""A queue, supervisors in processes of their own, and an end that jobs wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from harness import SupervisorProcess

from sandq.cli import main
from sandq.queue import Queue


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as made:
        yield made


@pytest.fixture
def sandq(
    redis_url: str,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., CompletedProcess[str]]:
    """Run `sandq ARGS` in this process, on the shared server and a prefix of this test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SANDQ_REDIS_URL", redis_url)
    monkeypatch.setenv("SANDQ_PREFIX", prefix)

    def run(*args: str) -> CompletedProcess[str]:
        code = main.run(args)
        out, err = capsys.readouterr()
        return CompletedProcess(args, code, out, err)

    return run


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
