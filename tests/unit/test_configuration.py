"""docs/configuration.md against the settings that there are."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sandq.cli.main import EXIT_CODES, FORCED, OK
from sandq.cli.supervise import supervise
from sandq.config import Limits, QueueSettings, SupervisorSettings, usable_cores
from sandq.settings import FILE_NAME, read_settings
from sandq.supervisor.memory import POLL_S

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
# Defaults that no file could spell, and what they are in the code.
IN_WORDS: dict[str, Any] = {
    "a private server in `.sandq`": "",
    "none": None,
    "usable cores": usable_cores(),
    "must be given": "",
    "80 % of `memory`, where that is set": None,
    "24 h, at most 1000; all where BullMQ made the queue": None,
    "7 days; all where BullMQ made the queue": None,
    "those in [security.md](security.md)": None,
}


SECURITY = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> dict[str, tuple[str, str]]:
    """setting: (default, flag)"""
    found = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) ?\| .* \|$", section(title), re.MULTILINE)
    return {name: (default, flag.strip("` ")) for name, default, flag in found}


SUPERVISOR, QUEUE = rows("Settings of the supervisor"), rows("Settings of a queue")


def parsed(tmp_path: Path, top: str, own: str = "") -> Any:
    (tmp_path / FILE_NAME).write_text(f'{top}\n[queues.q]\nprocessor = "q.py"\n{own}\n')
    return read_settings(folder=tmp_path, environ={})


def field(name: str, settings: SupervisorSettings | QueueSettings) -> str:
    """The field that a setting fills: its own name, or the same with its unit."""
    names = {field.name for field in dataclasses.fields(settings)}
    return next(one for one in (name, f"{name}_s", "lease" if name == "lock" else "") if one in names)


def test_how_often_memory_is_looked_at_is_said() -> None:
    assert f"`memory` is looked at every {1000 * POLL_S:.0f} ms" in SECURITY


def test_every_setting_is_named_once_and_no_other() -> None:
    lease = {field.name for field in dataclasses.fields(SupervisorSettings)}
    assert {field(name, SupervisorSettings()) for name in SUPERVISOR} == lease
    assert {field(name, QueueSettings()) for name in QUEUE} == {f.name for f in dataclasses.fields(QueueSettings)}


@pytest.mark.parametrize("name", SUPERVISOR)
def test_a_default_of_the_supervisor_is_what_the_page_says(name: str, tmp_path: Path) -> None:
    told, default = SUPERVISOR[name][0], SupervisorSettings()
    if told in IN_WORDS:
        assert (getattr(default, field(name, default)) or None) == (IN_WORDS[told] or None)
        return
    settings = parsed(tmp_path, f"{name} = {told.strip('`')}").supervisor
    assert getattr(settings, field(name, default)) == getattr(default, field(name, default))


@pytest.mark.parametrize("name", QUEUE)
def test_a_default_of_a_queue_is_what_the_page_says(name: str, tmp_path: Path) -> None:
    told, default = QUEUE[name][0], QueueSettings()
    if told in IN_WORDS:
        assert (getattr(default, field(name, default)) or None) == (IN_WORDS[told] or None)
        return
    line = f"{name} = {told.strip('`')}"
    for settings in (parsed(tmp_path, line), parsed(tmp_path, "", line)):
        assert getattr(settings.queues["q"], field(name, default)) == getattr(default, field(name, default))


def test_the_flags_are_those_of_supervise() -> None:
    told = {flag: name for name, (_, flag) in (SUPERVISOR | QUEUE).items() if flag}
    flags = [parameter for parameter in supervise.params if parameter.opts[0].startswith("--")]
    others = {"--config", "--burst", "--log-format", "--debug"}
    assert told == {flag.opts[0]: flag.name for flag in flags if flag.opts[0] not in others}


def test_the_limits_of_level_1_are_those_of_the_code(tmp_path: Path) -> None:
    (told,) = re.findall(r"\| `rlimits` .*`(\{.*\})`", PAGE)
    assert parsed(tmp_path, "", f"isolation = 1\nrlimits = {told}").queues["q"].rlimits == Limits()


def test_the_example_is_a_file_that_can_be_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / FILE_NAME).write_text(example)
    queues = read_settings(folder=tmp_path, environ={}).queues
    assert queues["render"].processor == f"{tmp_path}/jobs/render.py:process"
    assert (queues["render"].memory, queues["mail"].memory) == (2 << 30, None)
    (tmp_path / FILE_NAME).unlink()
    tables = tomllib.loads(example)["queues"]
    inside = example.replace("[queues.", "[tool.sandq.queues.")
    (tmp_path / "pyproject.toml").write_text(f"[tool.sandq]\n{inside}")
    assert set(read_settings(folder=tmp_path, environ={}).queues) == set(tables)


def test_every_exit_code_is_told_of() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)}
    assert told == {OK, FORCED, *(code for _, code in EXIT_CODES)}
