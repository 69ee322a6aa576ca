"""What must not be loaded, and that every script and its caller agree on names."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from typing import Any

import pytest

from sandq.config import Lease, QueueSettings
from sandq.job import Job
from sandq.outcome import Place, Settlement
from sandq.store import flow, gauges, maintain, produce, reads, schedule, stream, work
from sandq.store.call import Call, Read
from sandq.store.keys import QueueKeys
from sandq.store.newjob import new_job
from sandq.store.plan import new_plan

KEYS = QueueKeys("render", "bull")
HEAVY = {"redis", "asyncio", "click", "rich", "psutil", "msgspec", "cloudpickle", "multiprocessing"}


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys\nsys.argv = ['child']\n{statement}\nimport json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return set(json.loads(done.stdout))


def test_a_child_loads_nothing_of_what_the_supervisor_needs() -> None:
    loaded = loaded_by("import sandq.child.__main__")
    assert not loaded & HEAVY
    ours = {name for name in loaded if name.startswith("sandq.") and not name.startswith("sandq.child")}
    assert ours == {"sandq.errors", "sandq.handlers", "sandq.protocol"}


def test_a_processor_that_names_its_handlers_costs_its_child_nothing_more() -> None:
    assert loaded_by("import sandq.child.__main__\nfrom sandq import handler, SoftTimeout, UnrecoverableError") <= (
        loaded_by("import sandq.child.__main__")
    )


def test_the_package_itself_loads_nothing() -> None:
    loaded = loaded_by("import sandq")
    assert not loaded & HEAVY
    assert not {name for name in loaded if name.startswith("sandq.")}


def test_the_launcher_loads_nothing_that_starts_threads_or_talks_to_redis() -> None:
    loaded = loaded_by("import sandq.supervisor.launcher")
    assert not loaded & {"redis", "asyncio", "psutil", "msgspec", "sandq.store"}


# -- scripts and their callers -----------------------------------------------------------------------------------------


def scheduled() -> Job:
    opts = {"repeat": {"every": 1000, "count": 1}}
    return Job(queue="render", id="repeat:tick:1", name="tick", scheduler_id="tick", opts=opts, timestamp=1)


def every_operation() -> list[Call[Any] | Read[Any] | None]:
    """Each operation once: building one raises KeyError when its names are not those of its script's header."""
    return [
        produce.add(KEYS, [new_job("page", {"n": 1})]),
        produce.pause(KEYS),
        produce.resume(KEYS),
        produce.promote(KEYS, "1"),
        produce.retry(KEYS, "1"),
        produce.retry_all(KEYS),
        produce.remove(KEYS, "1"),
        produce.cancel(KEYS, "1"),
        flow.insert([flow.Node(KEYS, "a", new_job("page"), waits=False)]),
        flow.leave(KEYS, "1"),
        schedule.upsert(KEYS, new_plan("nightly", every="1h"), ()),
        schedule.remove(KEYS, "nightly"),
        schedule.page(KEYS),
        reads.state(KEYS, "1"),
        reads.counts(KEYS),
        reads.page(KEYS, reads.COUNTED[0], 0, 10, newest_first=True),
        reads.ending(KEYS, "1"),
        reads.supervisors(KEYS),
        work.claim(KEYS, work.NextClaim(tokens=["t"], lease=Lease())),
        work.has_backlog(KEYS),
        work.renew(KEYS, [("1", "t")], 1000),
        work.settle(KEYS, "1", "t", Settlement(to=Place.COMPLETED), QueueSettings()),
        work.check_stalled(KEYS, 1000, 1),
        work.restore(KEYS, "1", 1),
        work.iterate(KEYS, scheduled(), "t"),
        work.progress(KEYS, "1", b"1"),
        work.log(KEYS, "1", "line"),
        work.update_data(KEYS, "1", b"{}"),
        work.register(KEYS, "s", b"{}", 1000),
        work.unregister(KEYS, "s"),
        maintain.drain(KEYS, "wait"),
        maintain.clean(KEYS, "completed", 0),
        maintain.obliterate(KEYS),
        maintain.promote_all(KEYS),
        maintain.change_priority(KEYS, "1", 5),
        maintain.change_delay(KEYS, "1", 1000),
        maintain.clear_logs(KEYS, "1"),
        maintain.forget_deduplication(KEYS, "S"),
        maintain.set_concurrency(KEYS, 2),
        maintain.limit_for(KEYS, 1000),
        maintain.trim_events(KEYS, 10),
        gauges.due_within(KEYS, 1000),
        gauges.limited_ms(KEYS),
        stream.edges(KEYS),
        stream.publish(KEYS, "invoice", {"cents": b"1250"}),
    ]


CALLS = [operation for operation in every_operation() if isinstance(operation, Call)]
SCRIPTS = {
    entry.name.removesuffix(".lua") for entry in (files("sandq.store") / "lua").iterdir() if entry.name.endswith(".lua")
}


def test_every_script_has_an_operation_that_calls_it() -> None:
    assert {call.script.name for call in CALLS} == SCRIPTS


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.script.name)
def test_a_script_takes_its_queue_and_if_it_writes_replies_a_slot_to_remember_them(call: Call[Any]) -> None:
    assert call.script.keys == (("base", "slot") if call.mutates else ("base",))
    assert call.base == KEYS.base


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.script.name)
def test_only_a_script_that_remembers_its_reply_takes_an_op_id(call: Call[Any]) -> None:
    remembers = "remember(slot, op" in call.script.source.split("local function remember(slot")[-1]
    assert remembers == ("op" in call.script.args)
