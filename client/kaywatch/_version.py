"""The version, in the one place from which the package's build reads it."""

__version__ = "0.2.0"
