"""The same steps by BullMQ and by sandq leave the same keys, types, scores, fields and events behind."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from node_hands import NodeHands
from peer import Peer
from recipes import RECIPES
from redis import Redis
from sandq_hands import SandqHands

Dump = dict[str, Any]

NEAR_MS = 3_600_000  # times this near to the start are compared by their distance from it
STEP_MS = 50_000
TIED = 4096  # places in a millisecond of `delayed`
JSON_FIELDS = ("opts", "parent", "stacktrace", "pd")


class Normaliser:
    """What is compared of one side's keys: no clock, no prefix, no tokens, none of what is sandq's alone."""

    def __init__(self, client: Redis, prefix: str, started_ms: float) -> None:
        self.client, self.prefix, self.started_ms = client, prefix, started_ms

    def keys(self, found: Dump) -> Dump:
        """Every key that both sides have a use for, by its name."""
        shared = {key: value for key, value in found.items() if ":sq:" not in key}
        return {self.text(key): self.key(key, *typed) for key, typed in shared.items()}

    def key(self, name: str, kind: str, content: Any) -> Any:
        match kind:
            case "string":
                return self.string(name, content.decode())
            case "hash":
                return self.hash(name, {field.decode(): value.decode() for field, value in content.items()})
            case "zset":
                return {self.text(member.decode()): self.score(name, score) for member, score in content}
            case "stream":
                return [self.event(fields) for _, fields in content]
            case "list":
                return [self.text(member.decode()) for member in content]
            case _:
                return sorted(self.text(member.decode()) for member in content)

    def string(self, name: str, value: str) -> tuple[str, str]:
        left_s = self.client.pttl(f"{self.prefix}:{name}") / 1000
        life = "for ever" if left_s < 0 else f"for {5 * round(left_s / 5)} s"
        return "a token" if name.endswith(":lock") else self.text(value), life

    def hash(self, name: str, fields: dict[str, str]) -> dict[str, Any]:
        own = {field for field in fields if field.startswith("sq_")}
        if name.endswith(":meta"):
            own.add("version")
        if "UnrecoverableError" in fields.get("stacktrace", ""):
            own.add("stacktrace")  # a job that failed without having run: BullMQ stores the stack of its own worker
        return {self.text(field): self.field(field, value) for field, value in fields.items() if field not in own}

    def field(self, name: str, value: str) -> Any:
        if name == "offset":
            return "an offset" if value != "0" else value
        if name == "delay":
            return delay(int(value))
        return self.opts(json.loads(value)) if name in JSON_FIELDS else self.text(value)

    def opts(self, value: Any) -> Any:
        match value:
            case {"repeat": {"offset": offset, **repeat}, **rest}:
                # Where a schedule's slots lie depends on when the test began.
                return {**self.opts({"repeat": repeat, **rest}), "offset": self.field("offset", str(offset))}
            case {"repeat": _, "delay": int(until_run), **rest}:
                return {**self.opts(rest), "repeat": self.opts(value["repeat"]), "delay": delay(until_run)}
            case dict():
                return {name: self.opts(member) for name, member in value.items()}
            case list():
                return [self.opts(member) for member in value]
            case bool() | float() | None:
                return value
            case _:
                return self.text(str(value))

    def event(self, fields: dict[bytes, bytes]) -> list[str]:
        """Names and values in their order, which listeners of other languages may rely on."""
        return [self.text(part.decode()) for pair in fields.items() for part in pair]

    def score(self, name: str, score: float) -> Any:
        kind = name.partition(":")[2]
        if kind == "delayed":
            return self.text(str(int(score // TIED))), score % TIED
        return score if kind == "prioritized" else self.text(str(int(score)))

    def text(self, value: str) -> str:
        value = value.replace(f"{self.prefix}:", "PREFIX:").replace(self.prefix, "PREFIX")
        return re.sub(r"(?<![0-9])[0-9]{13}(?![0-9])", lambda found: self.time(int(found[0])), value)

    def time(self, ms: int) -> str:
        distance = ms - self.started_ms
        if abs(distance) > NEAR_MS:
            return str(ms)
        return f"<start+{round(distance / STEP_MS) * STEP_MS // 1000}s>"


def delay(ms: int) -> str:
    """A delay, without the milliseconds that went by before it was computed."""
    if ms > NEAR_MS:
        return "long"
    return f"about {round(ms / STEP_MS) * STEP_MS} ms" if ms > STEP_MS / 2 else f"{ms} ms"


@pytest.mark.parametrize("name", RECIPES)
def test_both_leave_the_same_behind(
    node_process: Peer, redis_client: Redis, redis_url: str, prefix: str, dump: Callable[[str], Dump], name: str
) -> None:
    dumps = []
    for side in ("node", "sandq"):
        place = (node_process, redis_client, f"{prefix}:{side}", "render")
        started_ms = time.time() * 1000
        with ExitStack() as opened:
            hands = NodeHands(*place) if side == "node" else SandqHands(*place, redis_url, opened)
            RECIPES[name](hands)
        assert node_process.ask("close", prefix=hands.prefix) == []
        under = hands.prefix.removeprefix(f"{prefix}:")
        dumps.append(Normaliser(redis_client, hands.prefix, started_ms).keys(dump(f"{under}:")))
    theirs, ours = dumps
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == value, key
