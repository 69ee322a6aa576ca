"""Temporary folders of children, and those that somebody left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sandq.supervisor.scratch import PREFIX, Scratch, sweep


@pytest.fixture(autouse=True)
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_each_child_has_a_folder_that_nobody_else_may_enter(own_tmp: Path) -> None:
    scratch = Scratch()
    one, two = scratch.make(1), scratch.make(2)
    assert one != two
    assert one.stat().st_mode & 0o777 == 0o700
    (one / "file").write_text("x")
    scratch.close()
    assert list(own_tmp.iterdir()) == []


def test_a_sweep_takes_what_a_killed_supervisor_left_and_nothing_of_a_living_one(own_tmp: Path) -> None:
    living = Scratch()
    kept = living.make(1)
    left = own_tmp / f"{PREFIX}dead"
    (left / "child-1").mkdir(parents=True)
    (left / "lock").touch()
    sweep()
    assert kept.is_dir()
    assert not left.exists()
    living.close()


def test_a_sweep_does_not_follow_a_link_that_looks_like_a_leftover(own_tmp: Path) -> None:
    (own_tmp / "precious").mkdir()
    (own_tmp / "precious" / "lock").touch()
    (own_tmp / f"{PREFIX}link").symlink_to(own_tmp / "precious")
    sweep()
    assert (own_tmp / "precious" / "lock").exists()
