"""A way to a server on which anything can go wrong that goes wrong on networks, by script, by share, or all at once.

It reads the commands that pass: a rule names a script ("claim") or a command ("BZPOPMIN") and says what becomes of its
request or reply. What is random comes from one seed.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import hiredis

from sandq.store.script import load_all

WAIT_LIMIT_S = 5.0

Action = Literal[
    "pass",
    "drop-request",  # never arrives; the connection closes
    "drop-reply",  # is carried out; the connection closes instead of the reply
    "half-open",  # never arrives, and nothing is ever said: the connection stays open
    "silence",  # is carried out, and nothing is ever said
    "hold",  # stays here until `release`, whoever has given up on it meanwhile
    "cut",  # the first half of the reply, then the connection closes
    "drip",  # the reply in pieces of a few bytes
    "delay",  # the reply comes late
]
FOREVER = -1
DELAY_S = 0.15
DRIP_BYTES, DRIP_S = 7, 0.0005


@dataclass(slots=True)
class Rule:
    """What to do to requests for one script or command ("" for any)."""

    action: Action
    of: str
    left: int
    share: float = 1.0


@dataclass(slots=True, eq=False)
class _Way:
    """One connection through the proxy."""

    client: socket.socket
    upstream: socket.socket
    action: Action = "pass"  # what happens to the reply to the last request
    names: deque[str] = field(default_factory=deque)  # of the commands that were not answered yet
    answered: threading.Event = field(default_factory=threading.Event)  # a held request was, after its release

    def shut(self) -> None:
        for each in (self.client, self.upstream):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class ChaosProxy:
    """A way to a unix socket on which rules say what becomes of each script's requests and replies. Seeded."""

    def __init__(self, upstream: Path, seed: int = 0) -> None:
        self._upstream = upstream
        self._folder = Path(tempfile.mkdtemp(prefix="sq-", dir="/tmp"))
        self._news = threading.Condition()
        self._rng = random.Random(seed)
        self._rules: list[Rule] = []
        self._ways: set[_Way] = set()
        self._held: list[tuple[_Way, bytes]] = []
        self._through = threading.Event()
        self._through.set()
        self._refusing = self._closed = False
        # (action, script or command): how often. A fault counts when it is chosen, "pass" when the reply is delivered.
        self.seen: Counter[tuple[str, str]] = Counter()
        path = self._folder / "p.sock"
        self.url = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    # -- what a test says ----------------------------------------------------------------------------------------------

    def fault(self, action: Action, of: str, times: int = 1) -> None:
        """From now on do this to the next `times` requests for a script (or command)."""
        with self._news:
            self._rules.append(Rule(action, of, times))

    def chaos(self, shares: Mapping[Action, float]) -> None:
        """From now on do these to any request, each to its share of them."""
        with self._news:
            self._rules += [Rule(action, "", FOREVER, share) for action, share in shares.items()]

    def calm(self) -> None:
        """Forget every rule."""
        with self._news:
            self._rules.clear()

    def partition(self) -> None:
        """Nothing gets through, in either direction; connections stay open, and new ones open."""
        self._through.clear()

    def heal(self) -> None:
        """Undo `partition` and `refuse`; what was sent meanwhile arrives now, whoever has given up on it."""
        self._refusing = False
        self._through.set()

    def refuse(self) -> None:
        """Close every connection, and every new one at once."""
        self._refusing = True
        self.cut_all()

    def cut_all(self) -> None:
        """Close every connection."""
        with self._news:
            for way in self._ways:
                way.shut()

    def switch(self, upstream: Path) -> None:
        """Lead to another server from now on."""
        with self._news:
            self._upstream = upstream
            self.cut_all()

    def release(self, limit_s: float = WAIT_LIMIT_S) -> int:
        """Deliver the held requests; how many the server has answered."""
        with self._news:
            held, self._held = self._held, []
        for way, data in held:
            way.upstream.sendall(data)
            assert way.answered.wait(limit_s), "the server did not take a released request"
        return len(held)

    def wait(self, action: Action, of: str, more: int = 1, limit_s: float = 20.0) -> None:
        """Until this was done `more` times from now on."""
        with self._news:
            target = self.seen[action, of] + more
            self._wait(action, of, target, limit_s)

    def wait_total(self, action: Action, of: str, target: int = 1, limit_s: float = 20.0) -> None:
        """Until this was done `target` times in all."""
        with self._news:
            self._wait(action, of, target, limit_s)

    def _wait(self, action: Action, of: str, target: int, limit_s: float) -> None:
        came = self._news.wait_for(lambda: self.seen[action, of] >= target, limit_s)
        assert came, f"no {action} of {of} within {limit_s:g}s; seen: {dict(self.seen)}"

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self._through.set()
        self.cut_all()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- what it does --------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as upstream:
            self._through.wait()
            way = _Way(client, upstream)
            with contextlib.suppress(OSError):
                if self._refusing or self._closed:
                    return
                with self._news:  # a switch that came in between would leave this one on its way to the old server
                    upstream.connect(str(self._upstream))
                    self._ways.add(way)
                back = threading.Thread(target=self._carry_replies, args=(way,), daemon=True)
                back.start()
                try:
                    self._carry_requests(way)
                finally:
                    if way.action != "hold":  # it needs its way to the server until it is released
                        way.shut()
                    back.join()
                    with self._news:
                        self._ways.discard(way)

    def _carry_requests(self, way: _Way) -> None:
        reader = hiredis.Reader()
        while data := way.client.recv(1 << 16):
            reader.feed(data)
            commands = list(_commands(reader))
            if not commands:
                continue
            packed = b"".join(hiredis.pack_command(tuple(command)) for command in commands)
            names = [name_of(command) for command in commands]
            way.action = self._choose(names)
            self._through.wait()
            match way.action:
                case "drop-request":
                    return
                case "half-open":
                    continue
                case "hold":
                    with self._news:
                        self._held.append((way, packed))
                    way.client.recv(1)  # the client gives up
                    return
            way.names += names
            way.upstream.sendall(packed)

    def _carry_replies(self, way: _Way) -> None:
        reader = hiredis.Reader()
        with contextlib.suppress(OSError):
            while data := way.upstream.recv(1 << 16):
                self._through.wait()
                reader.feed(data)
                answered = [name for reply in iter(reader.gets, False) if (name := _answered(way, reply))]
                match way.action:
                    case "drop-reply":
                        break
                    case "hold":
                        way.answered.set()
                        break
                    case "silence":
                        continue
                    case "cut":
                        way.client.sendall(data[: max(1, len(data) // 2)])
                        break
                    case "drip":
                        for start in range(0, len(data), DRIP_BYTES):
                            way.client.sendall(data[start : start + DRIP_BYTES])
                            time.sleep(DRIP_S)
                        continue
                    case "delay":
                        time.sleep(DELAY_S)
                way.client.sendall(data)
                with self._news:
                    self._note("pass", answered)
        way.shut()

    def _choose(self, names: list[str]) -> Action:
        with self._news:
            for rule in self._rules:
                if rule.of not in ("", *names) or self._rng.random() >= rule.share:
                    continue
                rule.left -= 1
                if rule.left == 0:
                    self._rules.remove(rule)
                self._note(rule.action, names)
                return rule.action
        return "pass"

    def _note(self, action: Action, names: list[str]) -> None:
        for name in names:
            self.seen[action, name] += 1
        self._news.notify_all()


def _answered(way: _Way, reply: object) -> str:
    """The name of the command that was answered; "" when it will be asked again, or nobody asked."""
    name = way.names.popleft() if way.names else ""
    return "" if "NOSCRIPT" in str(reply) else name


def _commands(reader: hiredis.Reader) -> Iterator[list[bytes]]:
    while (command := reader.gets()) is not False:
        yield command


def name_of(command: list[bytes]) -> str:
    """A script call's script, else the command."""
    word = command[0].decode().upper()
    return _scripts().get(command[1].decode(), "?") if word == "EVALSHA" else word


@cache
def _scripts() -> dict[str, str]:
    return {script.sha: script.name for script in load_all()}
