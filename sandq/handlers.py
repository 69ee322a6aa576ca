"""`@handler("name")`: marks a function as the handler of one job name. Imports nothing: it runs in every child."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

MARK = "__sandq_handler_names__"


def handler(name: str) -> Callable[[F], F]:
    """Run this function for jobs called `name`; a function may carry several names.

    Raises TypeError when used without a name, as in a bare `@handler`.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"@handler needs the job name it serves, as in @handler('resize'); got {name!r}")

    def mark(function: F) -> F:
        setattr(function, MARK, (*getattr(function, MARK, ()), name))
        return function

    return mark
