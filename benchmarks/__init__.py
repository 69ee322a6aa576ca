"""Benchmarks of sandq beside its peers."""
