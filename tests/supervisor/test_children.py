"""What children find, what starts are refused, and what is left when a supervisor has gone."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import HANDLERS, eventually, handlers, serving, wait_gone

from sandq.errors import ConfigError, JobFailed, ProcessorError, StartRefused
from sandq.queue import Queue
from sandq.supervisor.facts import ChildReady
from sandq.supervisor.loop import Supervisor
from sandq.supervisor.processor import Processor


def test_a_child_is_fenced_niced_and_knows_nothing_of_redis(
    redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDQ_REDIS_URL", redis_url)
    monkeypatch.setenv("SECRET", "hush")
    monkeypatch.setenv("MODEL_DIR", "/models")
    with (
        Queue("render", redis=redis_url, prefix=prefix) as queue,
        serving({"render": handlers(env=("MODEL_DIR",), concurrency=2)}, redis_url, prefix) as served,
    ):
        launcher = served.supervisor.stats()["launcher_pid"]
        found = queue.result(queue.add("surroundings"), timeout=10)
        sessions = {os.getsid(served.facts.wait(ChildReady, nth=nth).pid) for nth in (1, 2)}
    assert (found["nice"], found["oom"], found["core"], found["group"]) == (10, 800, 0, True)
    assert found["parent"] == launcher
    assert sessions == {found["session"]} == {launcher}
    assert "MODEL_DIR" in found["environ"]
    assert not {name for name in found["environ"] if name == "SECRET" or name.startswith("SANDQ_")} - {"SANDQ_CHILD"}
    assert found["redis"] == []
    assert found["stdin"] == "nothing"


def test_nothing_is_left_of_a_supervisor_that_ended(redis_url: str, prefix: str) -> None:
    us = psutil.Process()
    before = us.num_fds(), threading.active_count()
    with serving({"render": handlers(concurrency=2)}, redis_url, prefix) as served:
        served.facts.wait(ChildReady, nth=3)
        family = [process.pid for process in us.children(recursive=True) if "redis" not in process.name()]
        family = [pid for pid in family if pid in {served.supervisor.stats()["launcher_pid"]} | _children(served)]
        assert len(family) == 4
    for pid in family:
        wait_gone(pid, 1.0)
    assert (us.num_fds(), threading.active_count()) == before


def _children(served: Any) -> set[int]:
    return {ready.pid for ready in served.facts.all(ChildReady)}


def test_each_queue_names_the_supervisor_that_serves_it_until_it_has_drained(redis_url: str, prefix: str) -> None:
    with (
        Queue("render", redis=redis_url, prefix=prefix) as render,
        Queue("mail", redis=redis_url, prefix=prefix) as mail,
    ):
        plans = {"render": handlers(concurrency=1), "mail": handlers(concurrency=1)}
        with serving(plans, redis_url, prefix) as served:
            for queue in (render, mail):
                [named] = eventually(queue.supervisors, "it is named")
                assert (named["id"], named["pid"]) == (served.supervisor.id, os.getpid())
        assert (render.supervisors(), mail.supervisors()) == ([], [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def process(job:\n", "SyntaxError"),
        ("import not_there_at_all\n", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("x = 1\n", "neither a function `process` nor an @handler"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import os\nos._exit(4)\n", "its child ended while loading: exit 4"),
        ("def setup(): raise OSError('no model')\ndef process(job): pass\n", "OSError: no model"),
        ("process = 3\n", "'process' in .* is a int, not a function"),
    ],
)
def test_a_start_is_refused_when_the_processor_cannot_load(
    redis_url: str, prefix: str, tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "jobs.py").write_text(text)
    queues = {"render": str(tmp_path / "jobs.py")}
    with pytest.raises(ProcessorError, match=f"queue render: .*{why}"), serving(queues, redis_url, prefix):
        pass


def test_a_start_is_refused_on_a_server_that_evicts(server: Any, prefix: str) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "1gb")
        client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(StartRefused, match="noeviction"), serving({"render": HANDLERS}, server.url, prefix):
        pass


@pytest.mark.parametrize("source", ["nowhere.py", "jobs.py:not a name", ":process", ""])
def test_what_is_no_processor_is_named_before_anything_starts(source: str) -> None:
    with pytest.raises(ProcessorError):
        Processor.of(source)


def test_a_callable_that_holds_what_cannot_be_carried_says_so() -> None:
    lock = threading.Lock()

    def process(job: Any) -> None:
        lock.acquire()

    with pytest.raises(ProcessorError, match=r"process cannot be carried to a child: .*lock"):
        Processor.of(process)


def test_a_supervisor_without_a_queue_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="at least one queue"):
        Supervisor({})


def test_a_listener_that_fails_costs_no_job_anything(redis_url: str, prefix: str, caplog: Any) -> None:
    def complain(fact: Any) -> None:
        raise BrokenPipeError(type(fact).__name__)

    with (
        Queue("render", redis=redis_url, prefix=prefix) as queue,
        serving({"render": handlers(concurrency=1)}, redis_url, prefix, listener=complain),
    ):
        job = queue.add("killed-once", timeout="100ms", attempts=2)
        assert queue.result(queue.add("talks", 1), timeout=10) == {"step": 2}
        with pytest.raises(JobFailed, match="timed out after 100ms"):
            queue.result(job, timeout=10)
        assert queue.job(job.id).attempts_made == 2
    assert "a listener failed at Settled" in caplog.text
