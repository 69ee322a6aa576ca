"""How long a failed attempt waits before the next one. Pure: the caller brings the random numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sandq.errors import ConfigError, QueueError
from sandq.units import Duration, seconds

Kind = Literal["fixed", "exponential"]

# Doubling has to end somewhere. A year, because a delayed job's score is its due time * 4096 and stays an exact
# integer (below 2^53) for any time until September 2039: with this bound no retry written before 2038 can pass it.
LONGEST_MS = 365 * 24 * 3600 * 1000

_WANTED = "write it like exponential:1s, fixed:500ms or 5s"


@dataclass(frozen=True, slots=True)
class Backoff:
    """A rule for the delay before each retry; `jitter` 0..1 is the part of the delay that is drawn at random."""

    type: Kind
    base_ms: int
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.type not in ("fixed", "exponential"):
            raise QueueError(f"backoff type {self.type!r} is not known; use fixed or exponential")
        if not 0 <= self.base_ms <= LONGEST_MS:
            raise QueueError(f"backoff delay {self.base_ms} ms is out of range; use 0 to 365 days")
        if not 0 <= self.jitter <= 1:
            raise QueueError(f"backoff jitter {self.jitter!r} is out of range; use 0 to 1")

    @classmethod
    def parse(cls, value: Backoff | Duration | Mapping[str, Any]) -> Backoff:
        """A backoff from `exponential:1s`, from a bare duration (fixed) or from BullMQ's dict; QueueError otherwise."""
        if isinstance(value, Backoff):
            return value
        if isinstance(value, Mapping):
            return _parse_mapping(value)
        kind, colon, delay = value.partition(":") if isinstance(value, str) else ("", "", "")
        if not colon:
            return cls("fixed", _milliseconds(value))
        if kind not in ("fixed", "exponential"):
            raise QueueError(f"backoff {value!r} has an unknown type {kind!r}; {_WANTED}")
        return cls("fixed" if kind == "fixed" else "exponential", _milliseconds(delay))

    @classmethod
    def from_opts(cls, opts: Mapping[str, Any]) -> Backoff | None:
        """The backoff of a stored job, whoever stored it; None when it has none. Never raises.

        A type that only some Node worker knows ("custom") counts as fixed with its delay, or as none without a delay.
        """
        stored = opts.get("backoff")
        if not isinstance(stored, Mapping):
            stored = {"type": "fixed", "delay": stored}
        base_ms = min(_number(stored.get("delay")), LONGEST_MS)
        if base_ms <= 0:
            return None
        kind: Kind = "exponential" if stored.get("type") == "exponential" else "fixed"
        return cls(kind, round(base_ms), min(max(_number(stored.get("jitter")), 0.0), 1.0))

    def to_opts(self) -> dict[str, Any]:
        """BullMQ's stored form, delay in milliseconds."""
        stored: dict[str, Any] = {"type": self.type, "delay": self.base_ms}
        return {**stored, "jitter": self.jitter} if self.jitter else stored

    def delay_ms(self, attempts_made_after: int, rng: random.Random) -> int:
        """Milliseconds before the retry that follows the n-th attempt; n counts the attempt that just failed."""
        delay = self.base_ms
        if self.type == "exponential":
            # Past 63 doublings every base is over the bound; shifting on would only build huge integers.
            delay = min(delay << min(max(attempts_made_after - 1, 0), 63), LONGEST_MS)
        if not self.jitter:
            return delay
        return math.floor(rng.random() * delay * self.jitter + delay * (1 - self.jitter))


def _parse_mapping(value: Mapping[str, Any]) -> Backoff:
    surplus = sorted(str(key) for key in value.keys() - {"type", "delay", "jitter"})
    if surplus or "type" not in value:
        wrong = f"has unknown keys {', '.join(surplus)}" if surplus else "has no type"
        raise QueueError(
            f"backoff {dict(value)!r} {wrong}; give type, delay (milliseconds) and perhaps jitter (0 to 1)"
        )
    delay, jitter = value.get("delay", 0), value.get("jitter", 0)
    for name, given in (("delay", delay), ("jitter", jitter)):
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given):
            raise QueueError(f"backoff {name} {given!r} is not a number; delay is milliseconds, jitter is 0 to 1")
    return Backoff(value["type"], round(delay), float(jitter))


def _milliseconds(value: Duration) -> int:
    try:
        amount = seconds(value)
    except (ConfigError, OverflowError):
        raise QueueError(f"backoff {value!r} is not a backoff; {_WANTED}") from None
    if not math.isfinite(amount):
        raise QueueError(f"backoff {value!r} is not finite; {_WANTED}")
    return round(amount * 1000)


def _number(value: object) -> float:
    """A stored number; 0 for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    try:
        number = float(value)
    except OverflowError:
        return float(LONGEST_MS)
    return 0.0 if math.isnan(number) else number
