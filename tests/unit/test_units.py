"""Durations and sizes, as people write them and as they are shown."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandq.errors import ConfigError
from sandq.units import seconds, show_duration, show_size, size


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("500ms", 0.5),
        ("5s", 5.0),
        ("5", 5.0),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("7d", 604800.0),
        (" 5 s ", 5.0),
        (3, 3.0),
        (0.25, 0.25),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_a_duration_is_read_in_every_documented_spelling(written, meant):
    assert seconds(written) == meant


@pytest.mark.parametrize("written", ["", "soon", "5 weeks", "-5s", "1e3s", "5S", True, None, ["5s"]])
def test_what_is_no_duration_is_refused_with_examples(written):
    with pytest.raises(ConfigError, match="write it like 500ms, 5s, 10m or 2h"):
        seconds(written)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("64KiB", 65536), ("2GiB", 2 << 30), ("1.5MiB", 1572864), ("10MB", 10**7), ("512", 512), ("9B", 9), (77, 77)],
)
def test_a_size_is_read_in_every_documented_spelling(written, meant):
    assert size(written) == meant


@pytest.mark.parametrize("written", ["", "big", "2 gib", "5TB", "-1", True, None, 1.5])
def test_what_is_no_size_is_refused_with_examples(written):
    with pytest.raises(ConfigError, match="write it like 64KiB, 512MiB or 2GiB"):
        size(written)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "500ms"), (90, "90s"), (120, "2m"), (3600, "1h"), (86400, "1d"), (1.5, "1.5s"), (0, "0ms")],
)
def test_a_duration_is_shown_in_the_largest_unit_that_fits_whole(value, shown):
    assert show_duration(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(2 << 30, "2GiB"), (1536, "1.5KiB"), (1000, "1000B"), (0, "0B")])
def test_a_size_is_shown_in_the_largest_unit_that_keeps_it_readable(value, shown):
    assert show_size(value) == shown


@given(st.integers(0, 10**9))
def test_whole_milliseconds_read_back_as_they_were_shown(milliseconds):
    assert seconds(show_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)
