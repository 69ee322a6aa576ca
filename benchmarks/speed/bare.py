"""A bare loop of the work: no queue, no Redis, no other process. `python -m benchmarks.speed.bare JOBS TURNS`.

Writes a line when it is ready, begins at a line, and writes the moment of its end.
"""

from __future__ import annotations

import sys
import time

from benchmarks.speed.work import run


def main() -> None:
    """Run the handler so often."""
    jobs, turns = int(sys.argv[1]), int(sys.argv[2])
    data = {"kind": "spin", "turns": turns}
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(jobs):
        run(data)
    print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main()
