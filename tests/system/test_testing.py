"""The test kit, as a user's suite meets it: in a folder of its own, run by a pytest of its own; and its parts."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from harness import wait_gone

from sandq import AsyncQueue, JobFailed, Queue, UnrecoverableError
from sandq.config import QueueSettings
from sandq.errors import SandqError
from sandq.job import JobState
from sandq.testing import (
    InlineWorker,
    PrivateServer,
    assert_added,
    assert_not_added,
    plugin,
    run_inline,
    running_supervisor,
)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "testing.md"
PLUGIN = "sandq.testing.plugin"
RUN_LIMIT_S = 55
IDLE = ("cacheprovider", "hypothesispytest", "timeout", "doctest", "junitxml")  # of no use there, and slow to load


@pytest.fixture
def queue(redis_url: str, prefix: str) -> Iterator[Queue]:
    with Queue("render", redis=redis_url, prefix=prefix) as made:
        yield made


# -- a user's suite ----------------------------------------------------------------------------------------------------


class Suite:
    """Tests of a user who has installed sandq, run by a pytest of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._site = folder / "suite", folder / "site"
        self.folder.mkdir()
        # As good as `pip install sandq`: the distribution with its entry point, found beside the package.
        installed = self._site / "sandq-0.dist-info"
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: sandq\nVersion: 0\n")
        (installed / "entry_points.txt").write_text(f"[pytest11]\n{PLUGIN} = {PLUGIN}\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def run(self, *flags: str, installed: bool = True) -> str:
        path = [str(self._site)] if installed else []
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SANDQ_", "PYTEST_"))}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-W",
            "error",
            *(part for name in IDLE for part in ("-p", f"no:{name}")),
            *flags,
        ]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**env, "PYTHONPATH": os.pathsep.join([*path, str(ROOT)]), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )
        return done.stdout + done.stderr


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_the_entry_point_is_what_a_suite_here_is_given() -> None:
    """Else the tests below would show a plugin that nobody gets."""
    declared = (ROOT / "pyproject.toml").read_text()
    assert f'[project.entry-points.pytest11]\n"{PLUGIN}" = "{PLUGIN}"\n' in declared


def test_the_examples_of_the_docs_pass_as_they_stand(suite: Suite) -> None:
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert [name for name, _ in files] == ["render.py", "test_order.py", "test_render.py", "test_faults.py"]
    for name, text in files:
        suite.write(name, text)
    said = suite.run("-rA")
    assert "6 passed" in said, said


USES_FIXTURES = """
import os, sys

def test_first(sandq_redis, sandq_queue):
    assert os.environ["SANDQ_REDIS_URL"] == sandq_redis
    assert sandq_queue("render").add("page").id == "1"

def test_second(sandq_queue):
    queue = sandq_queue("render")
    assert queue.counts()["waiting"] == 0
    assert queue.add("page").id == "1"

def test_third():
    assert "SANDQ_REDIS_URL" not in os.environ
"""


@pytest.mark.parametrize(
    ("flags", "installed", "conftest"),
    [
        (("-p", PLUGIN), True, ""),
        pytest.param(("-p", PLUGIN), False, "", marks=pytest.mark.slow),
        pytest.param((), True, f"pytest_plugins = ['{PLUGIN}']", marks=pytest.mark.slow),
    ],
    ids=["both", "named", "conftest"],
)
def test_the_plugin_is_there_once_however_it_came(
    suite: Suite, flags: tuple[str, ...], installed: bool, conftest: str
) -> None:
    suite.write("conftest.py", conftest)
    suite.write("test_fixtures.py", USES_FIXTURES)
    said = suite.run(*flags, installed=installed)
    assert "3 passed" in said, said


@pytest.mark.slow
def test_the_plugin_can_be_left_out(suite: Suite) -> None:
    suite.write("test_fixtures.py", USES_FIXTURES)
    said = suite.run("-p", f"no:{PLUGIN}")
    assert "fixture 'sandq_redis' not found" in said, said


def test_every_name_that_the_plugin_brings_into_a_suite_is_its_own() -> None:
    brought = {name for name, value in vars(plugin).items() if "fixture" in type(value).__name__.lower()}
    hooks = {name for name in vars(plugin) if name.startswith("pytest_")}
    assert brought == {"sandq_queue", "sandq_redis", "sandq_server", "sandq_supervisor"}
    assert not hooks


def test_loading_the_plugin_imports_neither_redis_nor_anything_slow() -> None:
    told = (
        "import sys; before = set(sys.modules); import sandq.testing.plugin; print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import pytest; {told}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=RUN_LIMIT_S,
    )
    assert done.stdout.strip() == "['sandq', 'sandq.testing', 'sandq.testing.plugin']"


def test_the_private_server_ends_with_a_run_that_is_killed(suite: Suite) -> None:
    suite.write(
        "test_killed.py",
        "import os, signal\n"
        "def test_it(sandq_server):\n"
        "    os.write(2, f'server {sandq_server._process.pid} {sandq_server.folder} '.encode())\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    said = suite.run("-s")
    pid, folder = said.partition("server ")[2].split()[:2]
    wait_gone(int(pid), 5)
    shutil.rmtree(folder)  # what nobody was left to do


def test_the_private_server_outlives_the_thread_that_started_it() -> None:
    made: list[PrivateServer] = []
    starter = threading.Thread(target=lambda: made.append(PrivateServer()))
    starter.start()
    starter.join()
    with made[0] as server, Queue("render", redis=server.url, redis_timeout=1) as asked:
        assert asked.add("page").id == "1"
        assert server._process.poll() is None
    assert not any(thread.name.startswith("sandq-server") for thread in threading.enumerate() if thread.is_alive())


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "server"
    broken.write_text("#!/bin/sh\necho out of sockets\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr("sandq.private.find_server", lambda: broken)
    monkeypatch.setattr("sandq.private.START_LIMIT_S", 0.3)
    with pytest.raises(Exception, match="did not start: out of sockets"):
        PrivateServer()


# -- inline ------------------------------------------------------------------------------------------------------------


def test_an_inline_job_leaves_what_a_real_one_leaves(queue: Queue, redis_url: str, prefix: str) -> None:
    """The same handler, once inline and once in a real child: the same hash, events and log."""
    handlers = str(ROOT / "tests" / "handlers.py")
    queue.add("talks", {"step": 1})
    run_inline(queue, handlers)
    with (
        Queue("real", redis=redis_url, prefix=prefix) as real,
        running_supervisor({"real": handlers}, redis_url, prefix=prefix),
    ):
        job = real.add("talks", {"step": 1})
        real.result(job, timeout=20)
        told = [left(each, job.id) for each in (queue, real)]
    assert told[0] == told[1]
    assert told[0]["returnvalue"] == {"step": 2}


def left(queue: Queue, job_id: str) -> dict[str, Any]:
    job = queue.job(job_id)
    return {
        "state": queue.state(job_id),
        "data": job.data,
        "returnvalue": job.returnvalue,
        "progress": job.progress,
        "made": (job.attempts_made, job.attempts_started, job.crashes),
        "logs": queue.logs(job_id),
        "events": [event.name for event in queue.events(since="0", block=0.01) if event.job_id == job_id],
        "marks": (job.stacktrace, job.failed_reason, job.finished_on is not None),
    }


def test_a_handler_that_raises_is_tried_as_often_as_it_may_be(queue: Queue) -> None:
    job = queue.add("page", attempts=3, backoff="1h")

    def process(job: Any) -> None:
        raise ValueError(f"try {job.attempt}")

    ran = run_inline(queue, process)
    assert [(one.to, str(one.error)) for one in ran] == [("delayed", "try 1")]
    assert queue.state(job) is JobState.DELAYED
    ran = run_inline(queue, process, promote_delayed=True)
    assert [(one.to, str(one.error)) for one in ran] == [("delayed", "try 2"), ("failed", "try 3")]
    ended = queue.job(job.id)
    assert (ended.attempts_made, ended.failed_reason, len(ended.stacktrace)) == (3, "ValueError: try 3", 3)
    assert "in process" in ended.stacktrace[0]
    assert "sandq/testing" not in ended.stacktrace[0]


def test_an_error_can_be_raised_in_the_test(queue: Queue) -> None:
    def process(job: Any) -> None:
        raise UnrecoverableError("not ever")

    job = queue.add("page", attempts=5)
    with pytest.raises(UnrecoverableError, match="not ever"):
        run_inline(queue, process, raise_errors=True)
    assert queue.state(job) is JobState.FAILED


def test_what_is_meant_for_the_test_run_is_not_the_jobs_failure(queue: Queue) -> None:
    job = queue.add("page")
    for error, kind in ((KeyboardInterrupt(), KeyboardInterrupt), (None, pytest.fail.Exception)):

        def process(_job: Any, error: Any = error) -> None:
            if error is not None:
                raise error
            pytest.fail("wrong call")

        with pytest.raises(kind):
            run_inline(queue, process)
        assert queue.state(job) is JobState.WAITING
        assert queue.job(job.id).attempts_made == 0
        assert not queue.job(job.id).failed_reason


def test_handlers_postpone_add_and_wait_for_children_as_ever(queue: Queue, redis_url: str, prefix: str) -> None:
    def process(job: Any) -> Any:
        if job.name == "leaf":
            return job.data * 10
        if not job.data["asked"]:
            job.update_data({"asked": True})
            for n in range(3):
                job.add("leaf", n, child=True)
            job.add("leaf", 5, delay="1h")
        job.wait_for_children()
        if job.data.get("later") is None:
            job.update_data({**job.data, "later": 1})
            job.retry_later("1h")
        job.log("all there")
        return sorted(job.child_values().values())

    job = queue.add("root", {"asked": False})
    ran = run_inline(queue, process, promote_delayed=True)
    assert [one.to for one in ran if one.job.id == job.id] == ["waiting-children", "delayed", "completed"]
    assert queue.result(job, timeout=0) == [0, 10, 20]
    assert queue.job(job.id).attempts_made == 1
    assert queue.logs(job) == ["all there"]
    assert queue.counts()["completed"] == 5


def test_coroutine_handlers_hooks_and_many_queues(queue: Queue, redis_url: str, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(
        "from sandq import handler\n"
        "CALLS = []\n"
        "async def setup(): CALLS.append('setup')\n"
        "def teardown(): CALLS.append('teardown')\n"
        "@handler('double')\n"
        "async def double(job):\n"
        "    job.progress(50)\n"
        "    return 2 * job.data\n"
    )
    other = queue.keys.queue + "-2"

    def forward(job: Any) -> str:
        return str(job.add("double", job.data, other))

    with Queue(other, redis=redis_url, prefix=prefix) as second:
        queue.add("start", 21)
        unknown = second.add("halve", 4)
        queues: dict[str, Any] = {queue.name: forward, other: str(tmp_path / "sums.py")}
        with InlineWorker(queues, redis_url, prefix=prefix) as worker:
            refused = worker.run_one()
            assert refused is not None
            assert "may not add to queue" in str(refused.error)
            id_ = second.add("double", 21).id
            worker.run_until_idle()
            calls = sys.modules["sums"].CALLS
            assert calls == ["setup"]
        assert calls == ["setup", "teardown"]
        assert (second.result(id_, timeout=0), second.job(id_).progress) == (42, 50)
        assert second.state(unknown) is JobState.DELAYED  # until somebody comes who knows the name
    del sys.modules["sums"]
    sys.path.remove(str(tmp_path))


def test_a_teardown_that_raises_keeps_neither_the_next_one_nor_the_threads(redis_url: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}_hooks.py").write_text(
            "CALLS = []\ndef process(job): pass\ndef teardown():\n    CALLS.append(1)\n    raise OSError('torn')\n"
        )
    before = threading.active_count()
    with pytest.raises(OSError, match="torn"):
        InlineWorker({name: str(tmp_path / f"{name}_hooks.py") for name in ("first", "second")}, redis_url).close()
    assert [sys.modules.pop(f"{name}_hooks").CALLS for name in ("first", "second")] == [[1], [1]]
    assert threading.active_count() == before
    sys.path.remove(str(tmp_path))


@pytest.mark.parametrize("broken", ["url", "setup"])
def test_an_inline_worker_that_cannot_be_made_leaves_nothing_behind(
    redis_url: str, tmp_path: Path, broken: str
) -> None:
    fails = "    raise OSError('torn')\n" if broken == "setup" else ""
    (tmp_path / "good_hooks.py").write_text(
        "CALLS = []\ndef process(job): pass\n"
        "def setup(): CALLS.append('setup')\ndef teardown(): CALLS.append('teardown')\n"
    )
    (tmp_path / "bad_hooks.py").write_text(f"def process(job): pass\ndef setup():\n    pass\n{fails}")
    before = threading.active_count()
    queues = {name: str(tmp_path / f"{name}_hooks.py") for name in ("good", "bad")}
    with pytest.raises((OSError, SandqError)):
        InlineWorker(queues, "gopher://nowhere" if broken == "url" else redis_url)
    calls = sys.modules.pop("good_hooks").CALLS
    sys.modules.pop("bad_hooks")
    assert calls == (["setup", "teardown"] if broken == "setup" else [])
    assert threading.active_count() == before
    sys.path.remove(str(tmp_path))


def test_children_in_a_queue_that_the_settings_allow(queue: Queue, redis_url: str, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "adder.py").write_text("def process(job):\n    return job.add('x', 1, 'mail')\n")
    queue.add("start")
    run_inline(queue, QueueSettings(processor=str(tmp_path / "adder.py"), add_to=("mail",)))
    with Queue("mail", redis=redis_url, prefix=prefix) as mail:
        assert_added(mail, "x", data=1, count=1)
    sys.modules.pop("adder")
    sys.path.remove(str(tmp_path))


def test_a_rate_limit_holds_inline_too_until_time_does_not_count(queue: Queue) -> None:
    def process(job: Any) -> int:
        if job.data and not limited:
            limited.append(1)
            job.rate_limit("1h")
        return 1

    limited: list[int] = []
    queue.add_many([("page", True), ("page", False)])
    assert [one.to for one in run_inline(queue, process)] == ["wait"]
    assert queue.counts()["waiting"] == 2
    assert [one.to for one in run_inline(queue, process, promote_delayed=True)] == ["completed", "completed"]


def test_a_handler_that_never_comes_to_an_end_is_told(queue: Queue, redis_url: str) -> None:
    def again(job: Any) -> str:
        return str(job.add("page"))

    queue.add("page")
    with (
        InlineWorker({"render": again}, redis_url, prefix=queue.keys.prefix) as worker,
        pytest.raises(AssertionError, match="jobs are left after 7 attempts"),
    ):
        worker.run_until_idle(most=7)


def test_inline_jobs_run_in_the_thread_that_asks_and_in_no_child(queue: Queue) -> None:
    where: list[tuple[int, threading.Thread]] = []
    queue.add("page")
    run_inline(queue, lambda _job: where.append((os.getpid(), threading.current_thread())))
    assert where == [(os.getpid(), threading.current_thread())]


def test_inline_runs_from_a_coroutine_test(queue: Queue) -> None:
    async def process(job: Any) -> Any:
        await asyncio.sleep(0)
        job.log("from a coroutine")
        return job.data

    async def run() -> list[str]:
        queue.add("page", 1)
        return [one.to for one in await asyncio.to_thread(run_inline, queue, process)]

    assert asyncio.run(run()) == ["completed"]
    assert queue.logs("1") == ["from a coroutine"]


# -- assertions --------------------------------------------------------------------------------------------------------


def test_an_added_job_is_found_whatever_became_of_it(queue: Queue) -> None:
    queue.add("page", {"n": 1, "tags": ("a", "b")})
    run_inline(queue, lambda _job: None)
    queue.add("page", {"n": 2}, delay="1h")
    queue.add("page", {"n": 2}, priority=3)
    [done] = assert_added(queue, "page", data={"n": 1, "tags": ("a", "b")})
    assert done.finished_on is not None
    assert [job.id for job in assert_added(queue, "page", data={"n": mock.ANY}, count=2)] == ["2", "3"]
    assert len(assert_added(queue, "page")) == 3
    assert_not_added(queue, "book")


def test_assertions_look_at_async_queues_and_at_queues_of_many_large_jobs(
    queue: Queue, redis_url: str, prefix: str
) -> None:
    queue.add_many([("bulk", "x" * 100_000)] * 520)

    async def run() -> None:
        async with AsyncQueue("render", redis=redis_url, prefix=prefix) as asked:
            await asked.add("page", {"n": 1}, priority=2)
            assert [job.id for job in assert_added(asked, "page", data={"n": 1})] == ["521"]
            assert_not_added(asked, "book")
            assert "other jobs there: 'bulk' (520)" in message(lambda: assert_added(asked, "book"))

    asyncio.run(run())


def message(check: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as caught:
        check()
    return str(caught.value)


def test_what_was_not_added_is_told_with_what_was(queue: Queue) -> None:
    assert message(lambda: assert_added(queue, "page")).endswith("was not added\n  the queue is empty")
    queue.add("page", {"n": 1, "size": {"w": 2, "h": [1, 2]}, "extra": None})
    queue.add("page", {"n": 9})
    queue.add_many([("book", None), ("book", None)])
    told = message(lambda: assert_added(queue, "page", data={"n": 1, "size": {"w": 2, "h": [1, 3]}, "by": "me"}))
    assert told.splitlines() == [
        "job 'page' with data {'n': 1, 'size': {'w': 2, 'h': [1, 3]}, 'by': 'me'} in queue 'render' was not added",
        "  job 1 of this name differs: data['size']['h'][1] is 2, expected 3; data['by'] is missing, expected 'me'; "
        "data['extra'] is None, not expected",
        "  job 2 of this name differs: data['n'] is 9, expected 1; "
        "data['size'] is missing, expected {'w': 2, 'h': [1, 3]}; data['by'] is missing, expected 'me'",
        "  other jobs there: 'book' (2)",
    ]
    assert "2 found, 3 expected" in message(lambda: assert_added(queue, "book", count=3))
    told = message(lambda: assert_not_added(queue, "page", data={"n": 9}))
    assert told.endswith("should not have been added, but 1 was:\n  job 2: {'n': 9}")


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_frozen_child_goes_on_when_it_is_thawed(queue: Queue, redis_url: str, end: Path) -> None:
    handlers = str(ROOT / "tests" / "handlers.py")
    with running_supervisor({"render": handlers}, redis_url, prefix=queue.keys.prefix) as running:
        job = queue.add("waits", {"until": str(end)})
        pid = running.freeze(job)
        end.touch()
        assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
        assert queue.state(job) is JobState.ACTIVE
        assert running.thaw(job) == pid
        assert queue.result(job, timeout=20) == "seen"
        assert queue.job(job.id).crashes == 0
        told = message(lambda: running.wait_until_running("nobody", limit_s=0.05))
        assert "job nobody did not run within 0.05s; the supervisor last said:" in told
    assert not psutil.pid_exists(pid)


def test_a_test_that_fails_leaves_no_child_behind(queue: Queue, redis_url: str, end: Path) -> None:
    handlers = str(ROOT / "tests" / "handlers.py")
    pids = []
    with (
        pytest.raises(JobFailed, match="the test's own"),
        running_supervisor({"render": handlers}, redis_url, prefix=queue.keys.prefix) as running,
    ):
        frozen = queue.add("waits", {"until": str(end)})
        pids.append(running.freeze(frozen))
        raise JobFailed("the test's own")
    assert not any(map(psutil.pid_exists, pids))
    assert queue.state(frozen) is JobState.WAITING  # given back unspent


def test_a_supervisor_that_cannot_start_says_so_and_leaves_nothing(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    threads = threading.active_count()
    with (
        pytest.raises(Exception, match="nothing_of_that_name"),
        running_supervisor({"render": str(tmp_path / "broken.py")}, redis_url),
    ):
        pass
    assert threading.active_count() == threads
