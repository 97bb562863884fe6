"""Instrumentation of KayGraph and PocketFlow."""
