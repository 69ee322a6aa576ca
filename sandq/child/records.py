"""`logging` in a processor that did not configure it: records go to stderr, each line marked with its level.

They take the way of everything else the job writes, so threads and forked processes may log as well, and the order of
what was printed and what was logged is kept.
"""

from __future__ import annotations

import logging
import os

from sandq.protocol import RECORD_END, RECORD_MARK


class Records(logging.Handler):
    """Stands in for `logging.lastResort`: asked only where no logger on the way has a handler."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, its traceback included, in one piece."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001  # arguments that do not fit their message: logging says so on stderr
            self.handleError(record)
            return
        mark = RECORD_MARK + record.levelname.encode("utf-8", "replace") + RECORD_END
        lines = text.encode("utf-8", "backslashreplace").splitlines() or [b""]
        rest = memoryview(b"".join(mark + line + b"\n" for line in lines))
        while rest:
            rest = rest[os.write(2, rest) :]


def install() -> None:
    """Take the place of the last resort, once, and let INFO through unless the processor chose a level."""
    if isinstance(logging.lastResort, Records):
        return
    logging.lastResort = Records()
    if logging.root.level == logging.WARNING and not logging.root.handlers:
        logging.root.setLevel(logging.INFO)
