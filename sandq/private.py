"""A Redis server for one test run, or one demo. It keeps nothing, and does not outlive whoever started it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import quote

from sandq.embedded import find_server
from sandq.errors import StoreUnavailable
from sandq.store.call import Read
from sandq.store.executors import SyncExecutor

START_LIMIT_S = 10.0
STOP_LIMIT_S = 5.0
# Asks the kernel for a SIGKILL at the end of its parent (prctl PR_SET_PDEATHSIG), which is the thread that started it,
# then becomes the server.
_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"


class PrivateServer:
    """A server on a unix socket in a folder of its own; ConfigError when there is no binary to start."""

    def __init__(self) -> None:
        binary = str(find_server())
        self.folder = Path(tempfile.mkdtemp(prefix="sandq-", dir="/tmp"))  # a socket's path has to be short
        address = self.folder / "redis.sock"
        self.url = f"unix://{quote(str(address))}"
        settings = ["--port", "0", "--unixsocket", str(address), "--unixsocketperm", "700", "--dir", str(self.folder)]
        start = [sys.executable, "-S", "-c", _WITH_PARENT] if sys.platform == "linux" else []
        command = [*start, binary, *settings, "--save", "", "--appendonly", "no"]
        self._parent = ThreadPoolExecutor(1, "sandq-server")  # lives as long as this object, whoever makes it
        with (self.folder / "server.log").open("wb") as log:
            # In a session of its own: Ctrl-C is meant for whoever uses it.
            start_it = partial(subprocess.Popen, command, stdout=log, stderr=log, start_new_session=True)
            self._process = self._parent.submit(start_it).result()
        self._executor = SyncExecutor(self.url, redis_timeout=START_LIMIT_S)
        try:
            self._executor.run(Read((("INFO", "server"),), bool))
        except StoreUnavailable as error:
            said = (self.folder / "server.log").read_text(encoding="utf-8", errors="replace").strip()
            self.close()
            raise StoreUnavailable(f"the private server {binary} did not start: {said[-500:] or error}") from error

    def flush(self) -> None:
        """Forget every key."""
        self._executor.run(Read((("FLUSHALL", "SYNC"),), bool))

    def close(self) -> None:
        """End the server and remove its folder."""
        self._executor.close()
        self._process.kill()
        self._process.wait(STOP_LIMIT_S)
        self._parent.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
