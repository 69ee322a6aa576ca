"""What a queue's children are told to run: a file, a dotted module, or a callable that was pickled here, once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandq.config import QueueSettings
from sandq.errors import ProcessorError
from sandq.protocol import Frame, Kind


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor as the supervisor knows it: by name, never imported."""

    target: str
    function: str | None = None
    pickled: bytes = b""

    @classmethod
    def of(cls, source: str | Callable[..., Any]) -> Processor:
        """From `PATH[:FUNCTION]`, `package.module[:function]` or a callable. ProcessorError when it cannot be one."""
        return cls._parse(source) if isinstance(source, str) else cls._pickle(source)

    @classmethod
    def _parse(cls, source: str) -> Processor:
        target, colon, function = source.rpartition(":")
        if not colon:
            target, function = source, ""
        if not target or (colon and not function.isidentifier()):
            raise ProcessorError(f"{source!r} is not a processor; write PATH[:FUNCTION], like jobs/render.py:process")
        if target.endswith(".py") or "/" in target:
            path = Path(target)
            if not path.is_file():
                raise ProcessorError(f"there is no processor file {target!r}; the path is relative to {Path.cwd()}")
            target = str(path.resolve())
        return cls(target, function or None)

    @classmethod
    def _pickle(cls, source: Callable[..., Any]) -> Processor:
        import cloudpickle

        name = getattr(source, "__qualname__", repr(source))
        if not callable(source):
            raise ProcessorError(f"{source!r} is neither a path nor a callable; pass 'jobs/render.py' or a function")
        try:
            return cls(name, None, cloudpickle.dumps(source))
        except Exception as error:
            raise ProcessorError(
                f"the callable {name} cannot be carried to a child: {error}; "
                "move what it captures into the function, or register it by path"
            ) from error

    def load_frame(self, settings: QueueSettings) -> Frame:
        """The first frame a child receives."""
        sys_path = [str(Path(entry).resolve()) for entry in sys.path] if self.pickled else []
        head = {"target": self.target, "function": self.function, "sys_path": sys_path, "terms": terms(settings)}
        return Frame(Kind.LOAD, head=head, body=self.pickled)

    def __str__(self) -> str:
        return f"{self.target}:{self.function}" if self.function else self.target


def terms(settings: QueueSettings) -> dict[str, Any]:
    """What a child is told of its queue's settings: once, since they hold for every job that it will run."""
    limits = settings.limits
    return {
        "max_result": settings.max_result,
        "max_data": settings.max_data,
        "may_leave": settings.may_leave,
        "cpu_s": limits.cpu_s if limits is not None else None,
    }
