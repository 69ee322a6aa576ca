"""A death certificate in English: what ended a child, on what evidence. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from sandq.units import show_size

_SIGNALS = {
    "SIGSEGV": "a segmentation fault: native code (a C extension, ctypes) touched memory that was not its own",
    "SIGBUS": "a bus error: native code read a mapped file that shrank, or a full /dev/shm",
    "SIGABRT": "an abort: native code, or the allocator, found itself in a state it could not go on from",
    "SIGFPE": "an arithmetic fault in native code, such as an integer division by zero",
    "SIGILL": "an illegal instruction: a library built for another CPU",
    "SIGKILL": "SIGKILL, which sandq did not send: somebody else, or the kernel, ended it",
    "SIGTERM": "SIGTERM, which sandq did not send: somebody else ended it",
    "SIGXCPU": "its CPU time limit (RLIMIT_CPU)",
    "SIGSYS": "a system call that a sandbox forbids",
}
# A frame of the child's own, in a dump of faulthandler.
_OURS = re.compile(r'  File "(?:.*/sandq/child/\w+\.py|<frozen runpy>)", line \d+ in ')


def explain_death(death: Mapping[str, Any]) -> list[str]:
    """Read one death certificate aloud: cause, evidence, and what was on its lips."""
    lines = [_cause(death)]
    measured = _measured(death)
    if measured:
        lines.append(f"Measured: {measured}.")
    child = _child(death)
    if child:
        lines.append(child)
    stack, stderr = death.get("stack", "").strip(), death.get("stderr", "")
    if stack and stack not in stderr:
        lines += ["Python stack at its end:", *indented(_to_the_handler(stack))]
    if stderr:
        lines += ["Last lines on stderr:", *indented(stderr)]
    return lines


def _cause(death: Mapping[str, Any]) -> str:
    cause, detail = death.get("cause", ""), death.get("detail", "")
    peak = f" at a peak of {show_size(death['peak_rss'])}" if death.get("peak_rss") else ""
    also = f" ({detail})" if detail else ""
    sentences = {
        "exit": _exit(death.get("exit_code")),
        "signal": f"Its process was ended by {_signal(death.get('signal'))}.",
        "oom-kernel": f"The kernel killed its process because memory ran out{peak}. "
        "Give the host or container more, lower --concurrency, or set --memory so that sandq stops it first.",
        "oom-limit": f"sandq killed it because it used more memory than its limit{also or peak}. "
        "Raise its limit (`memory` of the job or in the file, --memory), or use less.",
        "timeout-soft": f"It ran longer than its time limit and stopped when it was asked to{also}.",
        "timeout-hard": f"It ran longer than its time limit, did not stop when asked, and was killed{also}.",
        "cancelled": f"Somebody cancelled it while it ran{also}.",
        "lock-lost": f"Its lock could not be renewed in time, so it was killed before another could start it{also}.",
        "protocol": f"Its process broke the protocol with its supervisor{also}. Does the handler write to foreign "
        "file descriptors?",
        "init": f"Its processor could not be loaded{also}.",
        "launcher": f"The launcher that held its process ended{also}; the job is not to blame.",
        "drain": f"Its supervisor was stopping and could not wait any longer{also}; the job is not to blame.",
    }
    return sentences.get(cause, f"Its process died: {cause or 'cause unknown'}{also}.")


def _signal(name: str | None) -> str:
    return _SIGNALS.get(name or "", name or "a signal")


def _exit(code: int | None) -> str:
    if code is None:
        return "Its process ended before it gave a result; its exit status is not known."
    if code == 0:
        return "Its process ended with exit code 0 before it gave a result: did something call os._exit?"
    return f"Its process ended by itself with exit code {code} before it gave a result."


def _measured(death: Mapping[str, Any]) -> str:
    """The time is the run's own. The rest is known of the child as a whole, whatever else it ran."""
    ran = "" if death.get("wall_s") is None else f"ran {death['wall_s']:.3g}s"
    of_child = []
    if death.get("child_cpu_s") is not None:
        of_child.append(f"{death['child_cpu_s']:.3g}s of CPU")
    if death.get("peak_rss"):
        of_child.append(f"peak memory {show_size(death['peak_rss'])}")
    if not of_child:
        return ran
    jobs = death.get("child_jobs")
    what = "all of its jobs" if jobs is None else "this job" if jobs <= 1 else f"all of its {jobs} jobs"
    used = f"its process, with {what} and loading: {', '.join(of_child)}"
    return f"{ran}; {used}" if ran else used


def _child(death: Mapping[str, Any]) -> str:
    if not death.get("pid"):
        return ""
    where = f" on {death['host']}" if death.get("host") else ""
    age = f", {death['child_age_s']:.0f}s old" if death.get("child_age_s") is not None else ""
    jobs = death.get("child_jobs")
    first = "" if jobs is None else ", its first job" if jobs <= 1 else f", job number {jobs} of that process"
    return f"It was process {death['pid']}{where}{age}{first}."


def _to_the_handler(stack: str) -> str:
    """A stack dump without what stands below the handler in each thread: how sandq called it, the same each time."""
    lines: list[str] = []
    for are_frames, group in groupby(stack.splitlines(), key=lambda line: line.startswith("  File ")):
        part = list(group)
        users = [place for place, line in enumerate(part) if not _OURS.match(line)]
        lines += part[: users[-1] + 1] if are_frames and users else part  # where all is ours, that is what there is
    return "\n".join(lines)


def indented(text: str) -> list[str]:
    """Lines of somebody else's, told apart from ours."""
    return [f"    {line}" for line in text.rstrip().splitlines()]
