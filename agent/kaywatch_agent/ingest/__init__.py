"""Transports: carry bytes from clients to the pipeline, and replies back."""
