"""Cutting, counting and keeping what children write."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandq.protocol import RECORD_END, RECORD_MARK
from sandq.supervisor import output, sink
from sandq.supervisor.output import LEFT_OUT, LINES_PER_S, MAX_LINE, TAIL, TAIL_LINES, Bucket, Capture, Tail
from sandq.supervisor.sink import FULL, JobFile, file_of


class Heard(list):
    """What a capture told, with a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(output, "boottime", lambda: self.now)
        self.capture = Capture(lambda *said: self.append(said))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    return Heard(monkeypatch)


def test_a_line_is_told_when_it_is_whole_and_the_last_one_at_the_end(heard: Heard) -> None:
    heard.capture.feed("stdout", b"one\ntw")
    assert heard == [("stdout", "one", "")]
    heard.capture.feed("stdout", b"o\nthree")
    heard.capture.end()
    assert [line for _, line, _ in heard] == ["one", "two", "three"]


def test_control_characters_and_broken_utf8_are_made_harmless(heard: Heard) -> None:
    heard.capture.feed("stderr", b"\x1b[2Jend\r\n\xff\n")
    assert [line for _, line, _ in heard] == [" [2Jend", "\ufffd"]


def test_a_record_says_its_level_and_a_forged_one_is_a_line(heard: Heard) -> None:
    heard.capture.feed("stderr", RECORD_MARK + b"WARNING" + RECORD_END + b"disk: hm\n")
    heard.capture.feed("stderr", RECORD_MARK + b"x" * 30 + RECORD_END + b"hm\n" + RECORD_MARK + b"no end\n")
    assert heard == [
        ("stderr", "disk: hm", "WARNING"),
        ("stderr", f" {30 * 'x'} hm", ""),
        ("stderr", " no end", ""),
    ]


def test_a_line_without_end_is_cut_and_not_hoarded(heard: Heard) -> None:
    for _ in range(100):
        heard.capture.feed("stdout", b"x" * 1000)
    assert max(len(line) for _, line, _ in heard) == MAX_LINE
    assert len(heard) >= 10


def test_a_flood_is_told_up_to_the_line_rate_and_counted_beyond(heard: Heard) -> None:
    for _ in range(50):
        heard.capture.feed("stdout", b"x\n" * 1000)
    assert len(heard) == LINES_PER_S
    heard.now += 1
    heard.capture.feed("stdout", b"y\n")
    assert heard[-2:] == [("stdout", "(49900 more lines were dropped)", ""), ("stdout", "y", "")]


def test_the_rest_of_a_flood_is_counted_at_the_end(heard: Heard) -> None:
    heard.capture.feed("stdout", b"x\n" * 101)
    heard.capture.end()
    assert heard[-1] == ("stdout", "(1 more lines were dropped)", "")


def test_the_tail_keeps_both_streams_in_the_order_of_arrival() -> None:
    tail = Tail()
    for stream, data in [("stdout", b"a\nb"), ("stderr", b"c\n"), ("stdout", b"\nd"), ("stderr", b"e")]:
        tail.feed(stream, data)
    assert tail.lines() == ["[stdout] a", "[stderr] c", "[stdout] b", "[stdout] d", "[stderr] e"]


def test_the_tail_is_bounded_in_bytes_and_says_that_something_is_missing() -> None:
    tail = Tail()
    for n in range(3000):
        tail.feed("stdout", b"%099d\n" % n)
    lines = tail.lines()
    assert lines[0] == LEFT_OUT
    assert lines[-1] == f"[stdout] {2999:099d}"
    assert TAIL - 200 < sum(len(line) for line in lines[1:]) <= TAIL


def test_the_tail_is_bounded_in_lines() -> None:
    tail = Tail()
    tail.feed("stdout", b"\n" * 10_000)
    assert len(tail.lines()) == TAIL_LINES + 1


def test_the_tail_of_a_silent_job_is_empty() -> None:
    assert Tail().lines() == []


def test_a_bucket_lets_a_burst_through_and_then_holds_the_rate() -> None:
    bucket = Bucket(1000)
    assert bucket.take(1000, 50.0) == 0.0
    assert bucket.take(500, 50.0) == 0.5
    assert bucket.take(0, 50.5) == 0.0
    assert bucket.take(2000, 1000.0) == 1.0, "quiet time fills it up to one second's worth, no more"


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", ".", "a/b", "x" * 4000, "nul\0", "ä" * 150])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    path = file_of(str(tmp_path), name, name)
    assert path.parent.parent == tmp_path
    assert path.resolve().is_relative_to(tmp_path)
    JobFile(path, "t", pytest.fail).feed("stdout", b"x")
    assert path.read_text() == "--- t\nx"


def test_a_job_file_takes_one_attempt_after_the_other_and_stops_when_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "MAX_FILE", 40)
    path = tmp_path / "q" / "1.log"
    for attempt in ("one", "two"):
        file = JobFile(path, attempt, pytest.fail)
        file.feed("stdout", RECORD_MARK + b"INFO" + RECORD_END + b"hello\n")
        file.close()
    assert path.read_bytes() == b"--- one\nINFO hello\n--- two\nINFO hello\n"
    for attempt in ("three", "four"):
        file = JobFile(path, attempt, pytest.fail)
        file.feed("stdout", b"x" * 100)
        file.close()
    assert path.read_bytes().count(FULL) == 1
    assert len(path.read_bytes()) == 40 + len(FULL)


def test_a_file_that_cannot_be_written_is_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("a file where a folder should be")
    told: list[str] = []
    file = JobFile(tmp_path / "q" / "1.log", "t", told.append)
    file.feed("stdout", b"x")
    file.feed("stdout", b"y")
    file.close()
    [why] = told
    assert "q/1.log" in why


def test_a_link_that_a_child_planted_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "1.log").symlink_to(tmp_path / "victim")
    told: list[str] = []
    JobFile(tmp_path / "q" / "1.log", "t", told.append).feed("stdout", b"x")
    assert len(told) == 1
    assert not (tmp_path / "victim").exists()
