"""The agent's exceptions.

AgentError
├── CaptureError      a capture cannot be recorded, read or replayed
├── ConfigError       an invalid setting; names its key path
├── StartError        a socket, port or file cannot be opened
└── StoreError        the store's file cannot be used, or not now
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AgentError",
    "CaptureError",
    "ConfigError",
    "InvalidValue",
    "StartError",
    "StoreError",
]


class AgentError(Exception):
    """The base of the agent's own errors: shown to users without a traceback."""


class CaptureError(AgentError):
    """A capture cannot be recorded, read or replayed; names the file or agent."""


class ConfigError(AgentError):
    """An invalid setting.

    Attributes:
        key: the path of the key, such as `http.listen`.
        others: further errors in the same file.
    """

    def __init__(
        self, key: str, message: str, others: Sequence[ConfigError] = ()
    ) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key
        self.others = tuple(others)


class InvalidValue(ValueError):
    """An invalid value of a table; the reader of the table makes it a ConfigError.

    Attributes:
        key: the key within the table.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class StartError(AgentError):
    """A socket, port or file that the agent needs cannot be opened."""


class StoreError(AgentError):
    """The store's file cannot be used: full, locked, or written by a newer agent."""
