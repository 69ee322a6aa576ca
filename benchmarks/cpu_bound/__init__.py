"""CPU-bound jobs on sandq and on other workers: who keeps its locks."""
