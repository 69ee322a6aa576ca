"""Options that several commands share. Durations and sizes stay text: settings and Queue read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def store_options(command: F) -> F:
    """Which Redis, and under which prefix."""
    command = click.option("--prefix", metavar="P", help="Key prefix of the queues (default bull).")(command)
    return click.option(
        "--redis", metavar="URL", help="Redis to use; prefer SANDQ_REDIS_URL, argv is readable by everyone."
    )(command)


def json_option(command: F) -> F:
    """Print JSON instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def debug_option(command: F) -> F:
    """Show the traceback of an error; the door in main.py looks for it."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(command)


def config_option(command: F) -> F:
    """Another configuration file than the one in this folder."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Configuration (default: sandq.toml, else [tool.sandq] of pyproject.toml).",
    )(command)
