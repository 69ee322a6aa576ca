"""The table of recipes, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable

from hands import Hands

Recipe = Callable[[Hands], None]
RECIPES: dict[str, Recipe] = {}

LATER_MS = 100_000  # twice the step to which test_dumps.py rounds times
LONG_AGO = 1_700_000_000_000


def recipe(function: Recipe) -> Recipe:
    """Put a recipe on the table."""
    RECIPES[function.__name__] = function
    return function


def take(hands: Hands, expected: str) -> str:
    """Claim the job that is next in line."""
    taken = hands.claim()
    assert taken == expected, f"took {taken}, not {expected}"
    return taken
