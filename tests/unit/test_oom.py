"""Reading the kernel's own account of whom it killed for want of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandq.supervisor import oom

V1 = "9:name=systemd:/\n4:memory:/pod/7\n1:cpu,cpuacct:/pod/7\n0::/\n"
V2 = "0::/system.slice/jobs.service\n"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for / with its /proc and /sys."""
    monkeypatch.setattr(oom, "PROC", tmp_path / "proc")
    monkeypatch.setattr(oom, "CGROUPS", tmp_path / "cgroup")
    write(tmp_path / "proc/vmstat", "nr_free_pages 5\noom_kill 3\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "expected"), [(V1, {1: "/pod/7", 2: "/"}), (V2, {2: "/system.slice/jobs.service"}), ("", {}), ("x", {})]
)
def test_our_memory_cgroups_are_found_in_both_versions(text: str, expected: dict[int, str]) -> None:
    assert oom.memory_groups(text) == expected


def test_a_counter_is_a_line_of_name_and_number() -> None:
    assert oom.counter("low 0\noom 2\noom_kill 1\n", "oom_kill") == 1
    assert oom.counter("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", "oom_kill") == 4
    assert oom.counter("oom_kill x\n", "oom_kill") is None
    assert oom.counter("", "oom_kill") is None


def test_the_own_cgroup_is_asked_before_the_containers_root_and_the_host(kernel: Path) -> None:
    write(kernel / "proc/self/cgroup", V2)
    assert oom.kills() == (str(kernel / "proc/vmstat"), 3)
    write(kernel / "cgroup/memory.events", "oom_kill 2\n")
    assert oom.kills() == (str(kernel / "cgroup/memory.events"), 2)
    own = kernel / "cgroup/system.slice/jobs.service/memory.events"
    write(own, "oom_kill 1\n")
    assert oom.kills() == (str(own), 1)


def test_version_1_keeps_its_count_in_oom_control(kernel: Path) -> None:
    write(kernel / "proc/self/cgroup", V1)
    write(kernel / "cgroup/memory/pod/7/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 8\n")
    assert oom.kills() == (str(kernel / "cgroup/memory/pod/7/memory.oom_control"), 8)


def test_kills_are_counted_from_a_reading_of_the_same_file(kernel: Path) -> None:
    write(kernel / "proc/self/cgroup", V2)
    before = oom.kills()
    assert oom.kills_since(before) == 0
    write(kernel / "proc/vmstat", "oom_kill 5\n")
    assert oom.kills_since(before) == 2
    write(kernel / "cgroup/memory.events", "oom_kill 9\n")
    assert oom.kills_since(before) == 0, "another file's number says nothing about this one's"
    assert oom.kills_since(None) == 0


def test_a_host_that_tells_nothing_is_no_evidence(kernel: Path) -> None:
    (kernel / "proc/vmstat").unlink()
    assert oom.kills() is None
    assert oom.memory_limit() is None
    assert oom.kills_whole_group() is None


def test_the_tightest_memory_limit_that_can_be_seen_holds(kernel: Path) -> None:
    write(kernel / "proc/self/cgroup", V2)
    write(kernel / "cgroup/memory.max", "max\n")
    assert oom.memory_limit() is None
    write(kernel / "cgroup/memory.max", "4096\n")
    write(kernel / "cgroup/system.slice/jobs.service/memory.max", "8192\n")
    assert oom.memory_limit() == 4096


def test_no_limit_of_version_1_is_no_limit(kernel: Path) -> None:
    write(kernel / "proc/self/cgroup", V1)
    write(kernel / "cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert oom.memory_limit() is None


@pytest.mark.parametrize(("text", "expected"), [("1\n", True), ("0\n", False)])
def test_whether_the_kernel_kills_the_whole_group_is_read(kernel: Path, text: str, expected: bool) -> None:
    write(kernel / "proc/self/cgroup", V2)
    write(kernel / "cgroup/system.slice/jobs.service/memory.oom.group", text)
    assert oom.kills_whole_group() is expected
