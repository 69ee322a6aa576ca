"""Following the event stream of a queue, and saying something in it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sandq.errands.step import Errand
from sandq.errors import QueueError
from sandq.event import Event
from sandq.store import stream
from sandq.store.arguments import each, text
from sandq.store.keys import QueueKeys

START, NOW = "0-0", "$"
_ID = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?")
# What a queue itself says. A reader trusts these: BullMQ's stops for good at a `completed` whose returnvalue is no
# JSON, and at any event called `error`, which nobody in Node can hear without having asked for it.
_TAKEN = frozenset(
    [
        "added",
        "waiting",
        "delayed",
        "waiting-children",
        "active",
        "progress",
        "completed",
        "failed",
        "retries-exhausted",
        "stalled",
        "drained",
        "removed",
        "duplicated",
        "deduplicated",
        "debounced",
        "cleaned",
        "paused",
        "resumed",
        "error",
    ]
)


@dataclass(frozen=True, slots=True)
class Page:
    """What one read brought. `after` is where the next begins; `gap`: events may be missing before this page."""

    events: list[Event]
    after: str
    gap: bool


def mark(keys: QueueKeys) -> Errand[str]:
    """The id after which everything is new."""
    edges: stream.Edges = yield stream.edges(keys)
    return edges.newest


def hear(keys: QueueKeys, after: str, block_ms: int) -> Errand[list[Event]]:
    """The next events after an id; none when none came for so long."""
    entries: list[stream.Entry] = yield stream.listen(keys, after, block_ms)
    return [Event(*entry) for entry in entries]


def page(keys: QueueKeys, after: str, block_ms: int) -> Errand[Page]:
    """The next events after an id, and whether that id was still there to go on from."""
    events = yield from hear(keys, after, block_ms)
    edges: stream.Edges | None = yield stream.edges_without(keys, after)
    last, place = events[-1].id if events else after, stream.order(after)
    if edges is None:  # our last event is still kept, and so is everything after it
        return Page(events, last, gap=False)
    if events:
        return Page(events, last, gap=stream.order(START) < place < stream.order(edges.oldest))
    # Ids only grow. A stream that ends before our place is another one, or was put back to what a disk knew of it.
    lost = stream.order(edges.newest) < place
    return Page(events, edges.newest if lost else last, gap=lost)


class Place:
    """How far somebody has read, and what he wants to hear of."""

    def __init__(self, since: str, names: Collection[str] | str) -> None:
        """`since`: an event id, "0" for all that is kept, "$" for what comes from now on."""
        if not isinstance(since, str) or (since != NOW and not _ID.fullmatch(since)):
            raise QueueError(f"{since!r} is no event id; give one like 1700000000000-0, 0 for all, or $ for new ones")
        self.last_id = since
        self._names = frozenset([names] if isinstance(names, str) else each("names", names))
        self._gap = False

    def take(self, found: Page) -> Iterator[Event]:
        """The wanted events of a page; the place moves on as they are taken, so that nothing is passed over."""
        self._gap = self._gap or found.gap
        for event in found.events:
            self.last_id = event.id
            if not self._names or event.name in self._names:
                gap, self._gap = self._gap, False
                yield replace(event, after_gap=True) if gap else event
        self.last_id = found.after


def publish(keys: QueueKeys, name: str, /, **fields: Any) -> Errand[str]:
    """Tell whoever listens something of your own, and return the event's id; it is kept as long as any other event.

    Text is sent as it is, everything else as JSON. QueueError for a name that the queue itself uses, also with a ':'
    and more behind it: "completed:7" is how BullMQ tells who waits for job 7.
    """
    if text("event name", name).partition(":")[0] in _TAKEN:
        raise QueueError(f"an event cannot be called {name!r}; the queue itself says that, choose a name of your own")
    if "event" in fields:
        raise QueueError("an event has its name in the field 'event'; choose another name for your field")
    try:
        texts = {text("event field", field): _text(value).encode() for field, value in fields.items()}
    except (TypeError, ValueError, RecursionError) as error:
        raise QueueError(f"event {name!r} cannot be published: {error}") from None
    event_id: str = yield stream.publish(keys, name, texts)
    return event_id


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, allow_nan=False)
