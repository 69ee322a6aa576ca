"""From what a handler returned or raised to bytes that are safe to put into Redis and into events."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

MAX_ERROR = 64 << 10
_HERE = str(Path(__file__).parent)
# Made once: `json.dumps` makes one for each call that asks for more than its defaults.
_plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_escaped = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def to_json(value: Any) -> bytes:
    """One JSON text in UTF-8, no NaN, no bare surrogate; TypeError, ValueError or RecursionError if it has none."""
    if value is None:  # what most handlers return
        return b"null"
    text = _plain(value)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: only its \ud800 escape is valid UTF-8
        return _escaped(value).encode("ascii")


def no_json(value: Any, error: Exception) -> str:
    """Why what a handler returned cannot be its result."""
    return f"the handler's result, of type {type(value).__name__}, is not JSON: {describe(error)[0]}"


def describe(error: BaseException) -> tuple[str, str]:
    """`Type: message` and the traceback, both cut at 64 KiB; survives exceptions whose own methods raise."""
    name = type(error).__name__
    try:
        message = str(error)
    except BaseException as broken:  # noqa: BLE001  # a user's __str__ may raise anything
        message = f"<its __str__ raised {type(broken).__name__}>"
    try:
        lines = traceback.format_exception(type(error), error, _users(error.__traceback__))
    except BaseException:  # noqa: BLE001  # likewise for its __cause__, __notes__ and the like
        lines = [*traceback.format_tb(error.__traceback__), f"{name}: {message}"]
    return _cut(f"{name}: {message}" if message else name), _cut("".join(lines), keep_end=True)


def place(error: BaseException) -> str:
    """Where an import failed, with the line of source; empty when that is not known."""
    if isinstance(error, SyntaxError):  # its message names file and line already
        return f": {error.text.strip()}" if error.text and error.text.strip() else ""
    frames = traceback.extract_tb(_users(error.__traceback__))
    last = next((frame for frame in reversed(frames) if not frame.filename.startswith(("<", _HERE))), None)
    return f" ({last.filename}, line {last.lineno}: {last.line})" if last else ""


def _users(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from where the user's code begins; ours above it tells nobody anything."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_HERE):
        inner = inner.tb_next
    return inner or trace


def _cut(text: str, *, keep_end: bool = False) -> str:
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) > MAX_ERROR:
        raw = raw[-MAX_ERROR:] if keep_end else raw[:MAX_ERROR]
    return raw.decode("utf-8", "ignore")
