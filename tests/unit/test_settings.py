"""Where settings come from, and what is said when one is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandq.config import Keep
from sandq.errors import ConfigError
from sandq.settings import Settings, read_settings, strange_variables

FILE = """
redis = "redis://file:6379"
lock = "20s"
concurrency = 3
max_crashes = 5

[queues.render]
processor = "jobs/render.py:process"
concurrency = 4
timeout = "2m"

[queues.mail]
processor = "shop.mail"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sandq.toml").write_text(FILE)
    return tmp_path


def read(folder: Path, **said: object) -> Settings:
    return read_settings(**{"folder": folder, "environ": {}} | said)  # type: ignore[arg-type]


def test_without_file_and_words_everything_is_the_default_and_no_redis_is_named(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert settings.supervisor.redis == ""
    assert settings.supervisor.prefix == "bull"
    assert settings.supervisor.lease.lock_s == 15
    assert dict(settings.queues) == {}
    assert settings.file is None


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        ({}, {}, "redis://file:6379"),
        ({"SANDQ_REDIS_URL": "redis://env"}, {}, "redis://env"),
        ({"SANDQ_REDIS_URL": "redis://env"}, {"redis": "redis://flag"}, "redis://flag"),
        ({"SANDQ_REDIS_URL": ""}, {"redis": None}, "redis://file:6379"),
    ],
)
def test_a_flag_beats_the_environment_which_beats_the_file(
    folder: Path, environ: dict[str, str], flags: dict[str, str], expected: str
) -> None:
    assert read(folder, environ=environ, flags=flags).supervisor.redis == expected


def test_a_queue_takes_its_own_table_before_the_defaults_at_the_top_of_the_file(folder: Path) -> None:
    queues = read(folder).queues
    assert (queues["render"].concurrency, queues["render"].timeout_s) == (4, 120)
    assert (queues["mail"].concurrency, queues["mail"].timeout_s) == (3, None)
    assert queues["render"].max_crashes == queues["mail"].max_crashes == 5


@pytest.mark.parametrize("said", [{"flags": {"concurrency": 9}}, {"environ": {"SANDQ_CONCURRENCY": "9"}}])
def test_a_flag_or_variable_also_beats_what_the_file_says_for_one_queue(folder: Path, said: dict[str, object]) -> None:
    assert {queue.concurrency for queue in read(folder, **said).queues.values()} == {9}


def test_a_processor_path_counts_from_its_file_and_a_module_stays_a_module(folder: Path) -> None:
    queues = read_settings(config=folder / "sandq.toml", folder=Path("/"), environ={}).queues
    assert queues["render"].processor == f"{folder}/jobs/render.py:process"
    assert queues["mail"].processor == "shop.mail"


def test_a_processor_on_the_command_line_joins_the_file_and_counts_from_the_working_directory(folder: Path) -> None:
    queues = read(folder, processors={"render": "other.py", "thumbs": "thumbs.py:make"}).queues
    assert sorted(queues) == ["mail", "render", "thumbs"]
    assert queues["render"].processor == "other.py"
    assert queues["render"].timeout_s == 120
    assert queues["thumbs"].processor == "thumbs.py:make"


def test_pyproject_is_read_only_where_there_is_no_sandq_toml(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.sandq]\nprefix = "shop"\n')
    assert read(tmp_path).supervisor.prefix == "shop"
    (tmp_path / "sandq.toml").write_text('prefix = "other"\n')
    assert read(tmp_path).supervisor.prefix == "other"


def test_a_pyproject_without_our_table_is_not_our_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    assert read(tmp_path).file is None


@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ('memory = "2GiB"', "memory", 2 << 30),
        ("memory = 1024", "memory", 1024),
        ('run_ceiling = "none"', "run_ceiling_s", None),
        ("soft_stop = 0.5", "soft_stop_s", 0.5),
        ('env = ["CUDA_HOME"]', "env", ("CUDA_HOME",)),
        ('env = "CUDA_HOME, MODEL"', "env", ("CUDA_HOME", "MODEL")),
        ("keep_completed = 50", "keep_completed", Keep(count=50)),
        ('keep_completed = "all"', "keep_completed", Keep()),
        ('keep_failed = { count = 10, age = "7d" }', "keep_failed", Keep(count=10, age_s=7 * 86400.0)),
        ('limiter_duration = "1m"', "limiter_duration_s", 60.0),
    ],
)
def test_every_value_reads_as_people_write_it(tmp_path: Path, line: str, field: str, expected: object) -> None:
    (tmp_path / "sandq.toml").write_text(f'{line}\n[queues.q]\nprocessor = "q.py"\n')
    assert getattr(read(tmp_path).queues["q"], field) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("concurency = 3", "sandq.toml: concurency is not a setting here; did you mean concurrency?"),
        ('processor = "x.py"', "processor is not a setting here"),
        ("[queues.q]\nconcurrency = 2", "queues.q has no processor"),
        ('[queues.q]\nprocessor = "q.py"\nlock = "2s"', "queues.q: lock is not a setting here"),
        ('[queues.q]\nprocessor = "q.py"\nconcurrency = 0', "queue q: concurrency is 0; it must be at least 1"),
        ('[queues.q]\nprocessor = "q.py"\nconcurrency = true', "queues.q: concurrency: True is not a whole number"),
        ('lock = "fast"', "lock: 'fast' is not a duration"),
        ('lock = "10ms"', "lock: lock 0.01s is too short"),
        ('memory = "2 elephants"', "memory: '2 elephants' is not a size"),
        ('allow_eviction = "perhaps"', "allow_eviction: 'perhaps' is neither true nor false"),
        ("keep_failed = { days = 3 }", "keep_failed: 'days' is not part of a keep rule"),
        ('queues = "render"', "queues must be tables"),
        ("queues.render = 3", "queues must be tables"),
        ("lock = ", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_place(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "sandq.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(tmp_path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("SANDQ_LOK", "the variable SANDQ_LOK is not a setting; did you mean SANDQ_LOCK?"),
        ("SANDQ_REDIS_ULR", "the variable SANDQ_REDIS_ULR is not a setting; did you mean SANDQ_REDIS_URL?"),
        ("SANDQ_REDIS", "the variable SANDQ_REDIS is not a setting; did you mean SANDQ_REDIS_URL?"),
        ("SANDQ_HOMES", "the variable SANDQ_HOMES is not a setting; did you mean SANDQ_HOME?"),
        ("SANDQ_IMAGE_TAG", "the variable SANDQ_IMAGE_TAG is not a setting; it is ignored"),
    ],
)
def test_a_mistyped_variable_is_told_of(variable: str, told: str) -> None:
    assert strange_variables({variable: "3s", "HOME": "/root"}) == [told]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SANDQ_LOCK", "3s"),
        ("SANDQ_REDIS_URL", "redis://localhost"),
        ("SANDQ_HOME", "/tmp/x"),
        ("SANDQ_CHILD", "7"),
        ("SANDQ_TEST_REDIS_URL", "unix:///r.sock"),
        ("SANDQ_REDIS_SERVICE_HOST", "10.0.0.1"),
        ("SANDQ_SERVICE_PORT_REDIS", "6379"),
        ("SANDQ_PORT", "tcp://10.0.0.1:6379"),
        ("SANDQ_REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("LOK", "3s"),
    ],
)
def test_a_variable_that_is_a_setting_or_somebody_elses_is_not(variable: str, value: str) -> None:
    assert strange_variables({variable: value}) == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"environ": {"SANDQ_LOCK": "soon"}}, "SANDQ_LOCK: 'soon' is not a duration"),
        ({"flags": {"drain_timeout": "soon"}}, "--drain-timeout: 'soon' is not a duration"),
        ({"config": Path("missing.toml")}, "missing.toml cannot be read"),
    ],
)
def test_a_wrong_word_is_refused_with_the_place_where_it_was_said(
    tmp_path: Path, said: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, **said)
    assert told in str(caught.value)
