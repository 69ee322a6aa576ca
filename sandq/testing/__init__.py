"""What a test suite needs around jobs: a private Redis, jobs run in this process, assertions, and faults on demand.

The fixtures come by themselves: sandq brings a pytest plugin (see docs/testing.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandq.private import PrivateServer
    from sandq.testing.assertions import assert_added, assert_not_added
    from sandq.testing.inline import InlineWorker, Ran, run_inline
    from sandq.testing.supervisor import RunningSupervisor, running_supervisor

# Loaded on first use: pytest imports the plugin at every start, also where no test needs any of this.
_HOMES = {
    "InlineWorker": "sandq.testing.inline",
    "PrivateServer": "sandq.private",
    "Ran": "sandq.testing.inline",
    "RunningSupervisor": "sandq.testing.supervisor",
    "assert_added": "sandq.testing.assertions",
    "assert_not_added": "sandq.testing.assertions",
    "run_inline": "sandq.testing.inline",
    "running_supervisor": "sandq.testing.supervisor",
}

__all__ = [
    "InlineWorker",
    "PrivateServer",
    "Ran",
    "RunningSupervisor",
    "assert_added",
    "assert_not_added",
    "run_inline",
    "running_supervisor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sandq.testing' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
