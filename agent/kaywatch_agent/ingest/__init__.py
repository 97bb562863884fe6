"""Transports: bytes from clients to the pipeline, and replies back. Nothing else."""
