"""The path of a batch and of a tick, top to bottom."""
