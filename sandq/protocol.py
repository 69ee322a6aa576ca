"""Frames between supervisor and child: bytes in, frames out, no socket anywhere. Standard library only.

A frame is a 20-byte header, a head (JSON object) and a body (opaque bytes: job data or a result, never parsed here):

    magic "SQ" | version u8 | kind u8 | head length u32 | body length u32 | nonce u64     (network order)

The nonce is the attempt's: what a child still says about an earlier attempt is recognised and ignored. Lengths are
checked before anything is allocated. Any violation is final: there is no resynchronising with a process that lied.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from sandq.errors import ProtocolError

VERSION = 1
HEADER = struct.Struct("!2sBBIIQ")
MAX_HEAD = 1 << 20  # an error and its traceback, 64 KiB each, whose JSON escapes may take six times as much
MAX_LOG_LINE = 8 << 10
_MAGIC = b"SQ"

# Not a frame: how a line of a `logging` record begins on a child's stderr: mark, level, end, text.
RECORD_MARK = b"\x1e"
RECORD_END = b"\x1f"


class Kind(IntEnum):
    """Who may say what: below 64 the supervisor, from 64 on the child."""

    LOAD = 1  # import this processor
    RUN = 2  # run this job
    STOP = 3  # leave the handler; announced by SIGUSR2
    ANSWER = 4  # to ADD or ASK
    BYE = 5  # run teardown and exit

    READY = 64  # the processor is loaded
    BROKEN = 65  # the processor cannot load
    DONE = 66  # final: the handler returned
    RAISED = 67  # final: the handler raised
    POSTPONED = 68  # final: the handler asked to run again later
    UNKNOWN = 69  # final: no handler for this name
    OVERSIZE = 70  # final: the result is over its limit; only its size is sent
    PROGRESS = 71
    DATA = 72  # replace the job's data
    LOG = 73
    ADD = 74  # add a job on the handler's behalf
    ASK = 75  # what of my children?


FINAL = frozenset({Kind.DONE, Kind.RAISED, Kind.POSTPONED, Kind.UNKNOWN, Kind.OVERSIZE})
_FROM_CHILD = frozenset(kind for kind in Kind if kind >= 64)

# What a child must have put into a head. The supervisor relies on these types and on nothing else.
_HEADS: Mapping[Kind, Mapping[str, type | tuple[type, ...]]] = {
    Kind.READY: {"names": list, "any_name": bool},
    Kind.BROKEN: {"error": str, "traceback": str},
    Kind.RAISED: {"error": str, "traceback": str, "permanent": bool, "stopped": bool},
    Kind.POSTPONED: {"until": str, "delay_s": (int, float)},
    Kind.UNKNOWN: {"known": list},
    Kind.OVERSIZE: {"size": int},
    Kind.LOG: {"level": str},
    Kind.ADD: {"queue": (str, type(None)), "name": str, "child": bool, "opts": dict, "request": int},
    Kind.ASK: {"what": str, "request": int},
}
# What a child may put into the heads of its final frames beside that: why no other job should run in it.
_OPTIONAL: Mapping[str, type] = {"unfit": str}


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `head` is small and structured, `body` is passed through untouched."""

    kind: Kind
    nonce: int = 0
    head: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    body: bytes = b""


def encode(frame: Frame) -> bytes:
    """The bytes of one frame; ProtocolError when its head is over MAX_HEAD."""
    head = json.dumps(dict(frame.head), separators=(",", ":")).encode() if frame.head else b"{}"
    if len(head) > MAX_HEAD:
        raise ProtocolError(f"the head of a {frame.kind.name} frame has {len(head)} bytes; {MAX_HEAD} are allowed")
    return HEADER.pack(_MAGIC, VERSION, frame.kind, len(head), len(frame.body), frame.nonce) + head + frame.body


class Decoder:
    """Turns received bytes into frames; one per connection and direction.

    `from_child` is what this side expects to hear, `max_body` the largest body it is willing to hold.
    """

    def __init__(self, *, from_child: bool, max_body: int) -> None:
        self._from_child = from_child
        self.max_body = max_body
        self._buffer = bytearray()
        self._failed: str | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Frames completed by these bytes, in order; ProtocolError, now and for ever, once a rule is broken."""
        if self._failed is not None:
            raise ProtocolError(self._failed)
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if len(self._buffer) < HEADER.size:
            # A wrong first byte is told at once: the other side may never send a whole header.
            if self._buffer and not _MAGIC.startswith(self._buffer[:2]):
                self._fail("the bytes do not start with the frame magic")
            return None
        magic, version, number, head_size, body_size, nonce = HEADER.unpack_from(self._buffer)
        kind = self._check_header(magic, version, number, head_size, body_size)
        end = HEADER.size + head_size + body_size
        if len(self._buffer) < end:
            return None
        head = self._parse_head(kind, bytes(self._buffer[HEADER.size : HEADER.size + head_size]))
        body = bytes(self._buffer[HEADER.size + head_size : end])
        del self._buffer[:end]
        return Frame(kind, nonce, head, body)

    def _check_header(self, magic: bytes, version: int, number: int, head_size: int, body_size: int) -> Kind:
        if magic != _MAGIC:
            self._fail("the bytes do not start with the frame magic")
        if version != VERSION:
            self._fail(f"frame version {version}, expected {VERSION}; both sides must run the same sandq")
        try:
            kind = Kind(number)
        except ValueError:
            self._fail(f"unknown frame kind {number}")
        if (kind in _FROM_CHILD) != self._from_child:
            self._fail(f"{kind.name} is not for this side to say")
        if head_size > MAX_HEAD or body_size > self.max_body:
            self._fail(
                f"a {kind.name} frame claims {head_size}+{body_size} bytes; {MAX_HEAD}+{self.max_body} are allowed"
            )
        return kind

    def _parse_head(self, kind: Kind, raw: bytes) -> Mapping[str, Any]:
        try:
            head = json.loads(raw)
        except (ValueError, RecursionError) as error:
            self._fail(f"the head of a {kind.name} frame is not JSON: {error}")
        if not isinstance(head, dict):
            self._fail(f"the head of a {kind.name} frame is not an object")
        if b"\\u" in raw and not _is_text(head):
            self._fail(f"the head of a {kind.name} frame holds half a surrogate pair")
        for name, types in _HEADS.get(kind, {}).items() if self._from_child else ():
            if not isinstance(head.get(name), types):
                self._fail(f"the head of a {kind.name} frame has no valid {name!r}")
        for name, type_ in _OPTIONAL.items() if kind in FINAL else ():
            if name in head and not isinstance(head[name], type_):
                self._fail(f"the head of a {kind.name} frame has no valid {name!r}")
        return MappingProxyType(head)

    def _fail(self, why: str) -> Any:
        self._failed = why
        self._buffer.clear()
        raise ProtocolError(why)


def _is_text(head: Mapping[str, Any]) -> bool:
    """Whether every string in it can be written as UTF-8: what cannot would only fail later, in a settlement."""
    try:
        json.dumps(head, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True
