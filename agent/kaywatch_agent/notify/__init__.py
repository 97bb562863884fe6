"""Delivers notifications: the outbox, a worker per receiver, and the receivers."""
