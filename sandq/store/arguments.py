"""What callers hand over, checked where it comes in: QueueError says what is wrong with it, and what would be right."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

from sandq.errors import ConfigError, QueueError
from sandq.units import Duration, seconds

T = TypeVar("T")

# A due time * 4096 + tie index is exact below 2^53; a hundred years keep the sum far inside what a score can order.
MAX_DELAY_MS = 100 * 365 * 24 * 3600 * 1000


def text(what: str, value: str) -> str:
    """The text, if it is one, not empty, and has a form in UTF-8."""
    if not isinstance(value, str) or not value:
        raise QueueError(f"{what} {value!r} must be a text that is not empty")
    if not has_utf8(value):
        raise QueueError(f"{what} {value!r} holds half a surrogate pair, which no other program can read")
    return value


def has_utf8(value: str) -> bool:
    """Whether the text has a form in UTF-8."""
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in value)


def whole(what: str, value: int, least: int = 0, most: int = 2**31 - 1) -> int:
    """The number, if it is a whole one within its bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise QueueError(f"{what} {value!r} must be a whole number from {least} to {most}")
    return value


def each(what: str, values: Iterable[T]) -> list[T]:
    """The values, if they can be gone through."""
    try:
        return list(values)
    except TypeError:
        raise QueueError(f"{what} {values!r} must be a list, or whatever else can be gone through") from None


def milliseconds(what: str, value: Duration) -> float:
    """A duration in milliseconds, if it is finite."""
    try:
        amount = seconds(value)
    except ConfigError as error:
        raise QueueError(f"{what}: {error}") from None
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount):
        raise QueueError(f"{what} {value!r} is not finite")
    return amount * 1000


def delay_ms(delay: Duration) -> int:
    """A delay in milliseconds, if a score can order it."""
    amount = milliseconds("delay", delay)
    if not 0 <= amount <= MAX_DELAY_MS:
        raise QueueError(f"delay {delay!r} is out of range; use 0 to a hundred years")
    return round(amount)
