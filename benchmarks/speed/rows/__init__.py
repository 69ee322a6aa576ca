"""One file per row of the benchmark: what is measured, on whom, and how often."""
