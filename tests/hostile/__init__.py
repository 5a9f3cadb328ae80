"""A server beside hostile clients: `python -m tests.hostile.run`."""
