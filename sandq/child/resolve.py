"""From a processor's name to its callables, with errors that say what was looked for and where."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from sandq.errors import ProcessorError
from sandq.handlers import MARK

Handler = Callable[[Any], Any]


class Processor(NamedTuple):
    """What a child runs: handlers by job name, a default for every other name, and the two optional hooks."""

    named: Mapping[str, Handler] = MappingProxyType({})
    default: Handler | None = None
    setup: Callable[[], Any] | None = None
    teardown: Callable[[], Any] | None = None

    def handler(self, name: str) -> Handler | None:
        """The handler for a job of this name; None when there is none."""
        return self.named.get(name, self.default)


def resolve(target: str, function: str | None) -> Processor:
    """Import `target` (a file ending in .py, or a dotted module) and find its handlers.

    Raises ProcessorError when there is nothing to run; whatever the import itself raises passes through.
    """
    module = _import_file(Path(target)) if target.endswith(".py") else importlib.import_module(target)
    setup, teardown = (
        _callable(module, target, name) if hasattr(module, name) else None for name in ("setup", "teardown")
    )
    if function is not None:
        return Processor(default=_callable(module, target, function), setup=setup, teardown=teardown)
    named = {name: value for value in vars(module).values() for name in getattr(value, MARK, ())}
    default = _callable(module, target, "process") if hasattr(module, "process") else None
    if not named and default is None:
        raise ProcessorError(
            f"there is neither a function `process` nor an @handler in {Path(target).name}; "
            "define one, or name another function as PATH:FUNCTION"
        )
    return Processor(named=named, default=default, setup=setup, teardown=teardown)


def _callable(module: ModuleType, target: str, name: str) -> Callable[..., Any]:
    value = getattr(module, name, None)
    if value is None:
        raise ProcessorError(f"{target} has no function {name!r}; is it defined at module level?")
    if not callable(value):
        raise ProcessorError(f"{name!r} in {target} is a {type(value).__name__}, not a function")
    return value  # type: ignore[no-any-return]


def _import_file(path: Path) -> ModuleType:
    """Import a file as part of its package if it is in one, else on its own with its folder first on sys.path."""
    if not path.is_file():
        raise ProcessorError(f"there is no file {path}; give the processor's path relative to the working directory")
    path = path.resolve()
    root, names = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        names.insert(0, root.name)
        root = root.parent
    sys.path.insert(0, str(root))
    if len(names) > 1:
        return importlib.import_module(".".join(names))
    # A lone file may be called like a module that is already loaded (json.py): then it gets a name of its own.
    name = path.stem if path.stem not in sys.modules else f"sandq_processor_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ProcessorError(f"{path} cannot be imported as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
