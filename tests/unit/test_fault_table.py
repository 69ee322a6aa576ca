"""The table of faults is whole, and every test that it names exists and carries the number of its row."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "system"
ROW = re.compile(r"^\| (?P<number>\d+) \| [^|]+: [^|]+ \| `(?P<file>\w+\.py)::(?P<test>test_\w+)` \|$", re.MULTILINE)
ROWS = [match.groupdict() for match in ROW.finditer((ROOT / "docs" / "faults.md").read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def collected() -> list[str]:
    """Every test of the named files, as pytest calls it: file::name[parameters]."""
    files = sorted({row["file"] for row in ROWS})
    asked = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    done = subprocess.run([*asked, *files], cwd=FOLDER, capture_output=True, text=True, check=True)
    return [line.rpartition("/")[2] for line in done.stdout.splitlines() if "::" in line]


def test_the_table_has_a_row_for_each_of_the_74_cases_in_order() -> None:
    assert [int(row["number"]) for row in ROWS] == list(range(1, 75))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row_{row['number']}")
def test_the_test_that_a_row_names_exists_under_its_number(row: dict[str, str], collected: list[str]) -> None:
    name, number = f"{row['file']}::{row['test']}", f"case_{int(row['number']):02}_"
    assert [test for test in collected if test.partition("[")[0] == name and number in test]


def test_a_number_stands_for_nothing_that_is_not_in_the_table(collected: list[str]) -> None:
    found = {int(number) for test in collected for number in re.findall(r"case_(\d\d)_", test)}
    assert found == {int(row["number"]) for row in ROWS}
