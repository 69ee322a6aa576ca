"""When cron patterns fire, above all in the two nights of a year in which the clocks of Berlin change."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandq.store import cron

BERLIN = ZoneInfo("Europe/Berlin")
# 29 March 2026: 01:59:59 +01:00 is followed by 03:00:00 +02:00.  25 October: 02:59:59 +02:00 by 02:00:00 +01:00.
SPRING, AUTUMN = "2026-03-29", "2026-10-25"


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def fires(pattern: str, day: str) -> list[str]:
    """When a pattern fires on this day of Berlin, as local times with their offsets."""
    midnight = datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=BERLIN)
    runs = (datetime.fromtimestamp(run / 1000, BERLIN) for run in _runs(pattern, ms(midnight) - 1))
    return [f"{run:%H:%M}{run:%z}"[:8] for run in runs if f"{run:%Y-%m-%d}" == day]


def _runs(pattern: str, after_ms: int) -> tuple[int, ...]:
    return cron.next_runs(pattern, after_ms, "Europe/Berlin", 60)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        # A fixed time that is skipped fires when the clocks have been put forward (cron-parser: an hour later, 03:30).
        ("30 2 * * *", ["03:00+02"]),
        ("0 2 * * *", ["03:00+02"]),
        ("0 3 * * *", ["03:00+02"]),
        # A pattern for every so many minutes leaves the skipped hour out (cron-parser: once, at 03:00).
        ("*/30 2 * * *", []),
        # Whatever means every hour goes on without a gap, and without a double.
        ("0 0-4 * * *", ["00:00+01", "01:00+01", "03:00+02", "04:00+02"]),
        ("30 */2 * * *", ["00:30+01", *(f"{hour:02}:30+02" for hour in range(4, 24, 2))]),
        ("*/30 1,3 * * *", ["01:00+01", "01:30+01", "03:00+02", "03:30+02"]),
    ],
)
def test_the_night_in_which_an_hour_is_skipped(pattern: str, expected: list[str]) -> None:
    assert fires(pattern, SPRING) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        # A fixed time that comes twice fires the first time only, as with cron-parser.
        ("30 2 * * *", ["02:30+02"]),
        ("0 3 * * *", ["03:00+01"]),
        # Whatever means every hour, or every so many minutes, fires in both.
        ("0 * * * *", ["00:00+02", "01:00+02", "02:00+02", *(f"{hour:02}:00+01" for hour in range(2, 24))]),
        ("*/30 2 * * *", ["02:00+02", "02:30+02", "02:00+01", "02:30+01"]),  # cron-parser: in the first only
    ],
)
def test_the_night_in_which_an_hour_comes_twice(pattern: str, expected: list[str]) -> None:
    assert fires(pattern, AUTUMN) == expected


def test_seconds_go_on_through_both_nights() -> None:
    for day, hours in ((SPRING, 23), (AUTUMN, 25)):
        midnight = ms(datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=BERLIN))
        runs = cron.next_runs("0 */20 * * * *", midnight - 1, "Europe/Berlin", 3 * hours + 1)
        assert {later - earlier for earlier, later in pairwise(runs)} == {20 * 60 * 1000}
        assert f"{datetime.fromtimestamp(runs[-1] / 1000, BERLIN):%H:%M}" == "00:00"


def test_a_moment_that_matches_is_not_its_own_next_one() -> None:
    noon = ms(datetime(2026, 6, 1, 12, tzinfo=UTC))
    assert cron.next_runs("0 12 * * *", noon, "UTC") == (noon + 24 * 3600 * 1000,)
    assert cron.next_runs("0 12 * * *", noon - 1, "UTC") == (noon,)


zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
changes = st.builds(
    lambda day, before_ms: ms(datetime.fromisoformat(f"{day}T03:00").replace(tzinfo=BERLIN)) - before_ms,
    st.sampled_from([SPRING, AUTUMN]),
    st.integers(0, 4 * 3600 * 1000),
)
moments = changes | st.integers(ms(datetime(2020, 1, 1, tzinfo=UTC)), ms(datetime(2035, 1, 1, tzinfo=UTC)))
patterns = st.builds(
    "{} {} * * {}".format,
    st.one_of(st.integers(0, 59), st.sampled_from(["*", "*/7", "0,30", "5-10"])),
    st.one_of(st.integers(0, 23), st.sampled_from(["*", "*/5", "1-3"])),
    st.sampled_from(["*", "1-5", "SUN", "0,6"]),
)


@settings(max_examples=100, deadline=None)
@given(patterns, moments, zones)
def test_runs_only_go_forward_and_do_not_depend_on_how_many_are_asked_for(pattern: str, after: int, zone: str) -> None:
    runs = cron.next_runs(pattern, after, zone, 4)
    assert after < runs[0]
    assert sorted(set(runs)) == list(runs)
    assert all(run % 1000 == 0 for run in runs)
    one_by_one = [after]
    for _ in runs:
        one_by_one += cron.next_runs(pattern, one_by_one[-1], zone)
    assert one_by_one[1:] == list(runs)
