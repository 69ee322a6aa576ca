"""Entry of a child: `python -m sandq.child FD`. The launcher has already fenced, niced and captured this process."""

from __future__ import annotations

import os
import sys

from sandq.child.channel import Channel
from sandq.child.fingerprint import dump_on_request
from sandq.child.loop import serve


def main() -> None:
    """Serve jobs on the inherited socket until it closes."""
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)  # programs that a handler starts must not hold our channel open
    prepare()
    serve(Channel(fd))


def prepare() -> None:
    """What every process that runs user code needs, before it imports any."""
    sys.argv[1:] = []
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a crash must not take the last lines along
    dump_on_request()


if __name__ == "__main__":
    main()
