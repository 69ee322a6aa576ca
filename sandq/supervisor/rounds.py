"""What goes on beside a lane's claiming: jobs of lost supervisors, requests to cancel, memory that grows."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from sandq.errors import SandqError
from sandq.store import work
from sandq.supervisor import memory
from sandq.supervisor.claims import PAUSE_S
from sandq.supervisor.facts import Recovered, StoreTrouble
from sandq.supervisor.means import Means
from sandq.supervisor.slots import Slots
from sandq.verdict import Stop


class Rounds:
    """Of one queue, for as long as its supervisor lives."""

    def __init__(self, means: Means, slots: Slots) -> None:
        self._means = means
        self._slots = slots

    def all(self, cancel_every_s: float) -> Sequence[Coroutine[Any, Any, None]]:
        """Each of them, to be run as a task; none ends by itself."""
        return (self._check_stalled(), self._read_cancels(cancel_every_s), self._watch_memory())

    async def _check_stalled(self) -> None:
        """Recover jobs of vanished supervisors; the throttle in Redis says when to look again."""
        means = self._means
        every_ms = int(means.lease.stalled_every_s * 1000)
        while True:
            try:
                check = await means.store.run(
                    work.check_stalled(means.keys, every_ms, means.settings.max_stalled_count)
                )
            except SandqError as error:
                means.publish(StoreTrouble(doing=f"stalled check of {means.keys.queue}", why=str(error)))
                await asyncio.sleep(PAUSE_S)
                continue
            if check.recovered:
                means.publish(Recovered(queue=means.keys.queue, job_ids=tuple(check.recovered)))
            await asyncio.sleep(max(check.again_in_ms, 1) / 1000)

    async def _read_cancels(self, every_s: float) -> None:
        means = self._means
        while True:
            await asyncio.sleep(every_s)
            ours = {run.claim.token: run for run in (*self._slots.running.values(), *self._slots.held)}
            held = {run.claim.job.id: token for token, run in ours.items()}
            if not held:
                continue
            try:
                requests = await means.store.run(work.take_cancels(means.keys, held))
            except SandqError as error:
                means.publish(StoreTrouble(doing=f"read cancel requests of {means.keys.queue}", why=str(error)))
                continue
            for job_id, reason in requests.items():
                ours[held[job_id]].stop(Stop("cancel", reason))

    async def _watch_memory(self) -> None:
        """Kill what outgrows its limit: a job over it does not stop growing for being asked nicely."""
        while True:
            await asyncio.sleep(memory.POLL_S)
            limits = {
                run: limit
                for run in self._slots.running.values()
                if (limit := memory.limit_of(run.claim.job, self._means.settings.memory)) is not None
            }
            if not limits:
                continue
            pids = {run: run.child.pid for run in limits if run.child is not None}
            used = await asyncio.to_thread(memory.tree_rss, pids.values())
            for run, pid in pids.items():
                stop = memory.over(used[pid], limits[run])
                if stop is not None and run.claim.token in self._slots.running:
                    run.stop(stop)
