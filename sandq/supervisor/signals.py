"""A supervisor under the signals of its process: the first SIGTERM or SIGINT ends it in order, a second one at once."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandq.supervisor.loop import Supervisor

FORCED = 130


async def serve_until_signalled(supervisor: Supervisor) -> int:
    """Start it, serve until a signal (or the end of a burst), and take it down; the exit code.

    A signal that comes while it starts undoes what was begun. Nothing was claimed then, so that is an end in order too.
    """
    loop = asyncio.get_running_loop()
    starting = loop.create_task(supervisor.start())
    interrupts = 0

    def terminated() -> None:
        supervisor.stop()
        starting.cancel()  # it does nothing to a start that is over

    def interrupted() -> None:
        nonlocal interrupts
        interrupts += 1
        terminated()

    loop.add_signal_handler(signal.SIGTERM, terminated)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        await asyncio.wait([starting])
        code = 0
        if not starting.cancelled():
            starting.result()  # what refused it is raised
            code = await supervisor.wait()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)
    return FORCED if interrupts > 1 else code
