"""The Redis side: keys, scripts, operations without I/O, and the two executors that run them."""
