"""The supervisor side: it holds locks, starts children through the launcher, and settles outcomes. No user code."""
