"""What happened to a job, in English: from its counters, its reason and its death certificate. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandq.cli.certificate import explain_death, indented
from sandq.errands.family import FailedChild
from sandq.job import Job, JobState

_APART = "a crash uses up none, crashes are counted apart"
# What `decide` writes when a budget of its own ended the job.
_BUDGETS = (
    (re.compile(r"\(crash (\d+), (\d+) allowed: failed\)"), "it used up its crashes, {0} where max_crashes allows {1}"),
    (
        re.compile(r"\(interruption (\d+), (\d+) allowed: failed\)"),
        "it used up its interruptions, {0} where max_interruptions allows {1}",
    ),
    (
        re.compile(r"; try (\d+) of (\d+): failed\)"),
        "it was claimed {0} times by workers without a handler for its name (max_unknown_names)",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What surrounds a job: its queue, those who serve it, and the time."""

    now_ms: int
    paused: bool = False
    held: bool = True  # somebody has the job's lock, as everybody does who runs it
    supervisors: Sequence[Mapping[str, Any]] = ()  # what each last said about itself
    failed_children: Sequence[FailedChild] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """The process that runs a job, and what its supervisor is called."""

    pid: int
    called: str


def explain(job: Job, state: JobState, scene: Scene) -> list[str]:
    """Say what became of the job, on what evidence, and what happens next; one line each."""
    lines = [f"Job {job.id} ({job.name}) of queue {job.queue} is {_state_words(state, scene)}{_history(job)}."]
    if state is JobState.ACTIVE:
        lines.append(_run(job, scene))
    elif job.processed_on and job.finished_on and not job.death:
        lines.append(f"Its last run took {show_age(job.finished_on - job.processed_on)}.")
    ended = _ended(job)
    if ended and state is not JobState.FAILED:  # Redis keeps it for a job that runs or waits again, or has completed
        ended = ["An earlier run ended like this:", *indented("\n".join(ended))]
    lines += ended
    if job.deferred_failure:
        lines.append(f"It is condemned: the next worker fails it without running it, because {job.deferred_failure}.")
    lines += map(_failed_child, scene.failed_children)
    return [*lines, *_next(job, state, scene)]


def _ended(job: Job) -> list[str]:
    """What is kept of a run that did not complete: its certificate, else what it raised."""
    if job.death:
        return explain_death(job.death)
    lines = [_reason(job.failed_reason)] if job.failed_reason else []
    if job.stacktrace and job.stacktrace[-1] != job.failed_reason:
        lines += ["Last traceback:", *indented(job.stacktrace[-1])]
    return lines


def _state_words(state: JobState, scene: Scene) -> str:
    worker = "its queue to be resumed" if scene.paused else "a free worker" if scene.supervisors else "a worker"
    words = {
        JobState.WAITING: f"waiting for {worker}",
        JobState.PRIORITIZED: f"waiting for {worker}, by priority",
        JobState.ACTIVE: "running" if scene.held else "active without a holder",
        JobState.DELAYED: "waiting for its time",
        JobState.WAITING_CHILDREN: "waiting for its children",
        JobState.UNKNOWN: "in no known state",
    }
    return words.get(state, str(state))


def _run(job: Job, scene: Scene) -> str:
    """Who runs it, for how long by now, and how far it is; or that nobody does."""
    if not scene.held:
        began = f" It began {show_age(scene.now_ms - job.processed_on)} ago." if job.processed_on else ""
        return f"Its lock ran out: whoever ran it is gone, or has lost it.{began} The next stalled check puts it back."
    ran = f"It has run for {show_age(scene.now_ms - job.processed_on)}" if job.processed_on else "It runs"
    progress = "" if job.progress_json is None else f"; its progress is {job.progress_json.decode('utf-8', 'replace')}"
    if runner := find_runner(job, scene.supervisors):
        return f"{ran} as process {runner.pid} of supervisor {runner.called}{progress}."
    if scene.supervisors:
        return f"{ran}{progress}; no supervisor has told of it yet, they do so every few seconds."
    return (
        f"{ran}{progress}. No sandq supervisor serves the queue: either another worker runs it, or its own is gone, "
        "and the next supervisor puts it back."
    )


def find_runner(job: Job, supervisors: Sequence[Mapping[str, Any]]) -> Runner | None:
    """Who runs the job, if a supervisor has told of it."""
    for supervisor in supervisors:
        for run in supervisor.get("queues", {}).get(job.queue, {}).get("running", ()):
            if run.get("id") == job.id and run.get("pid"):  # without one it has not begun
                return Runner(pid=run["pid"], called=_called(supervisor))
    return None


def _called(supervisor: Mapping[str, Any]) -> str:
    name = supervisor.get("name") or supervisor.get("id")
    return f"{name} on {supervisor['host']}" if supervisor.get("host") else str(name)


def show_age(age_ms: float) -> str:
    """A time in units that fit it: 0.4s, 12s, 3m 5s, 2h 7m, 3d 4h."""
    age_s = max(0.0, age_ms / 1000)
    if age_s < 60:
        return f"{age_s:.1f}s" if age_s < 10 else f"{age_s:.0f}s"
    minutes, left_s = divmod(int(age_s), 60)
    hours, left_minutes = divmod(minutes, 60)
    days, left_hours = divmod(hours, 24)
    if days:
        return f"{days}d {left_hours}h"
    return f"{hours}h {left_minutes}m" if hours else f"{minutes}m {left_s}s"


def _history(job: Job) -> str:
    crashes, interruptions = crashes_of(job), interruptions_of(job)
    parts = [
        _count(job.attempts_started, "start"),
        _count(crashes, "crash", "crashes"),
        _count(interruptions, "interruption"),
        _count(job.stalled_count, "stall"),
    ]
    if job.unknown_names:
        parts.append(f"{_count(job.unknown_names, 'claim')} by workers without a handler for its name")
    told = ", ".join(part for part in parts if part)
    return f" after {told}" if told else ""


def crashes_of(job: Job) -> int:
    """How often the job crashed; a finished job's own counter was cleared, its certificate kept it."""
    return job.crashes or int((job.death or {}).get("crashes", 0))


def interruptions_of(job: Job) -> int:
    """How often it was interrupted, likewise."""
    return job.interruptions or int((job.death or {}).get("interruptions", 0))


def _count(number: int, one: str, many: str | None = None) -> str:
    return "" if not number else f"1 {one}" if number == 1 else f"{number} {many or one + 's'}"


def _reason(reason: str) -> str:
    return f"Reason: {reason.rstrip('.')}."


def _failed_child(child: FailedChild) -> str:
    """Which child failed, why, and what that is to the job."""
    which = f"child {child.id} of queue {child.queue}"
    if child.reason is None:
        return f"Its {which} failed; it has run again since, or is gone."
    why = child.reason.partition("\n")[0].rstrip(".") or "no reason was kept"
    more = f"`sandq why {child.queue} {child.id}` says more"
    if child.kind == "pending":
        again = f"`sandq retry {child.queue} {child.id}`"
        return f"It is held up by its {which}, which failed: {why}; {more}, {again} runs it again."
    if child.kind == "ignored":
        return f"It goes on without its {which}, which failed: {why}; {more}."
    return f"Its {which} failed: {why}; {more}."


def _next(job: Job, state: JobState, scene: Scene) -> Iterator[str]:
    if state is JobState.COMPLETED:
        yield "Nothing further happens to it."
    elif state is JobState.FAILED:
        yield f"It will not run again by itself: {_final(job)}. `sandq retry {job.queue} {job.id}` puts it back."
    elif state is JobState.UNKNOWN:
        yield "It is in none of the queue's lists; if it stays so, report it."
    elif state is JobState.ACTIVE:
        if not scene.held:
            yield from _obstacles(job.queue, scene)
        yield f"This {'is' if scene.held else 'was'} {_attempt(job)}; {_APART}."
    else:
        yield from _obstacles(job.queue, scene)
        yield f"Its next run is {_attempt(job)}; {_APART}."


def _obstacles(queue: str, scene: Scene) -> Iterator[str]:
    """What keeps every waiting job of the queue from running."""
    if scene.paused:
        yield f"Queue {queue} is paused: nothing of it starts before `sandq resume {queue}`."
    if not scene.supervisors:
        yield f"No sandq supervisor serves queue {queue}; start one: `sandq supervise {queue}=PATH[:FUNCTION]`."
    for supervisor in scene.supervisors:
        if broken := supervisor.get("queues", {}).get(queue, {}).get("broken"):
            yield f"Supervisor {_called(supervisor)} cannot load the queue's processor: {broken}"


def _attempt(job: Job) -> str:
    """Which attempt the run at hand, or the next one, is."""
    number = job.attempts_made + 1
    if number > job.attempts:
        return f"one run more than its {_count(job.attempts, 'attempt')}, asked for by hand"
    return f"attempt {number} of {job.attempts}" + (", its last" if number == job.attempts else "")


def _final(job: Job) -> str:
    """Why a failed job stays failed."""
    reason = job.failed_reason or ""
    if is_cancelled(reason):
        return "it was cancelled"
    for pattern, sentence in _BUDGETS:
        if found := pattern.search(reason):
            return sentence.format(*found.groups())
    if job.attempts_made > job.attempts:
        return f"{job.attempts_made} attempts were made, {job.attempts_made - job.attempts} of them asked for by hand"
    if job.attempts_made == job.attempts:
        return "its only attempt is used up" if job.attempts == 1 else f"all of its {job.attempts} attempts are used up"
    return f"another attempt could not help ({job.attempts_made} of {job.attempts} attempts used)"


def is_cancelled(reason: str) -> bool:
    """Whether a job failed because somebody cancelled it."""
    return reason == "cancelled" or reason.startswith("cancelled:")
