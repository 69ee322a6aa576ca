"""The supervisor: brings launcher, heartbeat and lanes up, in that order, and down again without losing a job."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sandq.clock import boottime
from sandq.config import QueueSettings, SupervisorSettings
from sandq.embedded import find_redis
from sandq.errors import ConfigError, SandqError, StartRefused
from sandq.store import work
from sandq.store.connections import Marker, check_server
from sandq.store.executors import AsyncExecutor, SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.script import load_all
from sandq.store.urls import redact
from sandq.supervisor import isolation, oom
from sandq.supervisor.facts import Fact, LauncherDied, Listener, Stopping, StoreTrouble
from sandq.supervisor.fleet import Fleet
from sandq.supervisor.heartbeat import Heartbeat
from sandq.supervisor.lane import Lane
from sandq.supervisor.lanes import Lanes
from sandq.supervisor.means import Means
from sandq.supervisor.pool import Pool
from sandq.supervisor.processor import Processor
from sandq.supervisor.registration import Registration
from sandq.supervisor.signals import serve_until_signalled
from sandq.supervisor.tally import Tally

SLOTS = 4  # concurrent Redis calls of the event loop: claims and settlements rarely need more
POLICY_EVERY_S = 60.0  # a server that was fit at the start may be told to evict later

Source = str | Callable[..., Any] | QueueSettings


class Supervisor:
    """Runs the jobs of some queues in child processes, holding and renewing their locks until each is settled.

    `queues` maps queue names to processors: `PATH[:FUNCTION]`, a dotted module, a callable, or full QueueSettings.
    `redis` is a URL, "embedded", or None for SANDQ_REDIS_URL. With `burst` it ends once nothing is left to do.

    Raises ConfigError or ProcessorError here; `start` raises StartRefused, StoreUnavailable or ProcessorError.
    """

    def __init__(
        self,
        queues: Mapping[str, Source],
        redis: str | None = None,
        *,
        settings: SupervisorSettings | None = None,
        listeners: Sequence[Listener] = (),
        burst: bool = False,
    ) -> None:
        if not queues:
            raise ConfigError("a supervisor needs at least one queue; pass queues={'render': 'jobs/render.py'}")
        self._settings = settings or SupervisorSettings()
        self._redis = redis or self._settings.redis or None
        self._plans = {QueueKeys(name, self._settings.prefix): _plan(source) for name, source in queues.items()}
        self._tally = Tally()
        self._oom = oom.Watch()
        self._claims = itertools.count(1)
        self._listeners = [self._tally.hear, *listeners]
        self._burst = burst
        self.id = secrets.token_hex(8)
        self._started_at = 0.0
        self._lanes = Lanes()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stops = 0
        self._serving = self._has_served = False
        self._stopping: asyncio.Event | None = None
        self._failure: str | None = None
        self._exits = contextlib.AsyncExitStack()

    # -- up and down ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain. What is returned is the exit code.

        0: drained, or stopped before it served; 1: a burst that failed; 130: forced by a second SIGINT.
        """
        return asyncio.run(serve_until_signalled(self))

    async def __aenter__(self) -> Supervisor:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await self.wait()

    async def start(self) -> None:
        """Check Redis, start the launcher, load every processor; only then claim the first job."""
        _require_linux()
        load_all()
        self._started_at = boottime()
        self._stopping = asyncio.Event()
        async with contextlib.AsyncExitStack() as undo:
            url, server = find_redis(self._redis)
            if server is not None:
                undo.callback(server.close)
            self._url = url
            await asyncio.to_thread(check_server, url, allow_eviction=self._settings.allow_eviction)
            await isolation.prove((keys.queue, settings) for keys, (_, settings) in self._plans.items())
            self._store = AsyncExecutor(url, slots=SLOTS, redis_timeout=self._settings.redis_timeout_s)
            undo.push_async_callback(self._store.close)
            self._heartbeat = self._make_heartbeat(url, undo)
            self._fleet = Fleet(self._settings.lease, self._heartbeat.attach, self._launcher_died)
            undo.push_async_callback(self._fleet.close)
            self._fleet.start()
            self._heartbeat.start()
            undo.push_async_callback(self._lanes.close_pools)
            for keys, (processor, settings) in self._plans.items():
                self._add_lane(url, keys, processor, settings, undo)
            await self._lanes.load()
            self._exits = undo.pop_all()
        for lane in self._lanes:
            lane.start()
            for watcher in lane.rounds.all(self._settings.cancel_every_s):
                self._spawn(watcher)
        self._registration = Registration(self._store, self._plans, self.id, self._publish)
        self._spawn(self._registration.keep(self.stats, self._settings.lease.stalled_every_s))
        self._spawn(self._watch_policy())
        self._serving = self._has_served = True

    async def wait(self) -> int:
        """Wait for a stop (or the end of a burst), drain, and take everything down; the exit code."""
        if self._stopping is None:
            raise ConfigError("this supervisor was not started; use `async with` or call start() first")
        if self._burst and self._serving:
            self._spawn(self._await_burst())
        await self._stopping.wait()
        if not self._serving:
            return self._code
        self._serving = False
        try:
            await self._lanes.drain(self._settings.drain_timeout_s, self._settings.redis_timeout_s)
        finally:
            await self._close()
        return self._code

    @property
    def _code(self) -> int:
        return 1 if self._failure is not None else 0

    def stop(self) -> None:
        """Begin to drain; a second call kills what still runs. Its jobs go back unspent either way."""
        self._stops += 1
        if self._stops == 1 and self._serving:
            running, limit_s = len(self._lanes.running), self._settings.drain_timeout_s
            self._publish(Stopping(running=running, run_on_s=self._lanes.run_on_s(limit_s), limit_s=limit_s))
            self._registration.tell_now()
        if self._stopping is not None:
            self._stopping.set()
        if self._stops > 1:
            self._lanes.kill()

    @property
    def failure(self) -> str | None:
        """Why it ended by itself, and not well."""
        return self._failure

    @property
    def has_served(self) -> bool:
        """It came to claim jobs; not so when it was stopped or refused while it started."""
        return self._has_served

    async def _close(self) -> None:
        await self._lanes.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._registration.withdraw()
        await self._exits.aclose()
        await asyncio.sleep(0)  # a closed transport gives its socket back in the loop's next turn

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _make_heartbeat(self, url: str, undo: contextlib.AsyncExitStack) -> Heartbeat:
        lease, loop = self._settings.lease, asyncio.get_running_loop()
        # Its own connection and a short limit: whatever Redis does, the thread is back before a lease passes.
        store = SyncExecutor(url, redis_timeout=lease.renew_try_s, tries=1)

        def renew(keys: QueueKeys, held: list[tuple[str, str]]) -> frozenset[str]:
            return store.run(work.renew(keys, held, lease.lock_ms))

        def trouble(why: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closing
                loop.call_soon_threadsafe(self._publish, StoreTrouble(doing="renew locks", why=why))

        heartbeat = Heartbeat(lease, renew, trouble)
        undo.callback(store.close)
        undo.callback(heartbeat.stop)
        return heartbeat

    def _add_lane(
        self, url: str, keys: QueueKeys, processor: Processor, settings: QueueSettings, undo: contextlib.AsyncExitStack
    ) -> None:
        def refused(why: str) -> None:
            self._publish(StoreTrouble(doing=f"wait for jobs of {keys.queue}", why=why))

        name, timeout_s = self._settings.name, self._settings.redis_timeout_s
        marker = Marker(url, keys, keys.client_name(name), refused, redis_timeout=timeout_s)
        undo.push_async_callback(marker.close)
        means = Means(
            keys=keys,
            settings=settings,
            lease=self._settings.lease,
            supervisor_id=self.id,
            store=self._store,
            heartbeat=self._heartbeat,
            publish=self._publish,
            rng=random.Random(secrets.randbits(64)),  # noqa: S311  # jitter, not secrets
            oom=self._oom,
            claims=self._claims,
        )
        # The pool wakes the lane and the lane borrows from the pool; the lane is there before any child is ready.
        pool = Pool(keys.queue, processor, settings, self._fleet, self._publish, partial(self._lanes.wake, keys.queue))
        lane = Lane(means, pool, marker, name, burst=self._burst, on_end=self._give_up)
        self._lanes.add(keys.queue, lane, settings)

    def _launcher_died(self, pid: int) -> None:
        self._publish(LauncherDied(pid=pid))
        self._lanes.refill()

    def _spawn(self, work_: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work_)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._publish(StoreTrouble(doing="serve", why=f"{type(error).__name__}: {error}"))
            self._give_up(f"internal error: {type(error).__name__}: {error}")

    def _give_up(self, why: str) -> None:
        """A supervisor that has lost a part of itself must not look alive: drain, and say why."""
        self._failure = self._failure or why
        self.stop()

    async def _await_burst(self) -> None:
        """A job that ends in one queue may release its parent in another: only all of them quiet at once is the end."""
        while True:
            self._failure = await self._lanes.quiet() or self._failure
            if self._failure is not None or not await self._lanes.have_work():
                break
        self.stop()

    # -- telling -------------------------------------------------------------------------------------------------------

    def _publish(self, fact: Fact) -> None:
        for listener in self._listeners:
            try:
                listener(fact)
            except Exception as error:  # noqa: BLE001  # what listens must not cost a job its settlement
                context = {"message": f"a listener failed at {type(fact).__name__}", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    async def _watch_policy(self) -> None:
        """Say so, each time, when the server is allowed to forget jobs and locks; jobs go on meanwhile."""
        while not self._settings.allow_eviction:
            await asyncio.sleep(POLICY_EVERY_S)
            try:
                await asyncio.to_thread(check_server, self._url)
            except StartRefused as error:
                self._publish(StoreTrouble(doing="check the server", why=str(error)))
            except SandqError:
                continue  # who works with Redis complains of it

    def stats(self) -> dict[str, Any]:
        """A snapshot for people: heartbeat, children and jobs of every queue."""
        lag = self._heartbeat.lag()
        return {
            "id": self.id,
            "name": self._settings.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "launcher_pid": self._fleet.launcher_pid,
            "redis": redact(self._url),
            "uptime_s": round(boottime() - self._started_at, 1),
            "state": "stopping" if self._stops else "serving",
            "heartbeat": {"p50_ms": lag.p50_ms, "p99_ms": lag.p99_ms, "max_ms": lag.max_ms, "lag_samples": lag.samples},
            "locks_lost": self._heartbeat.locks_lost,
            "queues": {
                keys.queue: self._tally.show(keys.queue, self._lanes[keys.queue], settings)
                for keys, (_, settings) in self._plans.items()
            },
        }


def _plan(source: Source) -> tuple[Processor, QueueSettings]:
    if isinstance(source, QueueSettings):
        return Processor.of(source.processor), source
    return Processor.of(source), replace(QueueSettings(), processor=source if isinstance(source, str) else "")


def _require_linux() -> None:
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        raise StartRefused("a supervisor needs Linux 5.3 or later (pidfd); producers and the command line run anywhere")
