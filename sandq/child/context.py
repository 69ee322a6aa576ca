"""The `job` that a handler is given. Everything it can do becomes one frame to the supervisor."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from sandq.child.channel import Channel
from sandq.child.encode import to_json
from sandq.errors import QueueError
from sandq.protocol import MAX_LOG_LINE, Frame, Kind

_from_json = json.JSONDecoder().raw_decode


class PostponeJob(BaseException):
    """Leaves the handler on its own wish. A BaseException, so that `except Exception` does not swallow it."""

    def __init__(self, until: str, delay_s: float = 0.0) -> None:
        super().__init__(f"the handler asked to run again (until: {until})")
        self.until = until
        self.delay_s = delay_s


class JobContext:
    """One attempt of one job, as its handler sees it."""

    def __init__(self, channel: Channel, frame: Frame, max_data: int) -> None:
        _, nonce, head, data = frame
        self._channel = channel
        self._nonce = nonce
        self._requests = 0
        self._max_data = max_data
        self.id: str = head["id"]
        self.name: str = head["name"]
        self.data: Any = _parsed(data)
        self.attempt: int = head.get("attempt", 1)  # 1 on the first run
        self.crashes: int = head.get("crashes", 0)
        self.fence: int = head["fence"]  # grows with every run of this job: guard side effects with it
        self.parent: str | None = head.get("parent")
        self.timestamp: int = head["timestamp"]  # ms since the epoch, when the job was added

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.name!r} attempt {self.attempt}>"

    @property
    def cancelled(self) -> bool:
        """Somebody asked for the end of this job."""
        return self._stop_kind == "cancel"

    @property
    def draining(self) -> bool:
        """The supervisor is shutting down and wants its child back."""
        return self._stop_kind == "drain"

    @property
    def _stop_kind(self) -> str:
        return "" if self._channel.stop is None else str(self._channel.stop.head.get("kind", ""))

    def progress(self, value: Any) -> None:
        """Publish how far the job is: a number or any JSON value. TypeError/ValueError when it is not JSON."""
        self._send(Kind.PROGRESS, {}, self._bounded(to_json(value)))

    def log(self, line: object, level: str = "INFO") -> None:
        """Append one line to the job's log in Redis; cut at 8 KiB."""
        text = str(line).encode("utf-8", "backslashreplace")[:MAX_LOG_LINE]
        self._send(Kind.LOG, {"level": level}, text.decode("utf-8", "ignore").encode())

    def update_data(self, data: Any) -> None:
        """Replace the job's data, now and for later runs; TypeError or ValueError if it is no JSON or too big."""
        self._send(Kind.DATA, {}, self._bounded(to_json(data)))
        self.data = data

    def child_values(self) -> dict[str, Any]:
        """Return values of this job's completed children, by job key."""
        return dict(json.loads(self._ask("values")))

    def child_failures(self) -> dict[str, str]:
        """Why those children failed that this job may do without (`on_failure` ignore or continue), by job key."""
        return dict(json.loads(self._ask("failures")))

    def add(
        self,
        name: str,
        data: Any = None,
        queue: str | None = None,
        *,
        child: bool = False,
        on_failure: str = "wait",
        **opts: Any,
    ) -> str:
        """Add a job through the supervisor and return its id.

        `queue` must be allowed by the configuration (`add_to`); None is this job's own. With `child` the new job
        becomes a child of this one, and `on_failure` says what its failure does to this one. Options are those of
        `Queue.add`. Raises QueueError when it was refused.
        """
        if child:
            opts["on_failure"] = on_failure
        elif on_failure != "wait":
            raise QueueError(f"on_failure={on_failure!r} is for children; give child=True, too")
        opts = {key: value.total_seconds() if isinstance(value, timedelta) else value for key, value in opts.items()}
        head = {"queue": queue, "name": name, "child": child, "opts": opts}
        return str(json.loads(self._answer(Kind.ADD, head, self._bounded(to_json(data)))))

    def retry_later(self, delay: float | str | timedelta) -> None:
        """Leave the handler now and run again after `delay` (seconds, or text like `5s`); spends no attempt."""
        raise PostponeJob("delay", _seconds(delay))

    def rate_limit(self, delay: float | str | timedelta) -> None:
        """Leave the handler now; the whole queue waits for `delay`, then this job is the first to run."""
        raise PostponeJob("limit", _seconds(delay))

    def wait_for_children(self) -> None:
        """Leave the handler until all children have ended, then run it again; returns at once when none is pending."""
        if json.loads(self._ask("pending")):
            raise PostponeJob("children")

    def _bounded(self, body: bytes) -> bytes:
        if len(body) > self._max_data:
            raise ValueError(f"{len(body)} bytes of JSON; a job may hold {self._max_data} (max_data)")
        return body

    def _send(self, kind: Kind, head: dict[str, Any], body: bytes) -> None:
        self._channel.send(Frame(kind, self._nonce, head, body))

    def _ask(self, what: str) -> bytes:
        return self._answer(Kind.ASK, {"what": what}, b"")

    def _answer(self, kind: Kind, head: dict[str, Any], body: bytes) -> bytes:
        self._requests += 1
        self._send(kind, head | {"request": self._requests}, body)
        answer = self._channel.receive()
        # A stop may have cut an earlier question short; its answer still comes and is not this one's.
        while answer.nonce != self._nonce or answer.head.get("request") != self._requests:
            answer = self._channel.receive()
        if error := answer.head.get("error"):
            raise QueueError(str(error))
        return answer.body


def _parsed(data: bytes) -> Any:
    """What `json.loads` makes of it, without a guess at its encoding where it is plain UTF-8 with nothing around it."""
    try:
        text = data.decode()
        value, end = _from_json(text)
    except ValueError:
        return json.loads(data)
    return value if end == len(text) else json.loads(data)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: float | str | timedelta) -> float:
    """`sandq.units.seconds` for a process that imports nothing of sandq but the protocol."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        number = value.rstrip("abcdefghijklmnopqrstuvwxyz")
        return float(number) * _UNITS[value[len(number) :] or "s"]
    return float(value)
