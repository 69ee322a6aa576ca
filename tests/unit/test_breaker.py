"""When a processor that could not be loaded is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sandq.supervisor.breaker import FIRST_BACKOFF_S, LAST_BACKOFF_S, Breaker

NEVER_S = 3600.0


def with_breaker(see: Callable[[Breaker], None]) -> None:
    async def run() -> None:
        see(Breaker(again=lambda: None))

    asyncio.run(run())


def test_each_failure_doubles_the_wait_up_to_a_limit_and_a_success_begins_anew() -> None:
    def see(breaker: Breaker) -> None:
        waits = [breaker.fail("no module x", host=False) for _ in range(2000)]
        assert waits[:3] == [FIRST_BACKOFF_S, 2 * FIRST_BACKOFF_S, 4 * FIRST_BACKOFF_S]
        assert set(waits[9:]) == {LAST_BACKOFF_S}
        breaker.reset()
        assert breaker.fail("no module x", host=False) == FIRST_BACKOFF_S

    with_breaker(see)


def test_it_says_what_failed_and_whom_to_blame_until_something_loads() -> None:
    def see(breaker: Breaker) -> None:
        assert (breaker.why, breaker.processor_broken, breaker.retry_in_s) == (None, False, None)
        breaker.fail("no module x", host=False)
        assert (breaker.why, breaker.processor_broken, breaker.retry_in_s) == ("no module x", True, 0.0)
        breaker.fail("out of processes", host=True)
        assert (breaker.why, breaker.processor_broken) == ("out of processes", False)
        breaker.fail("no module x", host=False)
        breaker.reset()
        assert (breaker.why, breaker.processor_broken, breaker.retry_in_s) == (None, False, None)

    with_breaker(see)


def test_nothing_is_tried_until_the_wait_is_over_and_then_once() -> None:
    async def run() -> tuple[list[bool], bool]:
        seen: list[bool] = []
        over = asyncio.Event()

        def again() -> None:
            seen.append(breaker.open)
            over.set()

        breaker = Breaker(again)
        breaker.fail("no module x", host=False)
        seen.append(breaker.open)
        breaker.wait(0.01)
        seen.append(breaker.open)
        await asyncio.wait_for(over.wait(), 10)
        return seen, breaker.open

    assert asyncio.run(run()) == ([False, True, False], False)


def test_it_shows_when_the_next_try_is_and_a_child_that_loads_meanwhile_does_not_bring_it_forward() -> None:
    def see(breaker: Breaker) -> None:
        breaker.fail("no module x", host=False)
        breaker.wait(NEVER_S)
        assert breaker.retry_in_s is not None
        assert 0 < breaker.retry_in_s <= NEVER_S
        breaker.reset()
        assert breaker.retry_in_s is None
        assert breaker.open

    with_breaker(see)


def test_once_closed_it_tries_nothing_more() -> None:
    async def run() -> bool:
        tried = asyncio.Event()
        breaker = Breaker(tried.set)
        breaker.wait(0.0)
        breaker.close()
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, later.set)  # due after it
        await asyncio.wait_for(later.wait(), 10)
        return tried.is_set()

    assert not asyncio.run(run())
