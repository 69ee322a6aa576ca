"""Whatever becomes of its jobs, a flow ends where a few plain rules say; nothing hangs unless the policy is "wait"."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from worker_bench import DONE, FAILED, Bench

from sandq.client import drive
from sandq.errands import flow as of_flow
from sandq.errands.flow import FlowJob
from sandq.outcome import Place, Settlement
from sandq.store import family, reads
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.newjob import OnFailure

MAX_JOBS = 12
QUEUES = ("render", "leaves")
End = Literal["completed", "failed", "waiting-children"]


@dataclass(frozen=True)
class Plan:
    """A job, what its handler would do, and the jobs it waits for."""

    name: str
    queue: str
    policy: OnFailure
    fails: bool
    priority: int
    children: tuple[Plan, ...]

    def walk(self) -> Iterator[Plan]:
        yield self
        for child in self.children:
            yield from child.walk()


def ends(plan: Plan) -> dict[str, End]:
    """Where each job stays in the end, by the rules alone."""
    below: dict[str, End] = {}
    for child in plan.children:
        below |= ends(child)
    failed = {child.policy for child in plan.children if below[child.name] == "failed"}
    hangs = "wait" in failed or any(below[child.name] == "waiting-children" for child in plan.children)
    if "fail" in failed or (plan.fails and (not hangs or "continue" in failed)):
        return below | {plan.name: "failed"}
    return below | {plan.name: "waiting-children" if hangs else "completed"}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, MAX_JOBS))
    parents = [draw(st.integers(0, n - 1)) for n in range(1, count)]

    def grow(n: int) -> Plan:
        return Plan(
            name=f"j{n}",
            queue=draw(st.sampled_from(QUEUES)),
            policy=draw(st.sampled_from(get_args(OnFailure))),
            fails=draw(st.booleans()),
            priority=draw(st.sampled_from((0, 0, 3))),
            children=tuple(grow(child + 1) for child, above in enumerate(parents) if above == n),
        )

    return grow(0)


def as_flow(plan: Plan) -> FlowJob:
    children = [as_flow(child) for child in plan.children]
    options = {"job_id": plan.name, "priority": plan.priority}
    return FlowJob(
        plan.name, {"fails": plan.fails}, queue=plan.queue, children=children, on_failure=plan.policy, **options
    )


def run_one(bench: Bench) -> bool:
    """What a supervisor and a handler that waits for its children do with the next job; whether there was one."""
    for taken in bench.claim().jobs:
        job = taken.job
        pending = bench.run(family.pending_children(bench.keys, job.id))
        if job.deferred_failure is not None:
            settlement = Settlement(to=Place.FAILED, reason=job.deferred_failure)
        elif job.data["fails"]:
            settlement = FAILED
        else:
            settlement = Settlement(to=Place.CHILDREN, spends_attempt=False) if pending else DONE
        assert bench.settle(taken, settlement).word == "ok"
        return True
    return False


@pytest.fixture
def executor(redis_url: str) -> Iterator[SyncExecutor]:
    made = SyncExecutor(redis_url)
    yield made
    made.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans(), dice=st.randoms(use_true_random=False))
def test_every_flow_ends_where_its_policies_say(
    executor: SyncExecutor, redis_client: Redis, prefix: str, plan: Plan, dice: random.Random
) -> None:
    for key in redis_client.scan_iter(f"{prefix}:*", count=1000):
        redis_client.delete(key)
    benches = [Bench(QueueKeys(queue, prefix), executor, redis_client) for queue in QUEUES]
    drive(of_flow.add(prefix, as_flow(plan)), executor.run)
    idle = 0
    while idle < 20:  # a bench is drawn until nothing has been there for long: in the end both are empty
        idle = 0 if run_one(dice.choice(benches)) else idle + 1
    while any(run_one(bench) for bench in benches):
        pass
    found = {
        each.name: str(executor.run(reads.state(QueueKeys(each.queue, prefix), each.name))) for each in plan.walk()
    }
    assert found == ends(plan)
