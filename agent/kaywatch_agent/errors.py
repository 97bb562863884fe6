"""The agent's exceptions.

AgentError
├── CaptureError      a capture can't be made, read or replayed
├── ConfigError       a setting that can't be used; names its key path
├── StartError        a resource that the agent needs is not to be had
└── StoreError        the store's file can't be used, or not now
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["AgentError", "CaptureError", "ConfigError", "StartError", "StoreError"]


class AgentError(Exception):
    """The base of the agent's own errors: told to the user without a trace."""


class CaptureError(AgentError):
    """A capture can't be made, read or replayed; says which file or agent, and why."""


class ConfigError(AgentError):
    """A setting that can't be used.

    Attributes:
        key: the path of the key, such as `http.listen`.
        others: what else is wrong.
    """

    def __init__(
        self, key: str, message: str, others: Sequence[ConfigError] = ()
    ) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key
        self.others = tuple(others)


class StartError(AgentError):
    """A socket, a port or a file that the agent needs is not to be had."""


class StoreError(AgentError):
    """The store's file can't be used, or not now: full, locked, of a newer agent."""
