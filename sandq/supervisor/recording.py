"""What one attempt writes to stdout and stderr: told as lines, its end kept for the job's log, all of it in a file."""

from __future__ import annotations

from datetime import UTC, datetime

from sandq.errors import SandqError
from sandq.job import Claim
from sandq.outcome import Cancelled, Crashed, Interrupted, Outcome, Raised, TimedOut, TooLarge
from sandq.store import work
from sandq.supervisor.facts import Output, OutputLost, StoreTrouble
from sandq.supervisor.means import Means
from sandq.supervisor.output import Capture, Tail
from sandq.supervisor.process import ChildProcess
from sandq.supervisor.sink import JobFile, file_of

UNFINISHED = (Raised, TimedOut, Crashed, Cancelled, Interrupted, TooLarge)  # whose output people ask for


class Recording:
    """Of one attempt, from its begin or the end of the job before to its own end. Silent jobs cost it nothing."""

    def __init__(self, means: Means, claim: Claim, child: ChildProcess) -> None:
        self._means = means
        self._claim = claim
        self._child = child
        self._file = self._open_file()
        self._capture: Capture | None = None
        self._tail: Tail | None = None

    def begin(self) -> None:
        """The attempt begins on a child that did nothing before: between jobs the loop has read what there was."""
        self._child.output.hear(self._feed, sure=True)

    def follow(self) -> None:
        """The attempt begins on a child that comes from another one: what was written before is that one's."""
        self._child.output.follow(self._feed)

    def end(self) -> None:
        """Whatever the child wrote until now is this attempt's, unless the next one has begun in it."""
        child = self._child
        # The loop saw socket and pipes at one moment, after the last frame and all output before it were written.
        sure = child.spoke_once and child.alive
        if not sure:
            child.output.on_output()
        if child.output.hears(self._feed):
            child.output.hear(None, sure=sure)
        self.close()

    def close(self) -> None:
        """Nothing more is written."""
        if self._capture is not None:
            self._capture.end()
        if self._file is not None:
            self._file.close()

    async def keep(self, outcome: Outcome) -> None:
        """Put the end of it into the job's log, while the lock still proves that we may; once."""
        wanted = self._means.settings.keep_output
        if wanted == "never" or (wanted == "failed" and not isinstance(outcome, UNFINISHED)):
            return
        tail, self._tail = self._tail, None
        if tail is None or not (lines := tail.lines()):
            return
        job_id = self._claim.job.id
        try:
            await self._means.store.run(work.log_lines(self._means.keys, job_id, lines, self._claim.token))
        except SandqError as error:
            self._means.publish(StoreTrouble(doing=f"output of {job_id}", why=str(error)))

    def _feed(self, stream: str, data: bytes) -> None:
        if self._capture is None or self._tail is None:
            self._capture, self._tail = Capture(self._emit), Tail()
        self._capture.feed(stream, data)
        self._tail.feed(stream, data)
        if self._file is not None:
            self._file.feed(stream, data)

    def _open_file(self) -> JobFile | None:
        folder, job = self._means.settings.output_dir, self._claim.job
        if not folder:
            return None
        title = f"attempt {job.attempts_made + 1}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}, pid {self._child.pid}"
        return JobFile(file_of(folder, self._means.keys.queue, job.id), title, self._lost)

    def _emit(self, stream: str, line: str, level: str) -> None:
        queue, job_id = self._means.keys.queue, self._claim.job.id
        self._means.publish(Output(queue=queue, job_id=job_id, stream=stream, line=line, level=level))

    def _lost(self, why: str) -> None:
        self._means.publish(OutputLost(queue=self._means.keys.queue, job_id=self._claim.job.id, why=why))
