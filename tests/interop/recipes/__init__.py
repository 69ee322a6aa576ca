"""What a producer and a worker do to a queue, step by step, for both sides to do (see hands.py)."""

from recipes import adding, deduplication, flows, operating, running, schedulers, upkeep
from recipes.table import RECIPES

__all__ = ["RECIPES", "adding", "deduplication", "flows", "operating", "running", "schedulers", "upkeep"]
