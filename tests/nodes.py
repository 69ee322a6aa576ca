"""Servers on loopback ports, as sentinels, replicas and clusters need them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from sandq.embedded import find_server
from sandq.store.keys import QueueKeys

START_LIMIT_S = 15.0
SLOTS = 16384


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nodes:
    """Servers that end with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running = folder, list[subprocess.Popen[bytes]]()

    def start(self, *settings: str, config: str = "", mode: tuple[str, ...] = ()) -> int:
        """Start one; its port, once it answers."""
        port = free_port()
        folder = self._folder / str(port)
        folder.mkdir()
        (folder / "conf").write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\nsave ''\n{config}")
        with (folder / "log").open("wb") as log:
            command = [str(find_server()), str(folder / "conf"), *settings, *mode]
            self._running.append(subprocess.Popen(command, stdout=log, stderr=log))
        until(lambda: client(port).ping(), "a node answers")
        return port

    def cluster(self, size: int) -> list[int]:
        """The ports of a cluster's nodes, each with an equal share of the slots."""
        ports = [self.start("--cluster-enabled", "yes", "--cluster-port", str(free_port())) for _ in range(size)]
        bounds = [SLOTS * n // size for n in range(size + 1)]
        for n, port in enumerate(ports):
            client(port).execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
        for port in ports[1:]:
            bus = client(port).config_get("cluster-port")["cluster-port"]
            client(ports[0]).execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        for port in ports:
            until(lambda port=port: _complete(port, size), "the cluster is up")
        return ports

    def close(self) -> None:
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait(5)


def _complete(port: int, size: int) -> bool:
    info = client(port).cluster("info")
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == size)


def client(port: int) -> Any:
    return Redis(host="127.0.0.1", port=port, protocol=2, decode_responses=True)


def until(holds: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            if holds():
                return
        except RedisError:
            pass
        assert time.monotonic() < deadline, f"waited too long until {what}"
        time.sleep(0.01)


def holder(ports: list[int], keys: QueueKeys) -> int:
    """The port of the node that has the queue's slot."""
    slot = client(ports[0]).cluster("keyslot", keys.base)
    slots = client(ports[0]).execute_command("CLUSTER", "SLOTS")
    return int(next(owner[1] for first, last, owner, *_ in slots if first <= slot <= last))


def redirected(port: int) -> int:
    """How often the node answered that a call belongs elsewhere or must come back later."""
    stats = client(port).info("errorstats")
    return sum(int(stats.get(f"errorstat_{word}", {"count": 0})["count"]) for word in ("ASK", "TRYAGAIN"))


@contextmanager
def moving(source: int, target: int, keys: QueueKeys) -> Iterator[None]:
    """A slot on its way from one node to another; its keys arrive at the end."""
    old, new = client(source), client(target)
    slot, names = old.cluster("keyslot", keys.base), {port: client(port).cluster("myid") for port in (source, target)}
    new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    yield
    held = old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    old.execute_command("MIGRATE", "127.0.0.1", target, "", 0, 5000, "KEYS", *held)
    for node in (new, old):
        node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
