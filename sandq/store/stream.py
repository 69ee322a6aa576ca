"""The event stream of a queue, before any I/O: what it holds, what comes next, and a word of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandq.store.call import Call, Read, call
from sandq.store.keys import QueueKeys

PAGE = 1000  # events read at once

Entry = tuple[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Edges:
    """The ids between which the stream lies; "0-0" where there is none."""

    oldest: str
    newest: str


def edges(keys: QueueKeys) -> Call[Edges]:
    """The oldest id that is kept, and the newest that was ever given out."""
    return call("stream", keys.base, _edges, {"known": ""})


def edges_without(keys: QueueKeys, known: str) -> Call[Edges | None]:
    """The same if an event is no longer there; None while it is, which is the cheaper answer."""
    return call("stream", keys.base, lambda reply: _edges(reply) if reply else None, {"known": known})


def listen(keys: QueueKeys, after: str, block_ms: int) -> Read[list[Entry]]:
    """Up to a page of events after an id, waiting for the first of them."""

    def parse(replies: list[Any]) -> list[Entry]:
        return [_entry(*raw) for raw in replies[0][0][1]] if replies[0] else []

    return Read((("XREAD", "COUNT", PAGE, "BLOCK", max(1, block_ms), "STREAMS", keys.key("events"), after),), parse)


def publish(keys: QueueKeys, name: str, fields: Mapping[str, bytes]) -> Call[str]:
    """Add an event; answers its id."""
    flat = [part for pair in fields.items() for part in (pair[0].encode(), pair[1])]
    return call("publish", keys.base, _text, {}, (b"event", name.encode(), *flat))


def order(event_id: str) -> tuple[int, int]:
    """An id as what ids are compared by."""
    at_ms, _, number = event_id.partition("-")
    return int(at_ms), int(number or 0)


def _edges(reply: Sequence[bytes]) -> Edges:
    return Edges(*map(_text, reply))


def _entry(entry_id: bytes, flat: list[bytes]) -> Entry:
    texts = list(map(_text, flat))
    return _text(entry_id), dict(zip(texts[::2], texts[1::2], strict=True))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
