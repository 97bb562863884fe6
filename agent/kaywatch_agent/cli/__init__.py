"""The `kaywatch` command."""
