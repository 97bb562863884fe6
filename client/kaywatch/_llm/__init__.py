"""Calls of language models: usage and cost."""
