"""The exceptions that kaywatch raises, all of them at set-up or on a read.

Recording never raises: what can't be recorded is counted (`kaywatch.client_stats`).

    KaywatchError
    ├── ConfigurationError    an endpoint, name or setting that can't be used
    └── QueryError            a read over HTTP did not give an answer
        ├── AgentUnreachable  nobody listens at the URL
        └── AgentRefused      the agent answered with an error (`code`, `hint`)
"""

from __future__ import annotations

__all__ = [
    "AgentRefused",
    "AgentUnreachable",
    "ConfigurationError",
    "KaywatchError",
    "QueryError",
]


class KaywatchError(Exception):
    """The base of everything that kaywatch raises."""


class ConfigurationError(KaywatchError, ValueError):
    """An endpoint, a name or a setting that can't be used."""


class QueryError(KaywatchError):
    """A read over HTTP did not give an answer."""


class AgentUnreachable(QueryError):
    """Nobody answers at the agent's URL."""


class AgentRefused(QueryError):
    """The agent answered with an error.

    Attributes:
        status: the HTTP status.
        code: the machine-readable reason, such as `unknown_node`.
        hint: what to do about it, possibly empty.
    """

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.status = status
        self.code = code
        self.hint = hint
