"""What a client wants done: which operations it sends and what it makes of the answers, without doing any I/O.

Every errand is a generator that yields operations and is sent their parsed replies. Its docstring and signature are
those of the method that `Queue` and `AsyncQueue` make of it, so the two cannot drift apart.
"""
