"""What a queue asks for beyond a process of its own, as a value."""

from __future__ import annotations

import pytest

from sandq.cli.checks import judge_isolation
from sandq.config import Limits, QueueSettings
from sandq.errors import ConfigError
from sandq.settings import read_settings
from sandq.supervisor.confine import Confinement


def test_level_0_asks_the_launcher_for_nothing() -> None:
    free = Confinement.of(QueueSettings())
    assert (free.wish(), free.prefix(None), free.private_tmp) == (None, [], False)


def test_level_1_asks_for_its_limits_and_a_folder() -> None:
    confined = Confinement.of(QueueSettings(isolation=1, rlimits=Limits(open_files=100, data=5, file_size=None)))
    assert confined.wish() == {"rlimits": {"RLIMIT_NOFILE": 100, "RLIMIT_DATA": 5}}
    assert confined.private_tmp


def test_a_wrapper_is_found_on_path_and_told_the_childs_folder() -> None:
    confined = Confinement.of(QueueSettings(wrap=("env", "--bind", "{tmp}", "{tmp}")))
    program, *rest = confined.prefix("/t/1")
    assert program.startswith("/")
    assert rest == ["--bind", "/t/1", "/t/1"]
    assert confined.private_tmp


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"isolation": 2}, "0 or 1"),
        ({"rlimits": Limits()}, "isolation = 1"),
        ({"isolation": 1, "start": "template"}, "start = exec"),
        ({"wrap": ("env",), "start": "template"}, "start = exec"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        QueueSettings(**asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [{"open_files": 10}, {"cpu_s": 0.5}])
def test_a_limit_that_no_child_could_live_with_is_refused(asked: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="rlimits"):
        Limits(**asked)  # type: ignore[arg-type]


def test_the_file_spells_isolation_like_everything_else(tmp_path) -> None:
    (tmp_path / "sandq.toml").write_text(
        """
        [queues.render]
        processor = "jobs"
        isolation = 1
        wrap = ["bwrap", "--die-with-parent"]
        rlimits = { open_files = 512, data = "2GiB", file_size = "none", cpu = "10m" }
        output_dir = "logs"
        keep_output = "always"
        output_rate = "1MiB"
        """
    )
    queue = read_settings(folder=tmp_path, environ={}).queues["render"]
    assert queue.limits == Limits(open_files=512, data=2 << 30, file_size=None, cpu_s=600.0)
    assert queue.wrap == ("bwrap", "--die-with-parent")
    assert (queue.output_dir, queue.keep_output, queue.output_rate) == ("logs", "always", 1 << 20)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("rlimits = 5", "is not a table"),
        ("rlimits = {files = 1}", "is not a limit"),
        ('keep_output = "some"', "none of"),
    ],
)
def test_a_setting_that_is_not_understood_is_named(tmp_path, line: str, told: str) -> None:
    (tmp_path / "sandq.toml").write_text(f'[queues.render]\nprocessor = "jobs"\nisolation = 1\n{line}\n')
    with pytest.raises(ConfigError, match=told):
        read_settings(folder=tmp_path, environ={})


def test_a_level_that_was_refused_fails_only_who_asked_for_it() -> None:
    asked = judge_isolation("isolation 1", ["tmp: no"], is_asked=True, layers="")
    unasked = judge_isolation("isolation 1", ["tmp: no"], is_asked=False, layers="")
    assert (asked.level, unasked.level) == ("fail", "warn")
    assert asked.text == "refused: tmp: no"
    assert judge_isolation("isolation 1", [], is_asked=True, layers="rlimits").level == "ok"
