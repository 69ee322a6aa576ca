"""A private Redis or Valkey server for one run of a benchmark."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from sandq.embedded import find_server
from sandq.supervisor.kernel import die_with_parent

START_LIMIT_S = 10.0
STOP_LIMIT_S = 5.0


@contextlib.contextmanager
def private_server(folder: Path, *options: str, binary: Path | None = None) -> Iterator[str]:
    """The URL of a server on a unix socket in `folder`, without persistence, that ends with the block.

    `options` are the server's own; `binary` is the server that sandq would find itself unless said.
    """
    socket = folder / "redis.sock"
    fixed = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", "--appendonly", "no"]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [str(binary or find_server()), *fixed, *options],
            stdout=log,
            stderr=log,
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  # one thread only
        )
    try:
        _await_answer(f"unix://{socket}", process)
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait(STOP_LIMIT_S)


def _await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    with Redis.from_url(url) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(RedisError):
                client.ping()
                return
            time.sleep(0.01)
    raise RuntimeError(f"the private server did not answer within {START_LIMIT_S:g}s; see redis.log beside its socket")
