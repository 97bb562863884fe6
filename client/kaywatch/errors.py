"""The exceptions of kaywatch, raised only while setting up or querying the agent.

Recording never raises: events that can't be recorded are counted
(`kaywatch.client_stats`).

    KaywatchError
    ├── ConfigurationError    an endpoint, name or setting is invalid
    └── QueryError            a request over HTTP failed
        ├── AgentUnreachable  no agent answers at the URL
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
    """The base of all exceptions of kaywatch."""


class ConfigurationError(KaywatchError, ValueError):
    """An endpoint, a name or a setting is invalid."""


class QueryError(KaywatchError):
    """A request over HTTP failed."""


class AgentUnreachable(QueryError):
    """No agent answers at the URL."""


class AgentRefused(QueryError):
    """The agent answered with an error.

    Attributes:
        status: the HTTP status.
        code: the machine-readable reason, such as `unknown_node`.
        hint: a possible fix, or empty.
    """

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.status = status
        self.code = code
        self.hint = hint
