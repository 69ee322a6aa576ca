"""Real servers for tests: one shared per session, and one a test may stop, kill or starve."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import Proxy
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from sandq.embedded import find_server
from sandq.store.keys import QueueKeys

# A shell that runs the tests in the background has them, and what they start, ignore SIGINT; here Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

START_LIMIT_S = 10.0
STOP_LIMIT_S = 5.0


class RedisServer:
    """A private server on a unix socket in a short directory; nothing of it outlives `close`."""

    def __init__(self, *extra: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sq-", dir="/tmp"))
        self.socket = self.folder / "r.sock"
        self.url = f"unix://{self.socket}"
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start (again), with whatever data the folder holds; returns when the server answers."""
        binary = str(find_server())
        fixed = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", ""]
        debug = ["--enable-debug-command", "yes"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, *fixed, "--appendonly", "no", *debug, *self._extra], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_LIMIT_S
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except RedisConnectionError:
                    assert self._process.poll() is None, (self.folder / "log").read_text()
                    assert time.monotonic() < deadline, "the test server did not start"
                    time.sleep(0.005)
                else:
                    return

    def client(self) -> Redis:
        """A plain client whose own retries are off."""
        return Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), protocol=2)

    def pause(self) -> None:
        """Stop the process where it stands: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it without a goodbye, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_LIMIT_S)

    def close(self) -> None:
        """End it, paused or not, and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def dump_keys(client: Redis, prefix: str) -> dict[str, tuple[str, Any]]:
    """Every key that starts with `prefix`: its name without it, its type, its content."""
    readers: dict[str, Callable[[bytes], Any]] = {
        "string": client.get,
        "hash": client.hgetall,
        "list": lambda key: client.lrange(key, 0, -1),
        "set": client.smembers,
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        "stream": client.xrange,
    }
    found: dict[str, tuple[str, Any]] = {}
    for key in client.scan_iter(match=f"{prefix}*", count=1000):
        kind = bytes(client.type(key)).decode()  # type: ignore[arg-type]  # bytes, as replies are not decoded
        found[key.decode().removeprefix(prefix)] = (kind, readers[kind](key))
    return found


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A server shared by the whole session: use names of your own (`queue_name`, `prefix`) and never flush it."""
    given = os.environ.get("SANDQ_TEST_REDIS_URL")
    if given:
        yield given
        return
    server = RedisServer()
    try:
        yield server.url
    finally:
        server.close()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of this test's own: `pause`, `resume`, `kill`, `start`, or CONFIG SET through `client`."""
    own = RedisServer()
    try:
        yield own
    finally:
        own.close()


@pytest.fixture
def make_server() -> Iterator[Callable[..., RedisServer]]:
    """Make further servers of this test's own, with extra arguments for the binary."""
    made: list[RedisServer] = []

    def make(*extra: str) -> RedisServer:
        made.append(RedisServer(*extra))
        return made[-1]

    try:
        yield make
    finally:
        for own in made:
            own.close()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    """A way to `server` that can lose replies and hold back requests."""
    way = Proxy(server.socket)
    try:
        yield way
    finally:
        way.close()


_numbers = itertools.count()


@pytest.fixture
def prefix() -> str:
    """A key prefix nobody else uses, so that tests can share one server."""
    return f"t{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def queue_name() -> str:
    """A plain queue name; unique only together with `prefix`."""
    return "render"


@pytest.fixture
def keys(queue_name: str, prefix: str) -> QueueKeys:
    """The keys of this test's own queue."""
    return QueueKeys(queue_name, prefix)


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Redis]:
    """A plain client of the shared server, for looking at what was written (replies are bytes)."""
    with Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0), protocol=2) as client:
        yield client


@pytest.fixture
def dump(redis_client: Redis, prefix: str) -> Callable[..., dict[str, tuple[str, Any]]]:
    """`dump()` reads every key of this test: {"render:wait": ("list", [b"1"]), ...}; `dump("render:")` is narrower."""

    def read(under: str = "") -> dict[str, tuple[str, Any]]:
        return dump_keys(redis_client, f"{prefix}:{under}")

    return read
