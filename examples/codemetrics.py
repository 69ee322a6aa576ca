"""Measure the source code of Python's standard library: lines, complexity, repetition, compressed size.

Serve the queue in one terminal, fill it from another:

    sandq supervise metrics=examples/codemetrics.py
    python examples/codemetrics.py

Any folder with Python files will do, and one job runs in a real child without Redis:

    sandq add metrics measure --data '{"folder": "'$PWD'/sandq"}' --wait
    sandq run examples/codemetrics.py --data '{"folder": "'$PWD'/sandq"}'

The work itself is in `sandq/demo/metrics.py`, because `sandq demo` runs it too. A supervisor looks for `process`.
"""

from __future__ import annotations

import os

from sandq.demo.metrics import packages, process

__all__ = ["process"]


def main() -> None:
    from sandq import Queue  # here, not above: children import this file too, and have no use for a Redis client

    with Queue("metrics", redis=os.environ.get("SANDQ_REDIS_URL", "embedded")) as queue:
        jobs = queue.add_many([("measure", data) for data in packages()])
        for job in jobs:
            result = queue.result(job, timeout=120)
            worst = result["complexity"]
            print(f"{result['package']:32} {result['lines']['code']:6} lines   {worst['max']:3} in {worst['max_at']}")


if __name__ == "__main__":
    main()
