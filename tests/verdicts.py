"""What came of a chaos run: what the jobs wrote down, what their supervisors said and what Redis holds, each against
what was promised.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from harness import LIMIT_S, Begun, Placed, Returned, eventually
from stamped import QUIET, SAYS

from sandq.job import Job
from sandq.supervisor.facts import Output, Settled, Started, StoreTrouble

if TYPE_CHECKING:
    from chaos import Chaos

ALL = 1_000_000
AT_ONCE = 1000  # logs read in one go
# A job that does not end when it is asked to is made to dump its stack.
STACK = re.compile(r'(\[stderr\] )?(Current thread 0x|Thread 0x|  File "|$)')


@dataclass
class Run:
    """One run of a job, as its trace tells it."""

    fence: int
    first: int
    last: int
    ended: bool


@dataclass
class Verdict:
    """Every invariant that does not hold, in words; and the figures of the run."""

    broken: list[str]
    figures: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """What is known of one job when all is over."""

    id: str
    kind: str
    state: str
    job: Job | None
    runs: list[Run]
    lines: list[str]
    told: dict[str, int]  # how often its end was told, by the event's name


def judge(chaos: Chaos) -> Verdict:
    """Hold the traces, the events and the keys against what was promised."""
    said = [fact for facts in chaos.said for fact in facts.all(object)]
    unkept = {fact.doing for fact in said if isinstance(fact, StoreTrouble)}
    broken: list[str] = []
    total = Counter[str]()
    for ended in ends_of(chaos):
        total[ended.state] += 1
        total["runs"] += len(ended.runs)
        total["runs cut short"] += sum(not run.ended for run in ended.runs)
        broken += _judge_end(chaos, ended) + overlaps(ended.id, ended.runs) + strangers(ended.id, ended.lines)
        if ended.job is not None and ended.state == "completed":
            broken += _judge_result(ended.job, ended.runs)
            if chaos.mix.keep_output == "always" and f"output of {ended.id}" not in unkept:
                broken += missing_lines(ended.job, ended.kind, ended.lines)
    for facts in chaos.said:
        broken += charges(facts.all(object), chaos.tally.killed, chaos.tally.added)
    broken += [line for fact in said if isinstance(fact, Output) for line in strangers(fact.job_id, [fact.line])]
    broken += [f"P7: {fact.why}" for fact in said if isinstance(fact, StoreTrouble) and "internal" in fact.why]
    if chaos.tally.ended_by_itself:
        broken.append(f"P7: {chaos.tally.ended_by_itself} supervisors ended by themselves")
    counts = {state: count for state, count in chaos.queue.counts().items() if count}
    expected = {state: total[state] for state in ("completed", "failed") if total[state]}
    if counts != expected or sum(expected.values()) != len(chaos.tally.added):
        broken.append(f"I4: Redis counts {counts}, {len(chaos.tally.added)} jobs were added, {dict(total)} found")
    mailboxes = Counter(type(fact).__name__ for fact in said if isinstance(fact, (Placed, Begun, Returned)))
    figures = {
        **total,
        "jobs": len(chaos.tally.added),
        "mailboxes": dict(mailboxes),
        "outcomes": dict(Counter(fact.outcome for fact in said if isinstance(fact, Settled))),
        "faults": dict(chaos.tally.faults),
        "exchanges": dict(chaos.tally.exchanges),
        "adds repeated": chaos.tally.add_errors,
        "all ended after calm (s)": round(chaos.tally.recovered_in_s, 1),
    }
    return Verdict(broken, figures)


def ends_of(chaos: Chaos) -> Iterator[Ended]:
    """Every job that was added."""
    words = ("completed", "failed")
    told = Counter((event.job_id, event.name) for event in chaos.queue.events(since="0", block=0.01, names=words))
    found = {job.id: (state, job) for state in words for job in chaos.queue.jobs(state, limit=ALL)}
    for job_id, lines in logs(chaos, chaos.tally.added):
        state, job = found.get(job_id, ("nowhere", None))
        times = {word: told[job_id, word] for word in words}
        yield Ended(job_id, chaos.tally.added[job_id], state, job, runs_of(chaos.folder / job_id), lines, times)


def _judge_end(chaos: Chaos, ended: Ended) -> list[str]:
    """I1: where a job has not ended once, or as its kind does not end."""
    broken: list[str] = []
    if ended.told != {word: int(word == ended.state) for word in ended.told}:
        broken.append(f"I1: job {ended.id} is {ended.state} and was said to have ended as {ended.told}")
    if ended.job is not None and ended.state == "failed":
        reason = str(ended.job.failed_reason)
        cancelled = ended.id in chaos.tally.cancelled and reason.startswith("cancelled")
        late = ended.kind == "overstays" and reason.startswith("timed out")
        if not (cancelled or late or ended.kind == "fails"):
            broken.append(f"I1: job {ended.id} ({ended.kind}) failed: {reason}")
    return broken


# -- the runs of a job -------------------------------------------------------------------------------------------------


def runs_of(trace: Path) -> list[Run]:
    """The runs of a job in the order in which they began; a half-written last line is not counted."""
    found: list[Run] = []
    newest: dict[tuple[str, str], Run] = {}  # of a fence in a process: each S begins another, even of the same
    for line in trace.read_text().splitlines(keepends=True) if trace.exists() else ():
        if not line.endswith("\n"):
            continue
        fence, at, mark, pid = line.split()
        if mark == "S":
            found.append(Run(int(fence), int(at), int(at), ended=False))
            newest[fence, pid] = found[-1]
        run = newest[fence, pid]
        run.last, run.ended = int(at), mark == "E"
    return sorted(found, key=lambda run: run.first)


def overlaps(job_id: str, runs: list[Run]) -> list[str]:
    """I2: where a run began before the one before it had ended, or with a fence that had not grown."""
    broken: list[str] = []
    for before, after in pairwise(runs):
        if after.first <= before.last:
            overlap_ms = (before.last - after.first) / 1e6
            broken.append(f"I2: job {job_id} ran twice at once for {overlap_ms:.1f} ms (fence {after.fence})")
        if after.fence <= before.fence:
            broken.append(f"I2: job {job_id} has fence {after.fence} after {before.fence}")
    return broken


def _judge_result(job: Job, runs: list[Run]) -> list[str]:
    """I3: where the result is not that of the last run."""
    broken, fence = [], job.returnvalue["fence"]
    if fence not in [run.fence for run in runs if run.ended]:
        broken.append(f"I3: job {job.id} has the result of run {fence}, which did not end")
    if runs and fence != runs[-1].fence:
        broken.append(f"I3: job {job.id} ran again after the run {fence} whose result it has")
    return broken


# -- what it wrote -----------------------------------------------------------------------------------------------------


def logs(chaos: Chaos, job_ids: Iterable[str]) -> Iterable[tuple[str, list[str]]]:
    """Each job with the lines that are kept with it."""
    todo = list(job_ids)
    with chaos.server.client() as client:
        while todo:
            some, todo = todo[:AT_ONCE], todo[AT_ONCE:]
            pipe = client.pipeline(transaction=False)
            for job_id in some:
                pipe.lrange(f"{chaos.prefix}:render:{job_id}:logs", 0, -1)
            yield from (
                (id_, [line.decode() for line in lines]) for id_, lines in zip(some, pipe.execute(), strict=True)
            )


def strangers(job_id: str, lines: Iterable[str]) -> list[str]:
    """O1: lines that another job wrote, or nobody. A job says `id fence number`, with its stream before it or not."""
    return [
        f"O1: {job_id or 'no job'} has the line {line!r}"
        for line in lines
        if job_id not in line.split()[:-2] and not STACK.match(line)
    ]


def missing_lines(job: Job, kind: str, lines: Sequence[str]) -> list[str]:
    """O2: what a completed job wrote in its last run, and is not kept, or not once and in order on each stream."""
    whose = f"{job.id} {job.returnvalue['fence']}"
    for number, stream in enumerate(("[stdout]", "[stderr]")):
        wrote = [] if kind in QUIET else [f"{stream} {whose} {n}" for n in range(number, SAYS, 2)]
        if [line for line in lines if line.startswith(f"{stream} {whose} ")] != wrote:
            return [f"O2: job {job.id} ({kind}) wrote {wrote}; {list(lines)} are kept"]
    return []


# -- what it was charged -----------------------------------------------------------------------------------------------


def charges(said: Sequence[Any], killed: Collection[int], kinds: Mapping[str, str]) -> list[str]:
    """C: crashes that neither the job's kind nor a kill explains, and children whose one end was charged to two jobs.

    `said`: by one supervisor; `killed`: children that chaos killed. An interruption has many causes, and one payer.
    """
    broken: list[str] = []
    begun: set[tuple[str, int | None]] = set()
    payers: defaultdict[int, list[str]] = defaultdict(list)
    for fact in said:
        if isinstance(fact, Started):
            begun.add((fact.job_id, fact.pid))
        elif isinstance(fact, Settled):
            pid = fact.pid
            if fact.outcome not in ("Crashed", "Interrupted") or fact.word != "ok":
                continue
            who = f"job {fact.job_id} ({kinds.get(fact.job_id)}), {fact.outcome} {fact.reason!r}"
            if pid is None or (fact.job_id, pid) not in begun:
                broken.append(f"C1: {who}, had not begun")
                continue
            if fact.outcome == "Crashed" and kinds.get(fact.job_id) != "crashes" and pid not in killed:
                broken.append(f"C2: {who}, whose child {pid} nobody killed")
            payers[pid].append(who)
    return broken + [f"C3: the end of child {pid} was charged to {who}" for pid, who in payers.items() if len(who) > 1]


# -- what is left ------------------------------------------------------------------------------------------------------


def left_behind(chaos: Chaos, mark: str) -> list[str]:
    """I5: locks, processes and zombies that outlived the run."""
    with chaos.server.client() as client:
        locks = [key.decode() for key in client.scan_iter(f"{chaos.prefix}:*:lock", count=1000)]
    found = [f"I5: lock {lock}" for lock in locks]
    with contextlib.suppress(TimeoutError):
        eventually(lambda: not marked(mark), "no process is left", LIMIT_S)
    found += [f"I5: process {process}" for process in marked(mark)]
    zombies = [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]
    return found + [f"I5: zombie {zombie}" for zombie in zombies]


def marked(mark: str) -> list[str]:
    """Living processes with this folder for temporary files, other than our own."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("TMPDIR") == mark:
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found
