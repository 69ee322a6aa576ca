"""The child side: imports one processor, runs one job at a time, reports over a private socket. No Redis."""
