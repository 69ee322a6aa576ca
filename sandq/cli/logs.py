"""Facts as log lines, text or JSON: one line each, on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO, assert_never

from msgspec.structs import asdict

from sandq.cli.show import printable
from sandq.supervisor.facts import (
    ChildDied,
    ChildReady,
    Fact,
    LauncherDied,
    Listener,
    Output,
    OutputLost,
    ProcessorBroken,
    Progressed,
    Recovered,
    Recycled,
    Settled,
    Started,
    Stopping,
    StoreTrouble,
)
from sandq.units import show_duration

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


def log_to(stream: TextIO, form: str, clock: Clock = _now) -> Listener:
    """A listener that writes each fact as one line; `form` is `text` or `json`."""
    write = json_line if form == "json" else text_line

    def listen(fact: Fact) -> None:
        stream.write(write(fact, clock()) + "\n")
        stream.flush()

    return listen


def text_line(fact: Fact, at: datetime) -> str:
    """`2026-01-31T12:00:00.123Z render  job 7 (page) started, attempt 1, pid 4242`."""
    return f"{moment(at)} {_source(fact):<12} {describe(fact)}"


def json_line(fact: Fact, at: datetime) -> str:
    """The fact's own fields, its class as `fact`, its moment as `at`."""
    value = {name: _plain(content) for name, content in asdict(fact).items()}
    return json.dumps({"at": moment(at), "fact": type(fact).__name__, **value}, ensure_ascii=False)


def describe(fact: Fact) -> str:  # noqa: PLR0912  # one case per fact
    """What happened, in a few words; text of jobs is kept on one line."""
    match fact:
        case ChildReady():
            return f"child {fact.pid} ready after {fact.load_s:.2f}s"
        case ChildDied():
            return f"child {fact.pid} ended: {fact.how}"
        case Recycled():
            return f"child {fact.pid} is replaced: it {printable(fact.reason)}"
        case Started():
            return f"job {fact.job_id} ({printable(fact.name)}) started, attempt {fact.attempt}, pid {fact.pid}"
        case Progressed():
            return f"job {fact.job_id} progress {printable(fact.progress_json.decode('utf-8', 'replace'))}"
        case Settled():
            return _settled(fact)
        case Recovered():
            return f"put back {len(fact.job_ids)} stalled: {', '.join(fact.job_ids)}"
        case ProcessorBroken():
            return f"processor broken, trying again in {fact.retry_in_s:g}s: {printable(fact.why)}"
        case StoreTrouble():
            return f"redis trouble while {fact.doing}: {printable(fact.why)}"
        case LauncherDied():
            return f"launcher {fact.pid} ended, starting another"
        case Stopping():
            return _stopping(fact)
        case Output():
            job = f"job {fact.job_id} " if fact.job_id else ""
            level = f" {printable(fact.level)}" if fact.level else ""
            return f"{job}{fact.stream}{level}: {printable(fact.line)}"
        case OutputLost():
            return f"job {fact.job_id} output is not kept: {printable(fact.why)}"
        case _:
            assert_never(fact)


def _stopping(fact: Stopping) -> str:
    if not fact.running:
        return "stopping: no job is running"
    jobs, they_are = ("1 job", "it is") if fact.running == 1 else (f"{fact.running} jobs", "they are")
    lengths = set(fact.run_on_s.values())
    if lengths == {0.0}:
        until = f"{they_are} stopped at once"
    else:
        by_queue = (f"{show_duration(run_on_s)} ({queue})" for queue, run_on_s in fact.run_on_s.items())
        how_long = show_duration(lengths.pop()) if len(lengths) == 1 else ", ".join(by_queue)
        until = f"may run on for {how_long}, then {they_are} stopped"
    return (
        f"stopping: {jobs} running; {until}; all ended within {show_duration(fact.limit_s)}; Ctrl-C again to stop now"
    )


def _settled(fact: Settled) -> str:
    where = f" -> {fact.to}" if fact.to and fact.to != "completed" else ""
    refused = f", not written: {fact.word}" if fact.word != "ok" else ""
    reason = f": {printable(fact.reason)}" if fact.reason else ""
    job = f"job {fact.job_id} ({printable(fact.name)})"
    return f"{job} {_words(fact.outcome)}{where} after {fact.wall_s:.2f}s{refused}{reason}"


def _words(class_name: str) -> str:
    """`TimedOut` -> `timed out`."""
    return "".join(f" {char.lower()}" if char.isupper() else char for char in class_name).strip()


def _source(fact: Fact) -> str:
    return getattr(fact, "queue", "sandq")


def moment(at: datetime) -> str:
    """UTC, to the millisecond."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def _plain(content: object) -> object:
    return content.decode("utf-8", "replace") if isinstance(content, bytes) else content
