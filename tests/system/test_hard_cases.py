"""Cases between the rules: what a slow store, an early end or absurd input must not do to a job or its neighbours."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from harness import eventually, handlers, serving
from redis import Redis

from sandq.config import QueueSettings
from sandq.job import JobState
from sandq.outcome import Raised
from sandq.queue import Queue
from sandq.supervisor import pool, source
from sandq.supervisor.attempt import Attempt
from sandq.supervisor.facts import ChildDied, ChildReady, ProcessorBroken, Settled, Started
from sandq.supervisor.lane import Lane
from sandq.supervisor.single import run_single


@pytest.fixture
def render(redis_url: str, prefix: str) -> Any:
    with Queue("render", redis=redis_url, prefix=prefix) as queue:
        yield queue


def says_so_much(job: Any) -> None:
    raise ValueError("ж" * job.data)


@pytest.mark.parametrize("length", [1000, 30_000, 70_000])
def test_an_exception_is_raised_and_not_a_crash_however_long_its_text_in_whatever_script(length: int) -> None:
    outcome = run_single(says_so_much, b"%d" % length)
    assert isinstance(outcome, Raised)
    assert outcome.error.startswith("ValueError: жж")
    assert len(outcome.error.encode()) <= 64 << 10


def test_a_cancel_that_was_acknowledged_holds_though_the_attempt_ends_before_it_was_read(
    render: Queue, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    def raises_once_told(job: Any) -> None:
        while not Path(job.data).exists():
            pass
        raise ValueError("boom")

    with serving({"render": raises_once_told}, redis_url, prefix, cancel_every_s=3600.0) as served:
        job = render.add("x", str(tmp_path / "end"), attempts=5)
        served.facts.wait(Started, job_id=job.id)
        assert render.cancel(job.id, reason="not needed") == "was_running"
        (tmp_path / "end").touch()
        settled = served.facts.wait(Settled, job_id=job.id)
        assert (settled.outcome, settled.to) == ("Cancelled", "failed")
        ended = render.job(job.id)
        assert (ended.failed_reason, ended.attempts_started) == ("cancelled: not needed", 1)
        assert len(served.facts.all(Started)) == 1


def test_a_cancel_with_an_endless_reason_still_ends_the_job(
    render: Queue, redis_url: str, prefix: str, end: Path
) -> None:
    with serving({"render": handlers()}, redis_url, prefix, cancel_every_s=0.05) as served:
        job = render.add("waits", {"until": str(end)})
        served.facts.wait(Started, job_id=job.id)
        render.cancel(job.id, reason="z" * 300_000)
        assert served.facts.wait(Settled, job_id=job.id).to == "failed"


def test_the_rate_that_a_queues_owner_set_is_not_shortened_by_a_supervisor_without_a_limiter(
    render: Queue, redis_url: str, prefix: str, redis_client: Redis
) -> None:
    redis_client.hset(render.keys.key("meta"), mapping={"max": 2, "duration": 60_000})
    with serving({"render": handlers()}, redis_url, prefix) as served:
        render.add_many([("ok", n) for n in range(4)])
        served.facts.wait(Settled, nth=2)
        assert redis_client.pttl(render.keys.key("limiter")) > 30_000
        assert render.counts()["waiting"] == 2


def test_a_bad_option_to_job_add_is_an_error_in_the_handler_and_not_a_wait_for_ever(
    render: Queue, redis_url: str, prefix: str
) -> None:
    def adds_badly(job: Any) -> str:
        try:
            job.add("x", deduplication=["abc"])
        except Exception as error:
            return type(error).__name__
        return "added"

    with serving({"render": adds_badly}, redis_url, prefix):
        assert render.result(render.add("x"), timeout=20) == "QueueError"


def test_a_queue_that_allows_large_results_takes_them(
    render: Queue, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    processor = tmp_path / "large.py"
    processor.write_text("def process(job): return 'x' * job.data\n")
    settings = QueueSettings(processor=str(processor), concurrency=1, max_result=40 << 20)
    with serving({"render": settings}, redis_url, prefix) as served:
        job = render.add("x", 20 << 20)
        assert served.facts.wait(Settled, job_id=job.id).to == "completed"


def test_data_that_outgrew_the_limit_is_refused_in_the_handler_that_made_it(
    render: Queue, redis_url: str, prefix: str
) -> None:
    def grows(job: Any) -> str:
        try:
            job.update_data("x" * (2 << 20))
        except ValueError as error:
            return str(error)
        return "stored"

    with serving({"render": grows}, redis_url, prefix):
        assert "max_data" in render.result(render.add("x", 1), timeout=20)


@pytest.mark.parametrize(
    "opts", [{"sq": {"timeout": 10**400, "memory": 10**400}}, {"sq": {"timeout": -1, "memory": "many"}}]
)
def test_limits_that_make_no_sense_in_a_foreign_jobs_options_do_not_keep_it_from_running(
    render: Queue, redis_url: str, prefix: str, redis_client: Redis, opts: dict[str, Any]
) -> None:
    render.pause()
    job = render.add("ok", 1)
    redis_client.hset(render.keys.key(job.id), "opts", json.dumps(opts))
    render.resume()
    with serving({"render": handlers()}, redis_url, prefix) as served:
        assert served.facts.wait(Settled, job_id=job.id).to == "completed"


def test_a_job_whose_name_fits_no_frame_fails_with_that_reason_and_the_next_one_runs(
    render: Queue, redis_url: str, prefix: str
) -> None:
    with serving({"render": handlers()}, redis_url, prefix) as served:
        job = render.add("n" * (2 << 20), 1, attempts=3)
        settled = served.facts.wait(Settled, job_id=job.id)
        assert (settled.outcome, settled.to) == ("Raised", "failed")
        assert "cannot be handed to a child" in settled.reason
        assert render.result(render.add("ok", 2), timeout=20) is not None


def test_a_replacement_that_never_loads_is_told_and_does_not_hold_its_place_for_ever(
    render: Queue, redis_url: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, processor = tmp_path / "hangs", tmp_path / "loads_slowly.py"
    processor.write_text(
        "import os, time\n"
        f"while os.path.exists({str(hangs)!r}): time.sleep(0.01)\n"
        "def process(job): return os.getpid()\n"
    )
    settings = QueueSettings(processor=str(processor), concurrency=1, spares=0)
    with serving({"render": settings}, redis_url, prefix) as served:
        first = served.facts.wait(ChildReady)
        monkeypatch.setattr(source, "LOAD_WAIT_S", 0.3)
        monkeypatch.setattr(pool, "YOUNG_S", 0.0)  # else its own early end may be what is told first
        hangs.touch()
        os.kill(first.pid, signal.SIGKILL)
        served.facts.wait(ChildDied, pid=first.pid)
        broken = served.facts.wait(ProcessorBroken)
        assert "did not load within 0.3s" in broken.why
        monkeypatch.setattr(source, "LOAD_WAIT_S", 20.0)
        hangs.unlink()
        assert render.result(render.add("x"), timeout=20) != first.pid


def test_nothing_is_settled_while_the_child_that_lied_about_its_result_still_runs(
    render: Queue, redis_url: str, prefix: str
) -> None:
    with serving({"render": handlers(max_crashes=0)}, redis_url, prefix) as served:
        job = render.add("lies-about-json")
        started = served.facts.wait(Started, job_id=job.id)
        settled_at = served.facts.time_of(Settled, job_id=job.id)
        assert served.facts.time_of(ChildDied, pid=started.pid) <= settled_at
        assert render.state(job.id) is JobState.FAILED


def test_a_supervisor_whose_lane_has_ended_does_not_look_alive(
    redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving({"render": handlers()}, redis_url, prefix) as served:
        lane = served.supervisor._lanes["render"]

        def broken(_count: int) -> None:
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr(lane, "_next", broken)
        with Queue("render", redis=redis_url, prefix=prefix) as render:
            render.add("ok")
        eventually(lambda: served.supervisor.failure, "the supervisor says why it stops")
        assert "a bug of ours" in str(served.supervisor.failure)


def test_a_claim_for_a_child_that_has_died_meanwhile_goes_back_as_it_was_and_runs_on_another(
    render: Queue, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, killed = Lane._claim, []

    async def claim_and_kill(lane: Lane, children: list[Any]) -> float:
        if not killed:
            for child in children:
                child.signal(signal.SIGKILL)
                killed.append(child.pid)
                await child.exited
        return await claim(lane, children)

    monkeypatch.setattr(Lane, "_claim", claim_and_kill)
    job = render.add("who")
    with serving({"render": handlers(max_crashes=0)}, redis_url, prefix):
        assert render.result(job, timeout=20)["pid"] not in killed
        assert killed
        ended = render.job(job.id)
        assert (ended.crashes, ended.attempts_made) == (0, 1)


@pytest.mark.parametrize(("knows", "outcome"), [(True, "Interrupted"), (False, "Crashed")])
def test_a_job_that_its_child_had_not_read_is_charged_no_crash_where_the_kernel_is_asked(
    render: Queue, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, knows: bool, outcome: str
) -> None:
    if not knows:
        monkeypatch.setattr(Attempt, "_has_begun", lambda _self: True)
    with serving({"render": handlers(concurrency=1, spares=0)}, redis_url, prefix) as served:
        child = served.facts.wait(ChildReady).pid
        os.kill(child, signal.SIGSTOP)  # it reads nothing any more
        job = render.add("ok", 7)
        served.facts.wait(Started, job_id=job.id)
        os.kill(child, signal.SIGKILL)
        assert served.facts.wait(Settled, job_id=job.id).outcome == outcome
        assert render.result(job, timeout=20) == 7
