"""Where settings come from: flag, then environment (`SANDQ_...`), then file, then the default. Reads, never starts."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandq.config import Keep, Lease, Limits, QueueSettings, SupervisorSettings
from sandq.errors import ConfigError
from sandq.units import seconds, size

FILE_NAME = "sandq.toml"
OFF = ("none", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that was said, merged: `supervisor.redis` is "" when nobody named a Redis."""

    supervisor: SupervisorSettings = field(default_factory=SupervisorSettings)
    queues: Mapping[str, QueueSettings] = field(default_factory=dict)
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Setting:
    """One name that users write: the field it fills and how its text, number or table is read."""

    field: str
    read: Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{value!r} is not text")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{value!r} is not a whole number")
    return value


def _flag(value: Any) -> bool:
    known = {True: True, False: False, "true": True, "1": True, "false": False, "0": False}
    if not isinstance(value, (bool, str)) or value not in known:
        raise ConfigError(f"{value!r} is neither true nor false")
    return known[value]


def _texts(value: Any) -> tuple[str, ...]:
    items = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ConfigError(f"{value!r} is not a list of names")
    return tuple(items)


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise ConfigError(f"{value!r} is none of {', '.join(words)}")
        return str(value)

    return read


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`none` (or `off`) is how people say that there is no limit; TOML has no null."""
    return lambda value: None if value in OFF else read(value)


def _keep(value: Any) -> Keep:
    """`1000`, `"all"`, or `{ count = 1000, age = "24h" }`."""
    if value == "all":
        return Keep()
    if not isinstance(value, Mapping):
        return Keep(count=_integer(value))
    unknown = set(value) - {"count", "age", "limit"}
    if unknown:
        raise ConfigError(f"{sorted(unknown)[0]!r} is not part of a keep rule; it has count, age and limit")
    return Keep(
        count=_integer(value["count"]) if "count" in value else None,
        age_s=seconds(value["age"]) if "age" in value else None,
        limit=_integer(value.get("limit", 1000)),
    )


def _limits(value: Any) -> Limits:
    """`{ open_files = 512, data = "2GiB", file_size = "none", cpu = "10m" }`; what is left out has its default."""
    readers: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "open_files": ("open_files", _integer),
        "data": ("data", size),
        "file_size": ("file_size", size),
        "cpu": ("cpu_s", seconds),
    }
    if not isinstance(value, Mapping):
        raise ConfigError(f"{value!r} is not a table; write {{ open_files = 512 }} into the file")
    if unknown := set(value) - set(readers):
        raise ConfigError(f"{sorted(unknown)[0]!r} is not a limit; there are {', '.join(readers)}")
    return Limits(**{readers[name][0]: _or_none(readers[name][1])(asked) for name, asked in value.items()})


_SUPERVISOR = {
    "redis": _Setting("redis", _text),
    "prefix": _Setting("prefix", _text),
    "name": _Setting("name", _text),
    "lock": _Setting("lease", lambda value: Lease(seconds(value))),
    "redis_timeout": _Setting("redis_timeout_s", seconds),
    "drain_timeout": _Setting("drain_timeout_s", seconds),
    "cancel_every": _Setting("cancel_every_s", seconds),
    "allow_eviction": _Setting("allow_eviction", _flag),
}
_QUEUE = {
    "concurrency": _Setting("concurrency", _integer),
    "spares": _Setting("spares", _integer),
    "timeout": _Setting("timeout_s", _or_none(seconds)),
    "run_ceiling": _Setting("run_ceiling_s", _or_none(seconds)),
    "soft_stop": _Setting("soft_stop_s", seconds),
    "term_stop": _Setting("term_stop_s", seconds),
    "memory": _Setting("memory", _or_none(size)),
    "max_crashes": _Setting("max_crashes", _integer),
    "max_interruptions": _Setting("max_interruptions", _integer),
    "max_unknown_names": _Setting("max_unknown_names", _integer),
    "max_stalled_count": _Setting("max_stalled_count", _integer),
    "start": _Setting("start", _text),
    "may_leave": _Setting("may_leave", _texts),
    "recycle_after": _Setting("recycle_after", _or_none(_integer)),
    "recycle_rss": _Setting("recycle_rss", _or_none(size)),
    "recycle_age": _Setting("recycle_age_s", _or_none(seconds)),
    "recycle_idle": _Setting("recycle_idle_s", _or_none(seconds)),
    "max_data": _Setting("max_data", size),
    "max_result": _Setting("max_result", size),
    "keep_completed": _Setting("keep_completed", _keep),
    "keep_failed": _Setting("keep_failed", _keep),
    "env": _Setting("env", _texts),
    "add_to": _Setting("add_to", _texts),
    "limiter_max": _Setting("limiter_max", _or_none(_integer)),
    "limiter_duration": _Setting("limiter_duration_s", seconds),
    "isolation": _Setting("isolation", _integer),
    "rlimits": _Setting("rlimits", _limits),
    "wrap": _Setting("wrap", _texts),
    "output_rate": _Setting("output_rate", size),
    "keep_output": _Setting("keep_output", _one_of("failed", "always", "never")),
    "output_dir": _Setting("output_dir", _text),
    "metrics_points": _Setting("metrics_points", _integer),
}
_PROCESSOR = {"processor": _Setting("processor", _text)}
# The environment says `SANDQ_REDIS_URL`, as every Redis client does; the file and the flag say `redis`.
_VARIABLES = {f"SANDQ_{name.upper()}": name for name in (*_SUPERVISOR, *_QUEUE) if name != "redis"}
_VARIABLES["SANDQ_REDIS_URL"] = "redis"
_PREFIX = "SANDQ_"
# Variables that are no settings: the private server's folder, the mark of a child, whose programs may call sandq, those
# of our tests, and what Kubernetes says of every service, one called `sandq-redis` for instance.
_OTHERS = re.compile(
    r"SANDQ_(HOME|CHILD|TEST_\w+|CHAOS_\w+)$|SANDQ_(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))"
)
_LINK = re.compile("(tcp|udp|sctp)://")


def read_settings(
    *,
    config: Path | None = None,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    processors: Mapping[str, str] | None = None,
) -> Settings:
    """Merge flags, environment and file; ConfigError names the place of the first wrong one.

    `flags` hold the file's names, None for a flag that was not given. `processors` come from `QUEUE=PATH`.
    """
    file, table = _read_file(config, folder or Path.cwd())
    queues = _take_queues(table, file)
    said = _fields(table, {**_SUPERVISOR, **_QUEUE}, str(file))
    for where, name, value in _spoken(os.environ if environ is None else environ, flags or {}):
        said[_known(name).field] = _read(where, _known(name), value)
        for own in queues.values():  # it beats the file also where the file says it for one queue
            own.pop(name, None)
    own_fields = {setting.field for setting in _SUPERVISOR.values()}
    shared = {field: value for field, value in said.items() if field not in own_fields}
    served = {
        queue: _queue(queue, own, shared, file) for queue, own in queues.items() if queue not in (processors or {})
    }
    for queue, processor in (processors or {}).items():
        served[queue] = _queue(queue, {**queues.get(queue, {}), "processor": processor}, shared, None)
    return Settings(
        supervisor=SupervisorSettings(**{field: said[field] for field in own_fields & set(said)}),
        queues=served,
        file=file,
    )


def strange_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that looks like a setting and is none: a slip must not pass in silence.

    No more than a sentence, since a deployment may have variables of its own that begin like ours.
    """
    known = {variable.removeprefix(_PREFIX): variable for variable in (*_VARIABLES, "SANDQ_HOME")}
    strange = []
    for variable, value in sorted(environ.items()):
        if not variable.startswith(_PREFIX) or variable in _VARIABLES or _OTHERS.match(variable) or _LINK.match(value):
            continue
        near = difflib.get_close_matches(variable.removeprefix(_PREFIX), known, n=1)
        hint = f"did you mean {known[near[0]]}?" if near else "it is ignored"
        strange.append(f"the variable {variable} is not a setting; {hint}")
    return strange


def _spoken(environ: Mapping[str, str], flags: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """What beats the file, the stronger last: (where it was said, name, value)."""
    for variable, name in _VARIABLES.items():
        if environ.get(variable):
            yield variable, name, environ[variable]
    for name, value in flags.items():
        if value is not None:
            yield "--" + name.replace("_", "-"), name, value


def _queue(queue: str, own: Mapping[str, Any], shared: Mapping[str, Any], file: Path | None) -> QueueSettings:
    where = f"{file}: queues.{queue}" if file else f"queue {queue}"
    fields = {**shared, **_fields(own, {**_QUEUE, **_PROCESSOR}, where)}
    if not fields.get("processor"):
        raise ConfigError(f'{where} has no processor; add processor = "jobs.py:function"')
    if file is not None:
        fields["processor"] = _from_folder(fields["processor"], file.parent)
    try:
        return QueueSettings(**fields)
    except ConfigError as error:
        raise ConfigError(f"queue {queue}: {error}") from error


def _read_file(config: Path | None, folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The file that was named, else sandq.toml, else pyproject.toml's [tool.sandq], else none."""
    if config is not None:
        path = folder / config
        table = _parse(path)
        return path, table.get("tool", {}).get("sandq", {}) if path.name == "pyproject.toml" else table
    if (folder / FILE_NAME).is_file():
        return folder / FILE_NAME, _parse(folder / FILE_NAME)
    pyproject = folder / "pyproject.toml"
    table = _parse(pyproject).get("tool", {}).get("sandq", {}) if pyproject.is_file() else {}
    return (pyproject, table) if table else (None, {})


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; check --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _take_queues(table: dict[str, Any], file: Path | None) -> dict[str, dict[str, Any]]:
    queues = table.pop("queues", {})
    if not isinstance(queues, dict) or not all(isinstance(own, dict) for own in queues.values()):
        raise ConfigError(f'{file}: queues must be tables; write [queues.NAME] with processor = "jobs.py:function"')
    return {queue: dict(own) for queue, own in queues.items()}


def _fields(table: Mapping[str, Any], known: Mapping[str, _Setting], where: str) -> dict[str, Any]:
    fields = {}
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"{where}: {name} is not a setting here{_hint(name, known)}")
        fields[known[name].field] = _read(f"{where}: {name}", known[name], value)
    return fields


def _read(where: str, setting: _Setting, value: Any) -> Any:
    try:
        return setting.read(value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"


def _known(name: str) -> _Setting:
    return _SUPERVISOR.get(name) or _QUEUE[name]


def _from_folder(processor: str, folder: Path) -> str:
    """A path in a file counts from that file, wherever sandq is started; a dotted module stays as it is."""
    target, colon, function = processor.rpartition(":") if ":" in processor else (processor, "", "")
    is_path = target.endswith(".py") or "/" in target
    return f"{folder / target}{colon}{function}" if is_path else processor
