"""An operation before any I/O: what to send and how to read the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from sandq.store.script import Script, load

R = TypeVar("R")
Arg = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One script call. A mutating call repeats safely: its op-id makes the script answer from the stored reply."""

    script: Script
    base: str  # the queue's key prefix with its colon; KEYS[1], and what a cluster routes by
    args: tuple[Arg, ...]  # in header order, without `op`, which the executor fills in
    mutates: bool
    parse: Callable[[Any], R]


@dataclass(frozen=True, slots=True)
class Read(Generic[R]):
    """Plain read commands sent as one pipeline; `parse` gets their replies in order."""

    commands: tuple[tuple[Arg, ...], ...]
    parse: Callable[[list[Any]], R]


def call(
    name: str,
    base: str,
    parse: Callable[[Any], R],
    named: Mapping[str, Arg],
    repeated: Sequence[Arg] = (),
) -> Call[R]:
    """Bind named arguments to a script's header; a missing or surplus name is our own mistake and raises KeyError."""
    script = load(name)
    wanted, has_op = _wanted(name)
    if named.keys() != set(wanted):
        raise KeyError(f"{name}.lua takes {sorted(wanted)}, was given {sorted(named)}")
    return Call(script, base, (*[named[arg] for arg in wanted], *repeated), has_op, parse)


@cache
def _wanted(name: str) -> tuple[tuple[str, ...], bool]:
    """The names a caller has to give, and whether the executor adds an op-id to them."""
    script = load(name)
    fixed = script.args[:-1] if script.repeats else script.args
    return tuple(arg for arg in fixed if arg != "op"), "op" in fixed
