"""What the loader makes of a script and its fragments."""

from __future__ import annotations

import re

from sandq.store.script import load


def test_what_is_seldom_used_is_made_inside_of_the_function_that_gives_it_out() -> None:
    source = load("settle").source
    start = source.index("local function seldom()")
    end = source.index("  return made\nend\n", start)
    assert start < source.index("local function promote_due(") < end
    assert "seldom().promote_due(q" in source[end:]
    assert re.findall(r"(?<!seldom\(\)\.)\bpromote_due\(q", source[end:]) == []
