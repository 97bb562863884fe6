"""The data path of a batch and of a tick, in order."""
