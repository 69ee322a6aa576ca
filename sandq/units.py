"""Durations and sizes as people write them: `500ms 5s 10m 2h`, `64KiB 2GiB`."""

from __future__ import annotations

import re
from datetime import timedelta

from sandq.errors import ConfigError

Duration = float | int | str | timedelta

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_NUMBER = re.compile(r"^(\d+(?:\.\d+)?) *([A-Za-z]*)$")


def seconds(value: Duration) -> float:
    """Seconds from a number of seconds, a timedelta or text such as `500ms`; ConfigError when it is none of these."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    match = _NUMBER.match(value.strip()) if isinstance(value, str) else None
    if match is None or (match[2] or "s") not in _SECONDS:
        raise ConfigError(f"{value!r} is not a duration; write it like 500ms, 5s, 10m or 2h")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def size(value: int | str) -> int:
    """Bytes from a number of bytes or text such as `64KiB`; ConfigError when it is neither."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _NUMBER.match(value.strip()) if isinstance(value, str) else None
    if match is None or match[2] not in _BYTES:
        raise ConfigError(f"{value!r} is not a size; write it like 64KiB, 512MiB or 2GiB")
    return int(float(match[1]) * _BYTES[match[2]])


def show_duration(value: float) -> str:
    """The shortest text that `seconds` reads back: 0.5 -> 500ms, 90 -> 90s, 3600 -> 1h."""
    for unit in ("d", "h", "m", "s"):
        amount = value / _SECONDS[unit]
        if amount >= 1 and amount == int(amount):
            return f"{int(amount)}{unit}"
    amount, unit = (value * 1000, "ms") if value < 1 else (value, "s")
    return f"{amount:.3f}".rstrip("0").rstrip(".") + unit  # never an exponent, which `seconds` would not read


def show_size(value: int) -> str:
    """A size in the largest binary unit that keeps it readable: 2147483648 -> 2GiB."""
    for unit in ("GiB", "MiB", "KiB"):
        if value >= _BYTES[unit]:
            return f"{value / _BYTES[unit]:.4g}{unit}"
    return f"{value}B"
