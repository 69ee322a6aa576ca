"""What the harness has to know of a system under test, and where its programs are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.speed.spec import Jobs, Spec

if TYPE_CHECKING:
    from redis import Redis

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NODE = HERE / "node"
REQUIREMENTS = HERE / "requirements"
VERSION_LIMIT_S = 20.0

Ended = Callable[["Redis", str, int], int]  # (client, queue, jobs added to it so far) -> how many will not run again


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system: how its workers are started, its jobs added, and their end seen in the server."""

    name: str
    program: str  # a module for the peer's Python, or a file for Node
    package: str  # whose version is told; "" for what comes with this repository
    settings: str  # how it is run, for people
    isolated: str  # whether a handler has a process of its own
    ended: Ended
    flavour: str = ""
    peer: str = ""  # which installation it uses; its name unless said
    process_per_handler: bool = False  # else one process serves all handlers
    jobs: int = 20_000  # no-op jobs in one throughput run: a second or two, after which nothing is cold any more
    takes_lock: bool = False  # whether its lock time can be set

    @property
    def is_node(self) -> bool:
        """Whether its programs are JavaScript."""
        return self.program.endswith(".mjs")

    @property
    def python(self) -> Path:
        """The Python its programs run on."""
        return peers_folder() / (self.peer or self.name) / "bin" / "python" if self.package else Path(sys.executable)

    def spec(self, url: str, queue: str, **options: int | float | None) -> Spec:
        """The queue as this system serves it."""
        return Spec(url=url, queue=queue, flavour=self.flavour, **options)  # type: ignore[arg-type]

    def workers(self, spec: Spec) -> int:
        """How many processes to start."""
        return spec.handlers if self.process_per_handler else 1

    def work_command(self, spec: Spec) -> list[str]:
        """One worker process."""
        return [*self._program(), "work", spec.to_json()]

    def add_command(self, spec: Spec, jobs: Jobs) -> list[str]:
        """The producer."""
        return [*self._program(), "add", spec.to_json(), jobs.to_json()]

    def _program(self) -> list[str]:
        if self.is_node:
            return [shutil.which("node") or "node", str(NODE / self.program)]
        return [str(self.python), "-m", self.program]

    @property
    def how_to_install(self) -> str:
        """The command that brings it."""
        if self.is_node:
            return f"npm ci --prefix {NODE.relative_to(ROOT)}"
        return f"python -m benchmarks.speed install {self.peer or self.name}"

    def version(self) -> str | None:
        """The installed version; None when it is not installed."""
        if not self.package:
            return "this repository"
        if self.is_node:
            about = NODE / "node_modules" / self.package / "package.json"
            found = about.exists() and shutil.which("node")
            return str(json.loads(about.read_text(encoding="utf-8"))["version"]) if found else None
        if not self.python.exists():
            return None
        asked = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        command = [str(self.python), "-c", asked]
        done = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_LIMIT_S, check=False)
        return done.stdout.strip() or None


def peers_folder() -> Path:
    """Where peers have a virtual environment each, since what they require of each other's libraries contradicts."""
    return Path(os.environ.get("SPEED_PEERS") or ROOT / "build" / "peers")


def install(peer: str) -> None:
    """Give a peer its virtual environment; CalledProcessError when that does not work."""
    folder = peers_folder() / peer
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    wanted = str(REQUIREMENTS / f"{peer}.txt")
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", "--requirement", wanted], check=True)
