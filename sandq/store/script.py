"""Lua by name: a script's header names its keys, arguments and fragments; the caller passes names, never numbers.

    -- keys: base slot
    -- args: op token lock_ms rest...
    -- uses: queue reply

becomes `local base, slot = KEYS[1], KEYS[2]` and `local op, token, lock_ms = ...` in front of the body. A last
argument `rest...` binds `rest_from`, the index in ARGV where the repeated part begins.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_HEADER = re.compile(r"^-- (keys|args|uses): *(.*)$")


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script ready for EVALSHA, with the names its header gave."""

    name: str
    keys: tuple[str, ...]
    args: tuple[str, ...]
    repeats: bool  # the last argument may repeat
    source: str
    sha: str


def _headers(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {"keys": (), "args": (), "uses": ()}
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        if match := _HEADER.match(line):
            found[match[1]] += tuple(match[2].split())
    return found


def _read(path: str) -> str:
    return (files("sandq.store") / "lua" / f"{path}.lua").read_text(encoding="utf-8")


def _fragments(names: tuple[str, ...], seen: dict[str, str]) -> None:
    for name in names:
        if name not in seen:
            text = _read(f"lib/{name}")
            _fragments(_headers(text)["uses"], seen)
            seen[name] = text


def _bind(names: tuple[str, ...], table: str) -> str:
    if not names:
        return ""
    return f"local {', '.join(names)} = {', '.join(f'{table}[{n}]' for n in range(1, len(names) + 1))}\n"


@cache
def load(name: str) -> Script:
    """Read `lua/<name>.lua` with the fragments it uses, once per process."""
    body = _read(name)
    header = _headers(body)
    args, repeats = header["args"], False
    if args and args[-1].endswith("..."):
        args, repeats = (*args[:-1], args[-1][:-3]), True
    fragments: dict[str, str] = {}
    _fragments(header["uses"], fragments)
    fixed = args[:-1] if repeats else args
    bindings = _bind(header["keys"], "KEYS") + _bind(fixed, "ARGV")
    if repeats:
        bindings += f"local {args[-1]}_from = {len(args)}\n"
    source = bindings + "".join(fragments.values()) + body
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name=name, keys=header["keys"], args=args, repeats=repeats, source=source, sha=sha)


def load_all() -> list[Script]:
    """Read every script. Who serves for long does so first: later its files may be out of reach, or newer than it."""
    folder = files("sandq.store") / "lua"
    return [load(entry.name.removesuffix(".lua")) for entry in folder.iterdir() if entry.name.endswith(".lua")]
