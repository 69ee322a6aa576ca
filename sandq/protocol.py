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
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from sandq.errors import ProtocolError

VERSION = 1
HEADER = struct.Struct("!2sBBIIQ")
MAX_HEAD = 1 << 20  # an error and its traceback, 64 KiB each, whose JSON escapes may take six times as much
MAX_LOG_LINE = 8 << 10
_MAGIC = b"SQ"
_NO_MAGIC = "the bytes do not start with the frame magic"
_HEADER_SIZE = HEADER.size
_start_and_rest = struct.Struct("!4sIIQ")  # the header again, with all that says whose frame it is in one piece
_pack, _unpack = _start_and_rest.pack, _start_and_rest.unpack_from

# Not a frame: how a line of a `logging` record begins on a child's stderr: mark, level, end, text.
RECORD_MARK = b"\x1e"
RECORD_END = b"\x1f"

_NO_HEAD = b"{}"
_EMPTY: Mapping[str, Any] = MappingProxyType({})
# Made once: `json.dumps` makes one for each call that asks for more than its defaults, and `json.loads` guesses an
# encoding first.
_to_json = json.JSONEncoder(separators=(",", ":"), default=dict).encode
_from_json = json.JSONDecoder().raw_decode
_quoted = lru_cache(maxsize=64)(_to_json)  # names of fields: there are some twenty


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
    BEGUN = 76  # the job that lay in my mailbox begins; the nonce is its


FINAL = frozenset({Kind.DONE, Kind.RAISED, Kind.POSTPONED, Kind.UNKNOWN, Kind.OVERSIZE})
_KINDS = {int(kind): kind for kind in Kind}
_FROM_CHILD = frozenset(kind for kind in Kind if kind >= 64)
# How a frame of each kind starts: looked up, this is one check where magic, version, kind and direction were four.
_STARTS = {_MAGIC + bytes((VERSION, kind)): kind for kind in Kind}
_TO_SUPERVISOR = {start: kind for start, kind in _STARTS.items() if kind in _FROM_CHILD}
_START_OF = {kind: start for start, kind in _STARTS.items()}
_TO_CHILD = {start: kind for start, kind in _STARTS.items() if kind not in _FROM_CHILD}

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


class Frame(NamedTuple):
    """One message. `head` is small and structured, `body` is passed through untouched."""

    kind: Kind
    nonce: int = 0
    head: Mapping[str, Any] = _EMPTY
    body: bytes = b""


def encode(frame: Frame) -> bytes:
    """The bytes of one frame; ProtocolError when its head is over MAX_HEAD."""
    kind, nonce, fields, body = frame
    head = _head(fields).encode() if fields else _NO_HEAD
    if len(head) > MAX_HEAD:
        raise ProtocolError(f"the head of a {kind.name} frame has {len(head)} bytes; {MAX_HEAD} are allowed")
    return _pack(_START_OF[kind], len(head), len(body), nonce) + head + body


def _head(fields: Mapping[str, Any]) -> str:
    """Its JSON. Nearly every head holds only text and whole numbers, and is written so in half the time."""
    parts = []
    for name, value in fields.items():
        if type(value) is str:
            parts.append(f"{_quoted(name)}:{_to_json(value)}")
        elif type(value) is int:
            parts.append(f"{_quoted(name)}:{value}")
        else:
            return _to_json(fields)
    return f"{{{','.join(parts)}}}"


_new = tuple.__new__  # a Frame without a call of its own for giving it defaults


class Decoder:
    """Turns received bytes into frames; one per connection and direction.

    `from_child` is what this side expects to hear, `max_body` the largest body it is willing to hold.
    """

    def __init__(self, *, from_child: bool, max_body: int) -> None:
        self._from_child = from_child
        self._kinds = _TO_SUPERVISOR if from_child else _TO_CHILD
        self.max_body = max_body
        self._rest = bytearray()  # the beginning of a frame whose end has not come yet
        self._failed: str | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Frames completed by these bytes, in order; ProtocolError, now and for ever, once a rule is broken.

        What was said before it was broken still counts: then `failed` says so at once, and the next call raises.
        """
        if self._failed is not None:
            raise ProtocolError(self._failed)
        if not self._rest:  # nearly always: what is received begins and ends with a frame
            frames, end = self._frames(data)
            if end < len(data):
                self._rest += memoryview(data)[end:]
            return frames
        self._rest += data
        with memoryview(self._rest) as view:
            frames, end = self._frames(view)
        del self._rest[:end]
        return frames

    @property
    def failed(self) -> str | None:
        """Which rule was broken, once one was."""
        return self._failed

    def _frames(self, data: bytes | memoryview) -> tuple[list[Frame], int]:
        """The whole frames in it, and where they end."""
        frames: list[Frame] = []
        try:
            return frames, self._collect(data, frames)
        except ProtocolError:
            if not frames:
                raise
            return frames, len(data)

    def _collect(self, data: bytes | memoryview, frames: list[Frame]) -> int:
        start, size = 0, len(data)
        while (head_at := start + _HEADER_SIZE) <= size:
            first, head_size, body_size, nonce = _unpack(data, start)
            kind = self._kinds.get(first)
            if kind is None or head_size > MAX_HEAD or body_size > self.max_body:
                self._refuse(first, head_size, body_size)
            body_at = head_at + head_size
            if (end := body_at + body_size) > size:
                break
            head = data[head_at:body_at]
            fields = _EMPTY if head == _NO_HEAD and kind not in _HEADS else self._parse_head(kind, bytes(head))
            frames.append(_new(Frame, (kind, nonce, fields, bytes(data[body_at:end]))))
            start = end
        else:
            # A wrong first byte is told at once: the other side may never send a whole header.
            if start < size and not _MAGIC.startswith(bytes(data[start : start + len(_MAGIC)])):
                self._fail(_NO_MAGIC)
        return start

    def _refuse(self, first: bytes, head_size: int, body_size: int) -> NoReturn:
        """Say which rule a header breaks."""
        magic, version, number = first[:2], first[2], first[3]
        if magic != _MAGIC:
            self._fail(_NO_MAGIC)
        if version != VERSION:
            self._fail(f"frame version {version}, expected {VERSION}; both sides must run the same sandq")
        if number not in _KINDS:
            self._fail(f"unknown frame kind {number}")
        name = _KINDS[number].name
        if first not in self._kinds:
            self._fail(f"{name} is not for this side to say")
        self._fail(f"a {name} frame claims {head_size}+{body_size} bytes; {MAX_HEAD}+{self.max_body} are allowed")

    def _parse_head(self, kind: Kind, raw: bytes) -> Mapping[str, Any]:
        try:
            text = raw.decode()
            head, end = _from_json(text)
        except (ValueError, RecursionError) as error:
            self._fail(f"the head of a {kind.name} frame is not JSON: {error}")
        if end != len(text):
            self._fail(f"the head of a {kind.name} frame is not JSON: something follows it")
        if not isinstance(head, dict):
            self._fail(f"the head of a {kind.name} frame is not an object")
        if self._from_child:
            self._check_head(kind, raw, head)
        return MappingProxyType(head)

    def _check_head(self, kind: Kind, raw: bytes, head: Mapping[str, Any]) -> None:
        """What the supervisor relies on; what it says itself needs no such check."""
        if b"\\u" in raw and not _is_text(head):
            self._fail(f"the head of a {kind.name} frame holds half a surrogate pair")
        for name, types in _HEADS[kind].items() if kind in _HEADS else ():
            if not isinstance(head.get(name), types):
                self._fail(f"the head of a {kind.name} frame has no valid {name!r}")
        for name, type_ in _OPTIONAL.items() if kind in FINAL else ():
            if name in head and not isinstance(head[name], type_):
                self._fail(f"the head of a {kind.name} frame has no valid {name!r}")

    def _fail(self, why: str) -> NoReturn:
        self._failed = why
        self._rest = bytearray()
        raise ProtocolError(why)


def _is_text(head: Mapping[str, Any]) -> bool:
    """Whether every string in it can be written as UTF-8: what cannot would only fail later, in a settlement."""
    try:
        json.dumps(head, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True
