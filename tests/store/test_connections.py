"""Where URLs lead, what they never show, and which servers are refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from nodes import Nodes, client, holder, moving, redirected, until
from test_executors import async_run, both, count, echo, sync_run

from sandq.errors import ConfigError, QueueError, StartRefused, StoreRefused, StoreUnavailable
from sandq.store.connections import check_server, judge_server
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.urls import parse_url, redact, resolve_url

if TYPE_CHECKING:
    from conftest import RedisServer


@pytest.mark.parametrize(
    ("url", "kind", "seeds", "options"),
    [
        ("redis://h:7/3", "", [("h", 7)], {"db": 3}),
        ("redis://", "", [("localhost", 6379)], {}),
        ("redis://u:p%40@h", "", [("h", 6379)], {"username": "u", "password": "p@"}),
        ("redis://[::1]:7/1?socket_timeout=99&retry_on_timeout=yes", "", [("::1", 7)], {"db": 1}),
        ("rediss://h/0?ssl_cert_reqs=none", "", [("h", 6379)], {"db": 0, "ssl_cert_reqs": "none"}),
        ("redis+cluster://a,b:7", "cluster", [("a", 6379), ("b", 7)], {}),
        ("rediss+cluster://u:p@a,b", "cluster", [("a", 6379), ("b", 6379)], {"username": "u", "password": "p"}),
        ("redis+sentinel://a,b:7/mymaster", "sentinel", [("a", 26379), ("b", 7)], {}),
        ("redis+sentinel://:p@a/mymaster/2", "sentinel", [("a", 26379)], {"password": "p", "db": 2}),
    ],
)
def test_a_url_leads_where_it_says(url: str, kind: str, seeds: list[Any], options: dict[str, Any]) -> None:
    target = parse_url(url)
    assert target.kind == kind
    assert [(seed["host"], seed["port"]) for seed in target.seeds] == seeds
    assert target.options == options


def test_a_socket_url_may_hold_quoted_characters() -> None:
    assert parse_url("unix:///run/my%20redis.sock?db=2").seeds == ({"path": "/run/my redis.sock"},)


def test_sentinels_are_asked_as_their_own_user() -> None:
    target = parse_url("redis+sentinel://u:p@a/m/2?sentinel_password=s")
    assert (target.options, target.seed_options) == (
        {"username": "u", "password": "p", "db": 2},
        {"password": "s"},
    )


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:6379", "not a Redis URL; use one of redis://"),
        ("http://u:hunter2@h", "not a Redis URL"),
        ("redis+ring://h", "not a Redis URL"),
        ("unix+cluster:///x", "not a Redis URL"),
        ("unix://", "socket's path is missing"),
        ("redis+sentinel://a,b", "master's name is missing"),
        ("redis://:hunter2@h:port/0", "[Pp]ort"),
        ("redis://h/0?colour=red", "colour"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:secret@h/0", "redis://u:***@h/0"),
        ("redis://:se@cret@h/0", "redis://:***@h/0"),
        ("redis://u@h", "redis://u@h"),
        ("redis+sentinel://u:secret@a,b/m?sentinel_password=secret&db=1", None),
        ("unix:///x.sock?db=1&password=secret", "unix:///x.sock?db=1&password=***"),
        ("rediss://h?ssl_password=secret", "rediss://h?ssl_password=***"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str | None) -> None:
    assert "secret" not in redact(url)
    assert "cret" not in repr(parse_url(url))
    assert shown is None or redact(url) == shown


def test_the_redis_is_the_one_named_else_the_environments_else_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDQ_REDIS_URL", "redis://from-env")
    assert resolve_url("redis://named") == "redis://named"
    assert resolve_url(None) == "redis://from-env"
    monkeypatch.delenv("SANDQ_REDIS_URL")
    with pytest.raises(QueueError, match="pass redis='redis://host:6379/0' or set SANDQ_REDIS_URL"):
        resolve_url(None)


def test_a_fit_server_is_told_by_its_version(redis_url: str) -> None:
    facts = check_server(redis_url)
    assert facts.version.split(".")[0].isdigit()
    assert facts.warnings == ()


def test_a_server_that_evicts_is_refused_with_the_fix(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert "harmless until maxmemory is set" in check_server(server.url).warnings[0]
        client.config_set("maxmemory", "100mb")
        with pytest.raises(StartRefused, match="CONFIG SET maxmemory-policy noeviction"):
            check_server(server.url)
        assert "may vanish" in check_server(server.url, allow_eviction=True).warnings[0]


@pytest.mark.parametrize(("version", "fit"), [("6.0.16", False), ("6.2.0", True), ("7.0.15", True), ("10.1.0", True)])
def test_a_server_older_than_6_2_is_refused(version: str, fit: bool) -> None:
    info = f"# Server\r\nredis_version:{version}\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"
    if fit:
        assert judge_server(info, "redis://h").version == version
        return
    with pytest.raises(StartRefused, match=r"version 6\.0\.16; sandq needs 6\.2"):
        judge_server(info, "redis://h")


def test_a_server_that_is_not_there_or_hangs_is_one_line_soon(server: RedisServer) -> None:
    server.pause()
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"does not answer: .*; is it running"):
        check_server(server.url, timeout_s=0.3)
    assert time.monotonic() - started < 1
    server.kill()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        check_server(server.url)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    try:
        yield made
    finally:
        made.close()


@both
def test_a_sentinel_is_asked_for_the_master_and_a_dead_one_skipped(runner: Any, nodes: Nodes, keys: QueueKeys) -> None:
    master = nodes.start()
    sentinel = nodes.start(mode=("--sentinel",), config=f"sentinel monitor mymaster 127.0.0.1 {master} 1\n")
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel}/mymaster"
    assert runner(url, 5, count(keys), count(keys), echo("a")) == [1, 2, b"a"]
    assert client(master).get(keys.key("n")) == "2"
    with pytest.raises(StoreUnavailable, match="no sentinel knows a master 'other'"):
        runner(f"redis+sentinel://127.0.0.1:{sentinel}/other", 0.3, echo("a"))


@pytest.fixture
def cluster(nodes: Nodes) -> list[int]:
    """Two nodes with half of the slots each."""
    return nodes.cluster(2)


def test_each_queues_calls_go_to_the_node_that_holds_it_also_while_it_moves(cluster: list[int]) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster[1]}"
    queues = [QueueKeys(f"q{n}", f"{{q{n}}}") for n in range(4)]
    assert sync_run(url, 5, *map(count, queues)) == [1, 1, 1, 1]
    assert async_run(url, 5, *map(count, queues)) == [2, 2, 2, 2]
    assert {holder(cluster, keys) for keys in queues} == set(cluster)
    with pytest.raises(StoreRefused, match="must carry a hash tag"):
        sync_run(url, 5, count(QueueKeys("untagged", "bull")))

    executor = SyncExecutor(url)
    assert executor.run(count(queues[0])) == 3
    source = holder(cluster, queues[0])
    [target] = set(cluster) - {source}
    answers: list[int] = []
    calling = threading.Thread(target=lambda: answers.append(executor.run(count(queues[0]))))
    with moving(source, target, queues[0]):
        refusals = redirected(source)
        calling.start()
        until(lambda: redirected(source) > refusals, "the old node sent the call away")
        assert answers == []
    calling.join(5)
    executor.close()
    assert answers == [4]
    assert holder(cluster, queues[0]) == target
