"""Spans and runs in progress."""
