"""A proxy between a client and its server that loses, holds back or delays exactly what a test names."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from pathlib import Path

WAIT_LIMIT_S = 5.0


class Proxy:
    """Forwards every connection to a unix socket; a fault is armed for the next request that holds given bytes."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._folder = Path(tempfile.mkdtemp(prefix="sq-", dir="/tmp"))
        self._lock = threading.Lock()
        self._armed: list[tuple[str, bytes]] = []
        self._held: list[tuple[socket.socket, bytes]] = []
        self._open: list[socket.socket] = []
        self.happened = threading.Event()
        path = self._folder / "p.sock"
        self.url = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_reply(self, of: bytes, times: int = 1) -> None:
        """The next requests with `of` are carried out; instead of the reply the connection closes."""
        self._arm("lose", of, times)

    def hold_request(self, of: bytes) -> None:
        """The next request with `of` stays here until `release`, whoever has given up on it meanwhile."""
        self._arm("hold", of, 1)

    def hold_reply(self, of: bytes) -> None:
        """The next request with `of` is carried out, and its reply never delivered: the connection stays open."""
        self._arm("silence", of, 1)

    def release(self) -> None:
        """Deliver the held requests to the server; returns when it has answered each."""
        for upstream, data in self._held:
            answered = threading.Event()
            with contextlib.suppress(OSError):
                upstream.settimeout(WAIT_LIMIT_S)
                upstream.sendall(data)
                assert upstream.recv(65536)
                answered.set()
            assert answered.is_set(), "the server did not take a released request"
        self._held.clear()

    def wait(self) -> None:
        """Until an armed fault happened."""
        assert self.happened.wait(WAIT_LIMIT_S), "the armed request never came"
        self.happened.clear()

    def close(self) -> None:
        self._listener.close()
        for each in self._open:
            _shut(each)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _arm(self, fault: str, of: bytes, times: int) -> None:
        self.happened.clear()
        with self._lock:
            self._armed += [(fault, of)] * times

    def _fault_for(self, data: bytes) -> str:
        with self._lock:
            for armed in self._armed:
                if armed[1] in data:
                    self._armed.remove(armed)
                    return armed[0]
        return ""

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.socket(socket.AF_UNIX)
                upstream.connect(str(self._upstream))
                self._open += [client, upstream]
                threading.Thread(target=self._serve, args=(client, upstream), daemon=True).start()

    def _serve(self, client: socket.socket, upstream: socket.socket) -> None:
        """One request, one reply: enough for clients that never send ahead of a reply."""
        try:
            while data := client.recv(1 << 20):
                fault = self._fault_for(data)
                if fault == "hold":
                    self._held.append((upstream, data))
                    self.happened.set()
                    client.recv(1)  # the client gives up
                    return
                upstream.sendall(data)
                reply = upstream.recv(1 << 20)
                if fault:
                    self.happened.set()
                if fault == "silence":
                    client.recv(1)
                if fault or not reply:
                    return
                client.sendall(reply)
        except OSError:
            return
        finally:
            _shut(client)
            if all(upstream is not held for held, _ in self._held):
                _shut(upstream)


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
