"""What a handler finds in its `job`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandq.child.context import JobContext
from sandq.protocol import Frame, Kind

HEAD = {"id": "1", "name": "page", "fence": 7, "timestamp": 1}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def data_of(raw: bytes) -> Any:
    return JobContext(None, Frame(Kind.RUN, 1, HEAD, raw), 9).data  # type: ignore[arg-type]  # nothing is said here


@given(values, st.booleans(), st.sampled_from(["", " ", "\n"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_a_jobs_data_is_read_however_its_producer_wrote_it(value: Any, escaped: bool, around: str, code: str) -> None:
    text = around + json.dumps(value, ensure_ascii=escaped) + around
    raw = text.encode(code, "surrogatepass")
    assert data_of(raw) == value


@pytest.mark.parametrize("raw", [b"", b"{", b"1 2", b"nul", b"\xff"])
def test_data_that_is_not_json_is_no_data(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|Extra data|codec"):
        data_of(raw)


def test_what_a_frame_does_not_say_goes_without_saying() -> None:
    job = JobContext(None, Frame(Kind.RUN, 1, HEAD, b"{}"), 9)  # type: ignore[arg-type]
    assert (job.attempt, job.crashes, job.parent) == (1, 0, None)
