"""What a job's parent and its children are to it, read without loading what they returned unless that is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sandq.store.call import Arg, Read
from sandq.store.keys import QueueKeys
from sandq.store.newjob import existing_id

Kind = Literal["pending", "processed", "ignored", "failed"]
# Where a parent's hash has each kind of child beside it; in this order everything here is read and counted.
SUFFIXES: Mapping[Kind, str] = {
    "pending": ":dependencies",
    "processed": ":processed",
    "ignored": ":failed",
    "failed": ":unsuccessful",
}
_SCANS: Mapping[Kind, str] = {"pending": "SSCAN", "processed": "HSCAN", "ignored": "HSCAN"}
BEGIN: Mapping[Kind, int] = dict.fromkeys(SUFFIXES, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildPage:
    """Some of a job's children, by job key. `after` says where a kind goes on; one that is through is not in it."""

    pending: tuple[str, ...] = ()
    processed: Mapping[str, bytes] = field(default_factory=dict)  # what each returned
    ignored: Mapping[str, str] = field(default_factory=dict)  # why each failed
    failed: tuple[str, ...] = ()
    after: Mapping[Kind, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kin:
    """How many children a job has, and the keys of the first of them."""

    children: tuple[str, ...]
    count: int


def pending_children(keys: QueueKeys, job_id: str) -> Read[int]:
    """How many children have not ended yet."""
    return Read((("SCARD", _key(keys, job_id, "pending")),), lambda replies: int(replies[0]))


def count_children(keys: QueueKeys, job_id: str) -> Read[dict[Kind, int]]:
    """How many children there are of each kind."""
    commands = (
        ("SCARD", _key(keys, job_id, "pending")),
        ("HLEN", _key(keys, job_id, "processed")),
        ("HLEN", _key(keys, job_id, "ignored")),
        ("ZCARD", _key(keys, job_id, "failed")),
    )
    return Read(commands, lambda replies: {kind: int(n) for kind, n in zip(SUFFIXES, replies, strict=True)})


def child_values(keys: QueueKeys, job_id: str) -> Read[bytes]:
    """One JSON object: the return values of the completed children by job key, each as its child's bytes."""

    def parse(replies: list[Any]) -> bytes:
        pairs = _pairs(replies[0])
        return b"{" + b",".join(json.dumps(_text(key)).encode() + b":" + value for key, value in pairs) + b"}"

    return Read((("HGETALL", _key(keys, job_id, "processed")),), parse)


def processed(keys: QueueKeys, job_id: str) -> Read[dict[str, bytes]]:
    """The return values of the completed children by job key, each as it was stored."""
    return Read(
        (("HGETALL", _key(keys, job_id, "processed")),),
        lambda replies: {_text(key): value for key, value in _pairs(replies[0])},
    )


def child_failures(keys: QueueKeys, job_id: str) -> Read[dict[str, str]]:
    """Why the children failed that their parent may do without, by job key."""
    return Read((("HGETALL", _key(keys, job_id, "ignored")),), lambda replies: _texts(replies[0]))


def children(keys: QueueKeys, job_id: str, limit: int, after: Mapping[Kind, int] = BEGIN) -> Read[ChildPage]:
    """About `limit` children of each kind in `after`; while nothing changes, all pages together hold each once."""
    commands = tuple(_page(keys, job_id, kind, start, limit) for kind, start in after.items())
    # A pipeline is never empty, and a caller who is through may ask on.
    commands = commands or (("EXISTS", keys.key(existing_id(job_id))),)

    def parse(replies: list[Any]) -> ChildPage:
        found: dict[str, Any] = {}
        further: dict[Kind, int] = {}
        for (kind, start), reply in zip(after.items(), replies, strict=False):
            cursor, members = (start + limit, reply) if kind == "failed" else (int(reply[0]), reply[1])
            found[kind] = _members(kind, members)
            if cursor and (kind != "failed" or len(members) == limit):
                further[kind] = cursor
        return ChildPage(**found, after=further)

    return Read(commands, parse)


def kin(keys: QueueKeys, job_id: str, limit: int) -> Read[Kin]:
    """The keys of at most `limit` children, those first that went wrong."""
    commands = (
        ("ZRANGE", _key(keys, job_id, "failed"), 0, -1),
        ("HKEYS", _key(keys, job_id, "ignored")),
        ("SMEMBERS", _key(keys, job_id, "pending")),
        # Not HSCAN: it brings what the children returned, which may be 16 MiB each.
        ("HKEYS", _key(keys, job_id, "processed")),
    )

    def parse(replies: list[Any]) -> Kin:
        # By their ids, so that who looks twice sees the same. A child that was retried may be of two kinds for a while.
        members = list(dict.fromkeys(_text(member) for reply in replies for member in sorted(reply)))
        return Kin(tuple(members[:limit]), len(members))

    return Read(commands, parse)


def _page(keys: QueueKeys, job_id: str, kind: Kind, start: int, limit: int) -> tuple[Arg, ...]:
    key = _key(keys, job_id, kind)
    if kind == "failed":
        return ("ZRANGE", key, start, start + limit - 1)
    return (_SCANS[kind], key, start, "COUNT", limit)


def _members(kind: Kind, members: Sequence[bytes]) -> Any:
    match kind:
        case "processed":
            return {_text(key): value for key, value in _pairs(members)}
        case "ignored":
            return _texts(members)
        case _:
            return tuple(_text(member) for member in members)


def _key(keys: QueueKeys, job_id: str, kind: Kind) -> str:
    return keys.key(existing_id(job_id)) + SUFFIXES[kind]


def _texts(flat: Any) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in _pairs(flat)}


def _pairs(flat: Any) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
