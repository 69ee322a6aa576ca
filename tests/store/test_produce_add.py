"""Adding jobs: what stands in Redis afterwards is what a BullMQ producer would have left there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from producer_bench import Bench, T
from redis import Redis

from sandq import __version__
from sandq.errors import QueueError, StoreRefused
from sandq.store import produce, reads
from sandq.store.executors import SyncExecutor
from sandq.store.keys import QueueKeys
from sandq.store.newjob import new_job


@pytest.fixture
def bench(redis_url: str, redis_client: Redis, keys: QueueKeys) -> Iterator[Bench]:
    executor = SyncExecutor(redis_url)
    yield Bench(executor, redis_client, keys)
    executor.close()


def test_a_standard_add_leaves_exactly_the_keys_bullmq_would(bench: Bench, dump: Callable[..., Any]) -> None:
    added = bench.add("std", {"a": 1, "s": "é"})
    assert (added.word, added.id) == ("added", "1")
    assert bench.hash("1") == {
        "name": "std",
        "data": '{"a":1,"s":"é"}',
        "opts": '{"attempts":0}',
        "timestamp": str(added.timestamp),
        "delay": "0",
        "priority": "0",
    }
    assert bench.wait() == ["1"]
    assert bench.zset("marker") == {"0": 0}
    assert bench.events() == [("added", "jobId", "1", "name", "std"), ("waiting", "jobId", "1")]
    own = {name for name in dump("render:") if not name.startswith("sq:op:")}
    assert own == {"1", "id", "wait", "marker", "meta", "events"}


def test_the_timestamp_is_the_servers_clock(bench: Bench) -> None:
    before, after = bench.client.time(), bench.add()
    assert before[0] * 1000 + before[1] // 1000 <= after.timestamp


def test_the_first_add_says_who_made_the_queue_and_bounds_its_events(bench: Bench) -> None:
    bench.add()
    assert bench.hash("meta") == {"opts.maxLenEvents": "10000", "version": f"sandq:{__version__}"}


def test_an_add_leaves_the_settings_of_a_bullmq_queue_alone(bench: Bench) -> None:
    settings = {"opts.maxLenEvents": "77", "version": "bullmq:6.7.0"}
    bench.client.hset(bench.keys.key("meta"), mapping=settings)
    bench.add()
    assert bench.hash("meta") == settings


def test_a_lifo_add_is_next_and_a_plain_one_last(bench: Bench) -> None:
    bench.add()
    bench.add(lifo=True)
    bench.add()
    assert bench.wait() == ["3", "1", "2"]


def test_jobs_due_in_the_same_millisecond_keep_their_order(bench: Bench) -> None:
    for _ in range(2):
        bench.add(timestamp=T, delay=60)
    first = (T + 60000) * 4096
    assert bench.zset("delayed") == {"1": first, "2": first + 1}
    assert bench.zset("marker") == {"1": T + 60000}
    assert bench.events()[-1] == ("delayed", "jobId", "2", "delay", str(T + 60000))
    assert bench.hash("1")["delay"] == "60000"


def test_ties_beyond_the_last_place_of_a_millisecond_share_it(bench: Bench) -> None:
    top = (T + 60001) * 4096 - 1
    bench.client.zadd(bench.keys.key("delayed"), {"other": top})
    bench.add(timestamp=T, delay=60)
    bench.add(timestamp=T, delay=60)
    assert bench.zset("delayed") == {"other": top, "1": top, "2": top}


def test_priorities_are_packed_with_their_order_of_arrival(bench: Bench) -> None:
    for priority in (5, 5, 1, 2097151):
        bench.add(priority=priority)
    assert bench.zset("prioritized") == {"1": 21474836481, "2": 21474836482, "3": 4294967299, "4": 9007194959773700}
    assert bench.text("pc") == "4"
    assert bench.events()[-1] == ("waiting", "jobId", "4")
    assert bench.wait() == []


def test_a_delayed_job_with_a_priority_waits_for_its_time_first(bench: Bench) -> None:
    bench.add(priority=3, delay=60)
    assert list(bench.zset("delayed")) == ["1"]
    assert bench.zset("prioritized") == {}
    assert bench.hash("1")["priority"] == "3"


def test_an_id_added_twice_is_one_job_with_the_first_data(bench: Bench) -> None:
    assert bench.add("x", 1, job_id="custom-1").word == "added"
    again = bench.add("y", 2, job_id="custom-1")
    assert (again.word, again.id) == ("duplicated", "custom-1")
    assert bench.hash("custom-1")["data"] == "1"
    assert bench.text("id") == "2"
    assert [event[0] for event in bench.events()] == ["added", "waiting", "duplicated"]


def test_a_counter_that_was_lost_never_overwrites_a_job(bench: Bench) -> None:
    bench.add("first", 1)
    bench.add("second", 2)
    bench.client.delete(bench.keys.key("id"))
    assert bench.add("third", 3).id == "3"
    assert bench.hash("1")["name"] == "first"


def test_an_add_to_a_paused_queue_wakes_nobody(bench: Bench) -> None:
    bench.run(produce.pause(bench.keys))
    bench.add()
    bench.add(priority=1)
    assert bench.wait() == ["1"]
    assert bench.zset("marker") == {}
    assert bench.run(reads.counts(bench.keys))["waiting"] == 1


def test_an_add_to_a_queue_at_its_global_concurrency_wakes_nobody(bench: Bench) -> None:
    bench.client.hset(bench.keys.key("meta"), "concurrency", 1)
    bench.client.lpush(bench.keys.key("active"), "busy")
    bench.add()
    assert bench.zset("marker") == {}


def test_two_thousand_jobs_take_four_calls_and_keep_their_order(bench: Bench) -> None:
    jobs = [new_job("page", n) for n in range(2000)]
    calls = bench.client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    added = [one for piece in produce.chunks(jobs) for one in bench.run(produce.add(bench.keys, piece))]
    spent = bench.client.info("commandstats")["cmdstat_evalsha"]["calls"] - calls
    assert spent in (4, 5)  # one more when the server did not know the script yet
    assert [one.id for one in added] == [str(n) for n in range(1, 2001)]
    assert bench.wait() == [str(n) for n in range(2000, 0, -1)]
    assert bench.hash("2000")["data"] == "1999"


def test_one_refused_job_does_not_hold_up_the_others_of_its_call(bench: Bench) -> None:
    orphan = new_job("page", parent=bench.parent("nobody"))
    words = [one.word for one in bench.run(produce.add(bench.keys, [new_job("a"), orphan, new_job("b")]))]
    assert words == ["added", "missing-parent", "added"]
    assert bench.wait() == ["2", "1"]


def test_a_repeated_call_adds_once_and_answers_the_same(bench: Bench) -> None:
    operation = produce.add(bench.keys, [new_job("page", 1), new_job("page", 2, delay=5)])
    arguments = (operation.script.source, 2, bench.keys.base, bench.keys.slot("mine"), "op-1", *operation.args)
    first = operation.parse(bench.client.eval(*arguments))
    assert operation.parse(bench.client.eval(*arguments)) == first
    assert bench.text("id") == "2"
    assert len(bench.events()) == 4


def test_a_key_of_a_foreign_type_refuses_the_whole_call_before_anything_is_written(
    bench: Bench, dump: Callable[..., Any]
) -> None:
    bench.client.set(bench.keys.key("later"), "a string where a job would be")
    before = dump()
    with pytest.raises(StoreRefused):
        bench.run(produce.add(bench.keys, [new_job("page"), new_job("page", job_id="later")]))
    assert dump() == before


# Parents


def test_a_child_knows_its_parent_and_the_parent_waits_for_it(bench: Bench) -> None:
    bench.add("mother")
    child = bench.add("child", parent=bench.parent("1"))
    mother = bench.keys.key("1")
    assert bench.hash(child.id)["parentKey"] == mother
    assert json.loads(bench.hash(child.id)["parent"]) == {"id": "1", "queueKey": bench.keys.base[:-1]}
    assert bench.client.smembers(f"{mother}:dependencies") == {bench.keys.key(child.id).encode()}


def test_a_child_without_a_living_parent_is_refused_and_leaves_no_trace(bench: Bench, dump: Callable[..., Any]) -> None:
    new = new_job("child", parent=bench.parent("gone"))
    (added,) = bench.run(produce.add(bench.keys, [new]))
    assert added.word == "missing-parent"
    assert [name for name in dump() if ":sq:op:" not in name] == []
    with pytest.raises(QueueError, match="add the parent first"):
        produce.added_job(bench.keys, new, added)


@pytest.mark.parametrize(
    ("options", "state"), [({}, "waiting"), ({"priority": 5}, "prioritized"), ({"delay": 5}, "delayed")]
)
def test_a_parent_whose_only_child_is_done_already_goes_on_at_once(
    bench: Bench, options: dict[str, Any], state: str
) -> None:
    bench.add("waits already")
    bench.add("pre", job_id="PRE")
    bench.client.lrem(bench.keys.key("wait"), 0, "PRE")
    bench.client.zadd(bench.keys.key("completed"), {"PRE": T})
    bench.client.hset(bench.keys.key("PRE"), "returnvalue", '{"r":7}')
    bench.add("mother", job_id="R1", **options)
    bench.client.zrem(bench.keys.key("delayed"), "R1")
    bench.park("R1")
    bench.events()

    again = bench.add("pre", job_id="PRE", parent=bench.parent("R1"))

    assert again.word == "duplicated"
    processed = bench.client.hgetall(bench.keys.key("R1:processed"))
    assert processed == {bench.keys.key("PRE").encode(): b'{"r":7}'}
    assert bench.run(reads.state(bench.keys, "R1")) == state
    if state == "waiting":
        assert bench.wait() == ["1", "R1"]  # next in line
        assert bench.events() == [
            ("waiting", "jobId", "R1", "prev", "waiting-children"),
            ("duplicated", "jobId", "PRE"),
        ]


def test_a_job_that_waits_already_becomes_the_child_of_the_parent_it_is_added_with(bench: Bench) -> None:
    bench.add("mother")
    bench.add("child", job_id="C")
    assert bench.add("child", job_id="C", parent=bench.parent("1")).word == "duplicated"
    assert bench.hash("C")["parentKey"] == bench.keys.key("1")
    assert bench.client.sismember(bench.keys.key("1:dependencies"), bench.keys.key("C"))


def test_a_child_of_a_living_parent_cannot_be_taken_by_another(bench: Bench) -> None:
    bench.add("first")
    bench.add("second")
    bench.add("child", job_id="C", parent=bench.parent("1"))
    bench.events()
    new = new_job("child", job_id="C", parent=bench.parent("2"))
    (refused,) = bench.run(produce.add(bench.keys, [new]))
    assert refused.word == "other-parent"
    assert bench.hash("C")["parentKey"] == bench.keys.key("1")
    assert bench.events() == []
    with pytest.raises(QueueError, match="another living parent"):
        produce.added_job(bench.keys, new, refused)


def test_a_child_whose_parent_is_gone_can_be_taken_by_another(bench: Bench) -> None:
    bench.add("first")
    bench.add("second")
    bench.add("child", job_id="C", parent=bench.parent("1"))
    bench.client.delete(bench.keys.key("1"))
    assert bench.add("child", job_id="C", parent=bench.parent("2")).word == "duplicated"
    assert bench.hash("C")["parentKey"] == bench.keys.key("2")


# Deduplication


def test_a_deduplicated_add_answers_the_job_that_is_there(bench: Bench) -> None:
    bench.add(deduplication="S")
    second = bench.add(deduplication="S")
    assert (second.word, second.id) == ("deduplicated", "1")
    assert bench.text("de:S") == "1"
    assert bench.client.pttl(bench.keys.key("de:S")) == -1
    assert bench.hash("1")["deid"] == "S"
    assert bench.text("id") == "2"
    assert bench.events()[-1] == ("deduplicated", "jobId", "1", "deduplicationId", "S", "deduplicatedJobId", "2")


def test_a_deduplication_window_without_ttl_closes_when_its_job_ends(bench: Bench) -> None:
    bench.add(deduplication="S")
    bench.run(produce.cancel(bench.keys, "1"))
    assert bench.text("de:S") is None
    assert bench.add(deduplication="S").word == "added"


def test_a_throttle_window_outlives_its_job_and_is_not_prolonged(bench: Bench) -> None:
    window = {"id": "S", "ttl": 5}
    bench.add(deduplication=window)
    bench.client.pexpire(bench.keys.key("de:S"), 4000)
    bench.run(produce.cancel(bench.keys, "1"))
    assert bench.add(deduplication=window).word == "deduplicated"
    assert 0 < bench.client.pttl(bench.keys.key("de:S")) <= 4000


def test_an_extended_window_starts_anew_with_each_add(bench: Bench) -> None:
    window = {"id": "S", "ttl": 5, "extend": True}
    bench.add(deduplication=window)
    bench.client.pexpire(bench.keys.key("de:S"), 1000)
    bench.add(deduplication=window)
    assert bench.client.pttl(bench.keys.key("de:S")) > 4000


def test_a_debounced_add_takes_the_place_of_the_delayed_job(bench: Bench) -> None:
    window = {"id": "D", "ttl": 5, "extend": True, "replace": True}
    bench.add("page", 1, delay=5, deduplication=window)
    bench.events()
    second = bench.add("page", 2, delay=5, deduplication=window)
    assert (second.word, second.id) == ("added", "2")
    assert bench.hash("1") == {}
    assert bench.text("de:D") == "2"
    removed, deduplicated, added, delayed = bench.events()
    assert removed == ("removed", "jobId", "1", "prev", "delayed")
    assert deduplicated == ("deduplicated", "jobId", "2", "deduplicationId", "D", "deduplicatedJobId", "1")
    assert (added[0], delayed[0]) == ("added", "delayed")


def test_a_rescheduling_add_moves_the_delayed_job_and_keeps_its_data(bench: Bench) -> None:
    window = {"id": "D", "reschedule": True}
    bench.add("page", 1, delay=5, timestamp=T, deduplication=window)
    assert bench.add("page", 2, delay=9, timestamp=T, deduplication=window).id == "1"
    assert bench.zset("delayed") == {"1": (T + 9000) * 4096}
    assert (bench.hash("1")["delay"], bench.hash("1")["data"]) == ("9000", "1")


def test_the_last_add_meant_for_a_running_job_runs_after_it(bench: Bench) -> None:
    window = {"id": "K", "keep_last_if_active": True}
    bench.add("k1", 1, deduplication=window)
    bench.activate("1")
    bench.add("k2", 2, deduplication=window)
    bench.add("k3", 3, deduplication=window, job_id="cust", priority=4)
    stored = bench.hash("dn:K")
    assert (stored["name"], stored["data"], stored["jid"]) == ("k3", "3", "cust")
    bench.events()

    bench.run(produce.cancel(bench.keys, "1"))  # its lock is gone: it ends here and now

    assert [event[:3] for event in bench.events()][:3] == [
        ("added", "jobId", "cust"),
        ("waiting", "jobId", "cust"),
        ("failed", "jobId", "1"),
    ]
    assert bench.text("de:K") == "cust"
    assert bench.hash("dn:K") == {}
    assert list(bench.zset("prioritized")) == ["cust"]
    assert bench.hash("cust")["data"] == "3"


def test_a_window_whose_job_vanished_is_taken_over(bench: Bench) -> None:
    bench.add(deduplication="S")
    bench.client.delete(bench.keys.key("1"))
    assert bench.add(deduplication="S").word == "added"
    assert bench.text("de:S") == "2"


def test_the_job_an_add_hands_back_is_the_one_in_redis(bench: Bench) -> None:
    new = new_job("page", {"n": 1}, attempts=2, backoff="fixed:1s", delay=5, priority=3, deduplication="S")
    (added,) = bench.run(produce.add(bench.keys, [new]))
    assert produce.added_job(bench.keys, new, added) == bench.run(reads.job(bench.keys, added.id))
