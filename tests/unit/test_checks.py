"""What `sandq doctor` makes of what it sees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandq.cli.checks import Finding, Host, judge_host, judge_redis, redis_facts, worst

HOST = Host(
    python=(3, 12, 1),
    pidfd=True,
    pdeathsig=True,
    timer=True,
    subreaper=True,
    autogroup=True,
    cores=4,
    cpu_count=8,
    memory_limit=None,
    oom_group=False,
    fd_limit=1024,
)
GOOD = {"redis_version": "7.2.4", "maxmemory_policy": "noeviction", "maxmemory": "0", "aof_enabled": "1"}


def level(findings: list[Finding], what: str) -> tuple[str, str]:
    return next((finding.level, finding.text) for finding in findings if finding.what == what)


def test_a_good_host_has_nothing_to_be_told() -> None:
    assert worst(judge_host(HOST, children=5, memory=None)) == "ok"


@pytest.mark.parametrize(
    ("change", "what", "expected", "told"),
    [
        ({"python": (3, 10, 9)}, "python", "fail", "use 3.11"),
        ({"pidfd": False}, "pidfd", "fail", "Linux 5.3"),
        ({"pdeathsig": False}, "pdeathsig", "fail", "PR_SET_PDEATHSIG"),
        ({"timer": False}, "timer", "fail", "timer_create"),
        ({"subreaper": False}, "subreaper", "fail", "PR_SET_CHILD_SUBREAPER"),
        ({"oom_group": True}, "oom.group", "warn", "set it to 0"),
        ({"fd_limit": 100}, "open files", "fail", "raise ulimit -n"),
        ({"memory_limit": 1 << 30}, "memory", "warn", "set memory"),
    ],
)
def test_what_a_host_lacks_is_named_with_what_to_do(
    change: dict[str, object], what: str, expected: str, told: str
) -> None:
    findings = judge_host(replace(HOST, **change), children=5, memory=None)  # type: ignore[arg-type]
    found, text = level(findings, what)
    assert found == expected
    assert told in text


@pytest.mark.parametrize(("memory", "expected"), [(100 << 20, "ok"), (300 << 20, "warn")])
def test_children_are_weighed_against_the_memory_of_the_cgroup(memory: int, expected: str) -> None:
    findings = judge_host(replace(HOST, memory_limit=1 << 30), children=5, memory=memory)
    assert level(findings, "memory")[0] == expected


@pytest.mark.parametrize(
    ("change", "config", "what", "expected"),
    [
        ({}, {}, "eviction", "ok"),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": "1000000"}, {}, "eviction", "fail"),
        ({"maxmemory_policy": "volatile-ttl", "maxmemory": "1000000"}, {}, "eviction", "fail"),
        ({"maxmemory_policy": "volatile-ttl"}, {}, "eviction", "warn"),
        ({"maxmemory_policy": ""}, {}, "eviction", "warn"),
        ({}, {}, "persistence", "ok"),
        ({"aof_enabled": "0"}, {"appendonly": "no", "save": "3600 1"}, "persistence", "warn"),
        ({"aof_enabled": "0"}, {"appendonly": "no", "save": ""}, "persistence", "warn"),
        ({"redis_version": "6.0.16"}, {}, "version", "fail"),
        ({"redis_version": "6.2.0"}, {}, "version", "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, {}, "version", "ok"),
        ({"redis_version": "unstable"}, {}, "version", "warn"),
    ],
)
def test_what_a_redis_says_of_itself_is_judged(
    change: dict[str, str], config: dict[str, str], what: str, expected: str
) -> None:
    assert level(judge_redis(redis_facts(GOOD | change, config)), what)[0] == expected
