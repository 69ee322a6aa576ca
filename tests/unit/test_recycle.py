"""When a child has served long enough."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sandq.config import QueueSettings
from sandq.errors import ConfigError
from sandq.settings import read_settings
from sandq.supervisor.recycle import Service, due, looks_every_s, rss_of

MIB = 1 << 20
NOW = 1000.0


@pytest.mark.parametrize(
    ("service", "settings", "reason"),
    [
        ({"jobs": 9}, {}, None),
        ({"jobs": 9}, {"recycle_after": 10}, None),
        ({"jobs": 10}, {"recycle_after": 10}, "has run 10 jobs"),
        ({"jobs": 1}, {"recycle_after": 1}, "has run 1 job"),
        ({"jobs": 1, "rss": 90 * MIB}, {}, None),
        (
            {"jobs": 1, "rss": 90 * MIB},
            {"recycle_rss": 80 * MIB},
            "kept 90MiB of memory after a job, 80MiB are allowed",
        ),
        ({"jobs": 1, "rss": 80 * MIB}, {"recycle_rss": 80 * MIB}, None),
        ({"jobs": 0, "rss": 90 * MIB}, {"recycle_rss": 80 * MIB}, None),
        (
            {"jobs": 1, "rss": 90 * MIB},
            {"memory": 100 * MIB},
            "kept 90MiB of memory after a job, 80MiB are allowed",
        ),
        ({"jobs": 1, "rss": 90 * MIB}, {"memory": 100 * MIB, "recycle_rss": 100 * MIB}, None),
        ({"started_at": NOW - 59}, {"recycle_age_s": 60.0}, None),
        ({"started_at": NOW - 60}, {"recycle_age_s": 60.0}, "is 1m old"),
        ({"jobs": 1, "idle_since": NOW - 9}, {"recycle_idle_s": 10.0}, None),
        ({"jobs": 1, "idle_since": NOW - 10}, {"recycle_idle_s": 10.0}, "has been idle for 10s"),
        ({"jobs": 0, "idle_since": NOW - 999}, {"recycle_idle_s": 10.0}, None),
        ({"unfit": "left 1 thread running: t"}, {}, "left 1 thread running: t"),
        ({"unfit": "left 1 thread running: t", "jobs": 10}, {"recycle_after": 10}, "left 1 thread running: t"),
    ],
)
def test_a_child_is_due_by_what_it_left_by_jobs_by_memory_by_age_or_by_idleness(
    service: dict[str, Any], settings: dict[str, Any], reason: str | None
) -> None:
    served = Service(**{"started_at": NOW, "idle_since": NOW} | service)
    assert due(served, QueueSettings(**settings), NOW) == reason


def test_idle_children_are_looked_at_only_where_time_alone_can_make_them_due() -> None:
    assert looks_every_s(QueueSettings(recycle_after=1, recycle_rss=1)) is None
    assert looks_every_s(QueueSettings(recycle_age_s=3600.0, recycle_idle_s=40.0)) == 10.0
    assert looks_every_s(QueueSettings(recycle_age_s=86400.0)) == 60.0


def test_memory_is_read_from_the_process_and_one_that_ended_has_none() -> None:
    assert rss_of(os.getpid()) > MIB
    assert rss_of((1 << 22) + 1) == 0


@pytest.mark.parametrize("name", ["recycle_after", "recycle_rss", "recycle_age_s", "recycle_idle_s"])
def test_a_limit_of_nothing_is_refused_and_says_how_to_have_none(name: str) -> None:
    with pytest.raises(ConfigError, match="above 0, or none"):
        QueueSettings(**{name: 0})


def test_children_start_in_one_of_the_known_ways() -> None:
    with pytest.raises(ConfigError, match="start is 'fork'; it is one of exec, template"):
        QueueSettings(start="fork")


def test_only_what_is_known_may_be_left() -> None:
    with pytest.raises(ConfigError, match="may_leave has 'programs'; it may have threads, files"):
        QueueSettings(may_leave=("threads", "programs"))


def test_the_file_says_all_of_it_with_units(tmp_path: Path) -> None:
    (tmp_path / "sandq.toml").write_text(
        """
        [queues.render]
        processor = "jobs.py"
        start = "template"
        may_leave = ["files"]
        recycle_after = 100
        recycle_rss = "1GiB"
        recycle_age = "6h"
        recycle_idle = "10m"
        """
    )
    settings = read_settings(folder=tmp_path, environ={}).queues["render"]
    assert (settings.start, settings.may_leave, settings.recycle_after) == ("template", ("files",), 100)
    assert (settings.recycle_rss, settings.recycle_age_s, settings.recycle_idle_s) == (1 << 30, 21600, 600)
