"""What a running job writes beside its end: progress, log lines, data; and who may ask it to stop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from worker_bench import DONE, Bench

from sandq.store import produce, reads, work
from sandq.store.call import Call

WRITES: dict[str, Callable[[Bench, str, str], Call[work.WriteWord]]] = {
    "progress": lambda bench, job_id, token: work.progress(bench.keys, job_id, b'{"pct":5}', token),
    "log": lambda bench, job_id, token: work.log(bench.keys, job_id, "line", token),
    "data": lambda bench, job_id, token: work.update_data(bench.keys, job_id, b'{"n":2}', token),
}
each_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


def test_progress_is_kept_and_told(bench: Bench) -> None:
    bench.add()
    taken = bench.take()
    assert bench.run(work.progress(bench.keys, taken.job.id, b'{"pct":5}', taken.token)) == "ok"
    assert bench.hash(taken.job.id)["progress"] == '{"pct":5}'
    assert bench.events()[-1] == f'progress jobId={taken.job.id} data={{"pct":5}}'


@pytest.mark.parametrize(("kept", "left"), [("2", 2), ("2.0", 2), ("0", 3), ("-1", 3), ('"many"', 3), ("null", 3)])
def test_a_log_keeps_as_many_of_its_newest_lines_as_its_job_says(bench: Bench, kept: str, left: int) -> None:
    job_id = bench.add()
    bench.client.hset(bench.keys.key(job_id), "opts", f'{{"kl":{kept}}}')
    lines = ["line1", "line2 é", "line3"]
    for line in lines:
        assert bench.run(work.log(bench.keys, job_id, line)) == "ok"
    assert bench.list(f"{job_id}:logs") == lines[-left:]


def test_many_lines_are_added_at_once_in_their_order_and_trimmed_alike(bench: Bench) -> None:
    lines = [f"line {n}" for n in range(2500)]
    for keep, left in ((None, lines), (2, lines[-2:])):
        job_id = bench.add(keep_logs=keep)
        assert bench.run(work.log_lines(bench.keys, job_id, lines)) == "ok"
        assert bench.list(f"{job_id}:logs") == left


def test_new_data_replaces_the_old(bench: Bench) -> None:
    job_id = bench.add()
    taken = bench.take()
    assert bench.run(work.update_data(bench.keys, job_id, b'{"n":2}', taken.token)) == "ok"
    assert bench.hash(job_id)["data"] == '{"n":2}'


@each_write
def test_whoever_lost_the_lock_writes_nothing(bench: Bench, dump, write) -> None:
    bench.add()
    taken = bench.take()
    bench.client.set(bench.keys.lock(taken.job.id), "another", px=60_000)
    before = dump()
    assert bench.run(write(bench, taken.job.id, taken.token)) == "lost"
    assert dump() == before


@each_write
def test_a_job_that_is_not_there_is_not_written_to(bench: Bench, dump, write) -> None:
    assert bench.run(write(bench, "nobody", "")) == "missing"
    assert dump() == {}


@each_write
def test_a_repeated_note_is_noted_once(bench: Bench, repeat, dump, write) -> None:
    bench.add()
    taken = bench.take()
    operation = write(bench, taken.job.id, taken.token)
    assert repeat(operation, "op1") == "ok"
    before = dump()
    assert repeat(operation, "op1") == "ok"
    assert dump() == before


def test_a_cancel_request_reaches_the_holder_it_was_meant_for(bench: Bench) -> None:
    job_id = bench.add()
    taken = bench.take()
    assert bench.run(produce.cancel(bench.keys, job_id, "too late\nreally")) == "was_running"
    assert bench.run(work.take_cancels(bench.keys, {job_id: taken.token, "x": "y"})) == {job_id: "too late\nreally"}
    assert bench.run(work.take_cancels(bench.keys, {job_id: "another:1"})) == {}
    assert bench.run(work.take_cancels(bench.keys, {})) == {}
    bench.settle(taken, DONE)
    assert bench.client.exists(bench.keys.key("sq:cancels")) == 0


def test_a_supervisor_is_listed_until_it_leaves_or_falls_silent(bench: Bench) -> None:
    bench.run(work.register(bench.keys, "s1", b'{"id":"s1"}', 60_000))
    bench.run(work.register(bench.keys, "s2", b'{"id":"s2"}', 60_000))
    assert {info["id"] for info in bench.run(reads.supervisors(bench.keys))} == {"s1", "s2"}
    bench.run(work.unregister(bench.keys, "s1"))
    assert [info["id"] for info in bench.run(reads.supervisors(bench.keys))] == ["s2"]
    bench.client.delete(bench.keys.key("sq:supervisor:s2"))  # what its ttl does
    assert bench.run(reads.supervisors(bench.keys)) == []
    assert bench.client.ttl(bench.keys.key("sq:supervisors")) > 0


def test_a_supervisors_uptime_goes_on_since_it_was_told(bench: Bench) -> None:
    bench.run(work.register(bench.keys, "s1", b'{"id":"s1","uptime_s":100.0,"ttl_ms":60000}', 60_000))
    bench.client.pexpire(bench.keys.key("sq:supervisor:s1"), 20_000)  # what 40 s do
    [info] = bench.run(reads.supervisors(bench.keys))
    assert set(info) == {"id", "uptime_s", "told_ago_s"}
    assert info["told_ago_s"] >= 40.0
    assert info["uptime_s"] == pytest.approx(100.0 + info["told_ago_s"])
