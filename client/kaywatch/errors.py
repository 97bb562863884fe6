"""The exceptions of kaywatch, raised only while setting up or querying the agent.

Recording never raises: events that cannot be recorded are counted
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
    """The base of all exceptions of kaywatch.

    Example:
        try:
            kaywatch.configure(endpoint="nowhere")
        except kaywatch.KaywatchError as error:
            print(error)
    """


class ConfigurationError(KaywatchError, ValueError):
    """An endpoint, a name or a setting is invalid.

    Example:
        try:
            kaywatch.execution("checkout", "")
        except kaywatch.ConfigurationError as error:
            print(error)
    """


class QueryError(KaywatchError):
    """A request over HTTP failed.

    Example:
        try:
            kaywatch.stats("Draft")
        except kaywatch.QueryError as error:
            print(error)
    """


class AgentUnreachable(QueryError):
    """No agent answers at the URL.

    Example:
        try:
            kaywatch.stats(url="http://127.0.0.1:1")
        except kaywatch.AgentUnreachable as error:
            print(error)
    """


class AgentRefused(QueryError):
    """The agent answered with an error.

    Attributes:
        status: the HTTP status.
        code: the machine-readable reason, such as `unknown_node`.
        hint: a possible fix, or empty.

    Example:
        try:
            kaywatch.stats("unknown")
        except kaywatch.AgentRefused as error:
            print(error.status, error.code, error.hint)
    """

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.status = status
        self.code = code
        self.hint = hint
