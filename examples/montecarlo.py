"""Price a European call option by Monte Carlo: nothing but CPU, and an answer that can be checked.

    sandq supervise montecarlo=examples/montecarlo.py
    sandq add montecarlo price --data '{"spot": 100, "strike": 105, "volatility": 0.2, "years": 1}' --wait

One job in a real child, without Redis:

    sandq run examples/montecarlo.py --data '{"spot": 100, "strike": 105, "paths": 2000000}'

`setup()` runs once per child, before its first job; here it looks for numpy, which is some twenty times faster than the
loop in Python, and not required. The random numbers follow from the job's id: a job that runs again after a crash gives
the same answer as if nothing had happened.
"""

from __future__ import annotations

import math
import random
from typing import Any

BATCH = 100_000

numpy: Any = None


def setup() -> None:
    global numpy  # noqa: PLW0603  # what setup loads has to stay for the jobs to come
    try:
        import numpy
    except ImportError:
        numpy = None


def process(job: Any) -> dict[str, Any]:
    paths = int(job.data.get("paths", 1_000_000))
    rng = random.Random(job.id)
    option = Option(job.data)
    count, total, squares = 0, 0.0, 0.0
    while count < paths:
        size = min(BATCH, paths - count)
        batch_total, batch_squares = option.payoffs(size, rng)
        count, total, squares = count + size, total + batch_total, squares + batch_squares
        job.progress(round(100 * count / paths))
    mean = total / count
    error = math.sqrt(max(squares / count - mean * mean, 0.0) / count)
    return {
        "price": round(mean * option.discount, 6),
        "standard_error": round(error * option.discount, 6),
        "paths": count,
        "engine": "numpy" if numpy else "python",
    }


class Option:
    """A call on a share that pays no dividend, whose price follows geometric Brownian motion."""

    def __init__(self, data: dict[str, Any]) -> None:
        rate, volatility = data.get("rate", 0.03), data.get("volatility", 0.2)
        years = data.get("years", 1.0)
        self.strike = data["strike"]
        self.discount = math.exp(-rate * years)
        self.level = data["spot"] * math.exp((rate - volatility**2 / 2) * years)
        self.spread = volatility * math.sqrt(years)

    def payoffs(self, size: int, rng: random.Random) -> tuple[float, float]:
        """The sum and the sum of squares over `size` paths; each is the mean of a draw and its mirror image."""
        if numpy:
            return self._payoffs_numpy(size, rng.getrandbits(64))
        total = squares = 0.0
        for _ in range(size):
            growth = math.exp(self.spread * rng.gauss())
            up = max(self.level * growth - self.strike, 0.0)
            down = max(self.level / growth - self.strike, 0.0)
            payoff = (up + down) / 2
            total += payoff
            squares += payoff * payoff
        return total, squares

    def _payoffs_numpy(self, size: int, seed: int) -> tuple[float, float]:
        growth = numpy.exp(self.spread * numpy.random.default_rng(seed).standard_normal(size))
        ups = numpy.maximum(self.level * growth - self.strike, 0.0)
        downs = numpy.maximum(self.level / growth - self.strike, 0.0)
        payoffs = (ups + downs) / 2
        return float(payoffs.sum()), float((payoffs * payoffs).sum())
