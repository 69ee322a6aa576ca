"""Processes that run other people's clients for the tests: commands out, answers in, one JSON text per line."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PROCESSOR = str(FOLDER / "processor.py")  # what sandq's children run; the drivers have its twins
ANSWER_LIMIT_S = 20.0
END_LIMIT_S = 5.0


class PeerError(Exception):
    """What the other side threw, with its stack."""


class Peer:
    """One process that answers commands. An answer that does not come within the limit is an error."""

    def __init__(self, *command: str) -> None:
        """The command that starts it, in this folder."""
        self._process = subprocess.Popen(
            command, cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, do: str, **command: Any) -> Any:
        """Send one command and wait for its answer."""
        n = next(self._numbers)
        box = self._answers[n] = queue.SimpleQueue()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"n": n, "do": do, **command}) + "\n")
        self._process.stdin.flush()
        answer = box.get(timeout=ANSWER_LIMIT_S)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["value"]

    def kill(self) -> None:
        """End the process without a goodbye; returns when it is dead."""
        self._process.kill()
        self._process.wait(END_LIMIT_S)

    def close(self) -> None:
        """End the process; it ends with its stdin."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_LIMIT_S)
        self._reader.join(END_LIMIT_S)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            self._answers.pop(answer["n"]).put(answer)
        for box in self._answers.values():
            box.put({"error": f"it ended with status {self._process.wait()}"})


class PeerQueue:
    """One queue as BullMQ's own classes see it."""

    def __init__(self, peer: Peer, prefix: str, queue: str) -> None:
        self.peer, self.prefix, self.queue = peer, prefix, queue

    def ask(self, do: str, **command: Any) -> Any:
        """A command about this queue."""
        return self.peer.ask(do, prefix=self.prefix, queue=self.queue, **command)

    def call(self, method: str, *args: Any) -> Any:
        """A method of BullMQ's Queue."""
        return self.ask("queue", call=method, args=args)

    def add(self, name: str, data: Any = None, **options: Any) -> str:
        """Add a job; its id."""
        return str(self.call("add", name, {} if data is None else data, options)["id"])

    def job(self, job_id: str, method: str, *args: Any) -> Any:
        """A method of a stored Job."""
        return self.ask("job", job=job_id, call=method, args=args)

    def until(self, event: str, job_id: str | None = None, count: int = 1) -> list[dict[str, Any]]:
        """Wait until QueueEvents has told of so many events; all of them, oldest first."""
        found: list[dict[str, Any]] = self.ask("until", event=event, job=job_id, count=count)
        return found

    def result(self, job_id: str) -> Any:
        """Wait for the `completed` event and return its value."""
        return self.until("completed", job_id)[0]["returnvalue"]

    def reason(self, job_id: str) -> str:
        """Wait for the `failed` event and return its reason."""
        return str(self.until("failed", job_id)[0]["failedReason"])

    def work(self, **options: Any) -> None:
        """Start a Worker, to the end of the test."""
        self.ask("work", options=options)
