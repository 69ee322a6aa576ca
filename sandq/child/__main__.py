"""Entry of a child: `python -m sandq.child FD`. The launcher has already fenced, niced and captured this process."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys

from sandq.child.channel import Channel
from sandq.child.loop import serve


def main() -> None:
    """Serve jobs on the inherited socket until it closes."""
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)  # programs that a handler starts must not hold our channel open
    sys.argv[1:] = []
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a crash must not take the last lines along
    faulthandler.enable()  # a segmentation fault leaves its Python stack on stderr
    faulthandler.register(signal.SIGUSR1)  # a stack dump on request, written even while C code holds the GIL
    serve(Channel(fd))


if __name__ == "__main__":
    main()
