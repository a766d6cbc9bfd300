"""Sweeps: the engine that takes rows in batches, and the tasks that run it for each policy."""
