"""Did the kernel kill for want of memory? Its own counters say so: a SIGKILL alone could be from anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

LOOK_EVERY_S = 0.1
LONG_AGO_S = 1.0  # what happened before that has nothing to do with a job that begins now

Reading = tuple[str, int]  # (file, how many processes the kernel has killed)


def kills() -> Reading | None:
    """The nearest counter of OOM kills: of our own cgroup, else of the container's root, else of the whole host."""
    for path, parse in _counters(memory_groups(_text(PROC / "self/cgroup"))):
        count = parse(_text(path))
        if count is not None:
            return str(path), count
    return None


class Watch:
    """What the kernel did lately, for whoever finds a child killed. A job that begins has it `look`.

    Not for each: reading the counter costs as much as a third of all else that a short job needs.
    """

    def __init__(self) -> None:
        self._before = self._last = kills()
        self._looked_at = -LOOK_EVERY_S  # the first job looks

    def look(self, now: float) -> None:
        """Note how it stands, unless that was done just now."""
        ago_s = now - self._looked_at
        if ago_s >= LOOK_EVERY_S:
            reading = kills()
            self._before = self._last if ago_s < LONG_AGO_S else reading
            self._last, self._looked_at = reading, now

    def recent(self) -> int:
        """How many it killed since a moment shortly before the last job began."""
        return max(kills_since(self._before), kills_since(self._last))


def kills_since(before: Reading | None) -> int:
    """How many there were since `before` was read; 0 too where nobody can tell."""
    now = kills()
    if before is None or now is None or now[0] != before[0]:
        return 0
    return max(0, now[1] - before[1])


def _counters(groups: dict[int, str]) -> Iterator[tuple[Path, Callable[[str], int | None]]]:
    for folder in group_folders(groups):
        yield folder / "memory.events", lambda text: counter(text, "oom_kill")
        yield folder / "memory.oom_control", lambda text: counter(text, "oom_kill")
    yield PROC / "vmstat", lambda text: counter(text, "oom_kill")


def group_folders(groups: dict[int, str]) -> list[Path]:
    """Where the files of our memory cgroup may stand, the most telling first.

    Inside a container the path that the kernel names often leads nowhere: then the mount's root is our own group.
    """
    found = []
    for version, root in ((1, CGROUPS / "memory"), (2, CGROUPS), (2, CGROUPS / "unified")):
        if version in groups:
            found += [root / groups[version].lstrip("/"), root]
    return list(dict.fromkeys(found))


def memory_groups(text: str) -> dict[int, str]:
    """The paths of our memory cgroup by cgroup version, from the text of /proc/self/cgroup."""
    groups: dict[int, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups[2] = path
        elif "memory" in controllers.split(","):
            groups[1] = path
    return groups


def counter(text: str, name: str) -> int | None:
    """The number in a line `name number`; None where there is no such line."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def memory_limit() -> int | None:
    """Bytes that our memory cgroup may use; None for no limit, or none that we can see."""
    limits = []
    for folder in group_folders(memory_groups(_text(PROC / "self/cgroup"))):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(folder / name).strip()
            if text.isdigit() and int(text) < 1 << 60:  # v1 says "none" as the largest page-rounded number
                limits.append(int(text))
    return min(limits, default=None)


def kills_whole_group() -> bool | None:
    """Whether memory.oom.group is set: one job out of memory then takes everybody along. None where there is none."""
    for folder in group_folders(memory_groups(_text(PROC / "self/cgroup"))):
        text = _text(folder / "memory.oom.group").strip()
        if text:
            return text == "1"
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
