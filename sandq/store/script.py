"""Lua by name: a script's header names its keys, arguments and fragments; the caller passes names, never numbers.

    -- keys: base slot
    -- args: op token lock_ms rest...
    -- uses: queue reply
    -- seldom: dedup create

becomes `local base, slot = KEYS[1], KEYS[2]` and `local op, token, lock_ms = ...` in front of the body. A last
argument `rest...` binds `rest_from`, the index in ARGV where the repeated part begins.

Redis runs the whole text at every call, and to make the hundred functions of all fragments would cost more than what a
common call does with them. Those of the fragments named under `seldom` are made when the first of them is used: where
the others and the body say `promote_due`, Redis reads `seldom().promote_due`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_HEADER = re.compile(r"^-- (keys|args|uses|seldom): *(.*)$")
_GLOBAL = re.compile(r"^local (?:function )?(\w+)(?= =|\()", re.MULTILINE)
_COMMENT = re.compile(r"--.*")


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
    found: dict[str, tuple[str, ...]] = {"keys": (), "args": (), "uses": (), "seldom": ()}
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


def _program(header: dict[str, tuple[str, ...]], body: str) -> str:
    """All fragments, each before those that use it, and the body; the seldom ones inside of one function."""
    found: dict[str, str] = {}
    _fragments(header["uses"], found)
    seldom = {name: text for name, text in found.items() if name in header["seldom"]}
    early: dict[str, str] = {}
    for text in seldom.values():
        _fragments(_headers(text)["uses"], early)
    before = "".join(text for name, text in early.items() if name not in seldom)
    after = "".join(text for name, text in found.items() if name not in early and name not in seldom)
    return before + _with_seldom("".join(seldom.values()), after + body)


def _with_seldom(text: str, users: str) -> str:
    """One function that makes what `text` defines, once, and `users` who go through it to what they use of that.

    What it made hangs in one table: a name of its own for each would be made at every call, and handed on by all in
    between. It is found by name, so a user's own local must not be called the same.
    """
    defined = "|".join(_GLOBAL.findall(text))
    use = re.compile(rf"""(?<![\w.:'"])({defined})(?![\w'"]| =)""")
    names = sorted(set(use.findall(_COMMENT.sub("", users)))) if defined else []
    if not names:
        return users
    made = ", ".join(f"{name} = {name}" for name in names)
    function = (
        f"local made\nlocal function seldom()\n  if made then return made end\n{text}"
        f"  made = {{{made}}}\n  return made\nend\n"
    )
    return function + use.sub(r"seldom().\1", users)


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
    fixed = args[:-1] if repeats else args
    bindings = _bind(header["keys"], "KEYS") + _bind(fixed, "ARGV")
    if repeats:
        bindings += f"local {args[-1]}_from = {len(args)}\n"
    source = bindings + _program(header, body)
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name=name, keys=header["keys"], args=args, repeats=repeats, source=source, sha=sha)


def load_all() -> list[Script]:
    """Read every script. Who serves for long does so first: later its files may be out of reach, or newer than it."""
    folder = files("sandq.store") / "lua"
    return [load(entry.name.removesuffix(".lua")) for entry in folder.iterdir() if entry.name.endswith(".lua")]
