"""Whatever is done to a queue in whatever order: each job is in one place, and all that is there is some job's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis
from worker_bench import DONE, FAILED, PUT_BACK, RETRY, Bench

from sandq.job import JobState
from sandq.outcome import Place, Settlement
from sandq.store import maintain, produce, reads, schedule, work
from sandq.store.executors import SyncExecutor
from sandq.store.keys import JOB_KEY_SUFFIXES, RESERVED_IDS, QueueKeys
from sandq.store.newjob import Parent, new_job
from sandq.store.plan import new_plan

LONG_AGO = 1_700_000_000_000
ENDINGS = {
    "done": DONE,
    "failed": FAILED,
    "retry": RETRY,
    "put back": PUT_BACK,
    "later": Settlement(to=Place.DELAYED, delay_s=60, reason="boom"),
    "soon": Settlement(to=Place.DELAYED, delay_s=0),
    "children": Settlement(to=Place.CHILDREN, spends_attempt=False),
}
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "delay": st.sampled_from([0, 60]),
        "timestamp": st.just(LONG_AGO),
        "priority": st.sampled_from([0, 1, 5]),
        "lifo": st.booleans(),
        "attempts": st.sampled_from([0, 3]),
        "job_id": st.sampled_from(["x", "y"]),
        "remove_on_complete": st.sampled_from([True, 1, 2]),
        "remove_on_fail": st.sampled_from([True, 1]),
    },
)
DEDUPLICATION = st.sampled_from(
    [
        "S",
        {"id": "T", "ttl": "1h"},
        {"id": "D", "ttl": "1h", "replace": True, "extend": True},
        {"id": "K", "keep_last_if_active": True},
    ]
)
SCHEDULERS = st.sampled_from(["hourly", "daily"])
WHICH = st.integers(0, 30)  # a job by its place among those there are
ANY_STATE = st.sampled_from(list(maintain.PLACES))
POLICIES = st.sampled_from(["wait", "fail", "continue", "ignore", "remove"])


class Machine(RuleBasedStateMachine):
    """One queue, one worker, and an operator with no plan."""

    def __init__(self, url: str, client: Redis) -> None:
        super().__init__()
        client.flushall()
        self.executor = SyncExecutor(url)
        self.bench = Bench(QueueKeys("render", "any"), self.executor, client)
        self.run, self.keys = self.bench.run, self.bench.keys
        self.held: list[work.Taken] = []
        self.was_bounded = False
        self.is_half_gone = False  # obliterated in part

    def teardown(self) -> None:
        self.executor.close()

    # What producers and workers do

    @rule(options=OPTIONS)
    def add(self, options: dict[str, Any]) -> None:
        self.bench.add(**options)

    @rule(options=OPTIONS, deduplication=DEDUPLICATION)
    def add_deduplicated(self, options: dict[str, Any], deduplication: Any) -> None:
        self.bench.add(**options, deduplication=deduplication)

    @precondition(lambda self: self.ids())
    @rule(options=OPTIONS, which=WHICH, on_failure=POLICIES)
    def add_child(self, options: dict[str, Any], which: int, on_failure: Any) -> None:
        parent = Parent(id=self.pick(which), queue=self.keys.base[:-1], on_failure=on_failure)
        if options.get("job_id") == parent.id:
            return  # a job that waits for itself
        self.run(produce.add(self.keys, [new_job("child", parent=parent, **options)]))

    @rule(count=st.integers(1, 2))
    def claim(self, count: int) -> None:
        self.hold(self.bench.claim(count))

    @precondition(lambda self: self.held)
    @rule(which=WHICH, how=st.sampled_from(sorted(ENDINGS)), claims=st.integers(0, 1))
    def settle(self, which: int, how: str, claims: int) -> None:
        taken = self.held[which % len(self.held)]
        settled = self.bench.settle(taken, ENDINGS[how], claims=claims)
        if settled.word in ("ok", "missing", "lost"):
            self.held.remove(taken)
        self.hold(settled.claimed)

    @precondition(lambda self: self.held)
    @rule(which=WHICH)
    def lose_lock(self, which: int) -> None:
        taken = self.held.pop(which % len(self.held))
        self.bench.client.delete(self.keys.lock(taken.job.id))

    @rule()
    def check_stalled(self) -> None:
        self.bench.check_stalled()

    @rule(scheduler=SCHEDULERS, options=st.sampled_from([{}, {"priority": 3}, {"lifo": True}]))
    def schedule(self, scheduler: str, options: dict[str, Any]) -> None:
        self.run(schedule.upsert(self.keys, new_plan(scheduler, every="1h", **options), ()))

    @rule(scheduler=SCHEDULERS)
    def unschedule(self, scheduler: str) -> None:
        self.run(schedule.remove(self.keys, scheduler))

    # What operators do

    @rule(operation=st.sampled_from([produce.pause, produce.resume, produce.retry_all, maintain.promote_all]))
    def operate(self, operation: Callable[[QueueKeys], Any]) -> None:
        self.run(operation(self.keys))

    @precondition(lambda self: self.ids())
    @rule(
        operation=st.sampled_from([produce.promote, produce.retry, produce.remove, produce.cancel]),
        which=WHICH,
    )
    def operate_on(self, operation: Callable[[QueueKeys, str], Any], which: int) -> None:
        self.run(operation(self.keys, self.pick(which)))

    @precondition(lambda self: self.ids())
    @rule(which=WHICH)
    def remove_alone(self, which: int) -> None:
        self.run(produce.remove(self.keys, self.pick(which), ""))

    @precondition(lambda self: self.ids())
    @rule(which=WHICH, priority=st.sampled_from([0, 1, 7]), lifo=st.booleans())
    def change_priority(self, which: int, priority: int, lifo: bool) -> None:
        self.run(maintain.change_priority(self.keys, self.pick(which), priority, lifo=lifo))

    @precondition(lambda self: self.ids())
    @rule(which=WHICH, delay_ms=st.sampled_from([0, 60_000]))
    def change_delay(self, which: int, delay_ms: int) -> None:
        self.run(maintain.change_delay(self.keys, self.pick(which), delay_ms))

    @rule(place=st.sampled_from(["wait", "prioritized", "delayed"]), limit=st.sampled_from([1, 1000]))
    def drain(self, place: str, limit: int) -> None:
        self.run(maintain.drain(self.keys, place, limit=limit))

    @rule(state=ANY_STATE, limit=st.sampled_from([1, 1000]))
    def clean(self, state: JobState, limit: int) -> None:
        self.run(maintain.clean(self.keys, maintain.PLACES[state][0], 0, limit=limit))

    @rule(most=st.sampled_from([None, 1]))
    def bound(self, most: int | None) -> None:
        self.was_bounded = True
        self.run(maintain.set_concurrency(self.keys, most))

    @rule(limit=st.sampled_from([1, 1000]), force=st.booleans())
    def obliterate(self, limit: int, force: bool) -> None:
        word = self.run(maintain.obliterate(self.keys, force=force, limit=limit))
        self.is_half_gone = word == "more" or (self.is_half_gone and word != "ok")
        if word == "ok":
            assert self.other_keys() == set()

    # What always holds

    @invariant()
    def each_job_is_in_one_place_and_each_place_holds_jobs(self) -> None:
        placed = Counter(job_id for ids in self.places().values() for job_id in ids)
        assert {job_id: count for job_id, count in placed.items() if count > 1} == {}
        assert set(placed) == self.hashes()

    @invariant()
    def the_counts_are_those_of_the_places(self) -> None:
        held = {state: len(ids) for state, ids in self.places().items()}
        assert self.run(reads.counts(self.keys)) == held

    @invariant()
    def only_a_running_job_has_a_lock(self) -> None:
        locks = {name.removesuffix(":lock") for name in self.names() if name.endswith(":lock")}
        assert locks <= set(self.places()["active"])

    @invariant()
    def what_belongs_to_a_job_is_there_only_with_the_job(self) -> None:
        owners = {name.rpartition(":")[0] for name in self.names() if name.endswith(JOB_KEY_SUFFIXES)}
        assert owners <= self.hashes()

    @invariant()
    def a_deduplication_window_without_an_end_has_a_job(self) -> None:
        for name in self.names():
            if name.startswith("de:") and self.bench.client.ttl(self.keys.key(name)) == -1:
                owner = self.bench.client.get(self.keys.key(name))
                assert isinstance(owner, bytes)
                assert owner.decode() in self.hashes()

    @invariant()
    def a_parent_waits_for_children_that_are_there(self) -> None:
        for parent in self.places()["waiting-children"]:
            pending = self.bench.client.smembers(self.keys.key(f"{parent}:dependencies"))
            assert pending
            assert {raw.decode().removeprefix(self.keys.base) for raw in pending} <= self.hashes()

    @invariant()
    def a_prioritized_job_stands_under_its_priority(self) -> None:
        for job_id, score in self.bench.zset("prioritized").items():
            assert score // 2**32 == int(self.bench.hash(job_id)["priority"]) > 0

    @invariant()
    def idle_workers_are_awake_while_there_is_something_to_claim(self) -> None:
        if self.was_bounded or "paused" in self.bench.hash("meta"):
            return  # where a bound was in the way of a marker, workers look again by themselves
        waiting = self.bench.list("wait") + list(self.bench.zset("prioritized"))
        assert not waiting or "0" in self.bench.zset("marker")

    @invariant()
    def a_schedule_has_its_next_run(self) -> None:
        if not self.is_half_gone:
            runs = {f"repeat:{scheduler}:{time}" for scheduler, time in self.bench.zset("repeat").items()}
            assert runs <= self.hashes()

    # What is there

    def names(self) -> set[str]:
        return {raw.decode().removeprefix(self.keys.base) for raw in self.bench.client.keys(f"{self.keys.base}*")}

    def hashes(self) -> set[str]:
        return {
            name
            for name in self.names()
            if name not in RESERVED_IDS and not name.startswith(("de:", "dn:", "sq:", "metrics:"))
            if not name.endswith(JOB_KEY_SUFFIXES) and (not name.startswith("repeat:") or name.count(":") > 1)
        }

    def other_keys(self) -> set[str]:
        return {name for name in self.names() if not name.startswith(("sq:", "de:", "dn:"))}  # a scan finds those

    def places(self) -> dict[str, list[str]]:
        lists = {"waiting": self.bench.list("wait"), "active": self.bench.list("active")}
        zsets = ("completed", "failed", "delayed", "prioritized", "waiting-children")
        return lists | {name: list(self.bench.zset(name)) for name in zsets}

    def ids(self) -> list[str]:
        return sorted(self.hashes())

    def hold(self, claimed: work.Claimed | None) -> None:
        """What was claimed is ours, and of a schedule we owe the next run before anything else."""
        for taken in claimed.jobs if claimed else ():
            self.held.append(taken)
            owed = work.iterate(self.keys, taken.job, taken.token)
            if owed is not None:
                self.run(owed)

    def pick(self, which: int) -> str:
        ids = self.ids()
        return ids[which % len(ids)]


def run(server: Any, **bounds: Any) -> None:
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    with server.client() as client:
        run_state_machine_as_test(
            lambda: Machine(server.url, client),
            settings=settings(deadline=None, suppress_health_check=quiet, **bounds),
        )


def test_any_order_of_a_few_steps(server: Any) -> None:
    run(server, max_examples=40, stateful_step_count=20, derandomize=True, database=None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_any_order_of_many_steps(server: Any) -> None:
    run(server, max_examples=300, stateful_step_count=60, print_blob=True)
