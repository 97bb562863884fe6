"""Requests to the agent's HTTP interface, with the standard library only."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from kaywatch._process import flush
from kaywatch.errors import (
    AgentRefused,
    AgentUnreachable,
    ConfigurationError,
    QueryError,
)

__all__ = [
    "DEFAULT_URL",
    "connect",
    "fetch",
    "fetch_text",
    "headers",
    "refusal",
    "send",
    "stats",
    "unreachable",
]

DEFAULT_URL: Final = "http://127.0.0.1:9477"
TIMEOUT: Final = 10.0


def stats(
    node: str | None = None,
    *,
    graph: str | None = None,
    window: str | None = None,
    url: str | None = None,
) -> dict[str, Any]:
    """Return the agent's statistics of a node, of a graph, or of everything.

    They include what this process recorded, which is flushed first.

    Args:
        node: a node's name: the keys of KayGraph's `get_stats` and more.
        graph: a graph's name. With `node`, the node within that graph; without it, the
            keys of `get_graph_stats` and more.
        window: the time range, such as `5m`. Default: since first seen.
        url: the agent's address. Default: `KAYWATCH_URL`, else
            `http://127.0.0.1:9477`.

    Returns:
        The answer's JSON; durations are in seconds. Without node and graph,
        `{"timestamp", "nodes", "graphs"}`.

    Example:
        kaywatch.stats("Draft", window="5m")["success_rate"]

    Threads and forks:
        Blocks the calling thread during the request. May be called from any thread and
        process.

    Raises:
        AgentUnreachable: no agent answers there.
        AgentRefused: the node is unknown, or a parameter is invalid.
    """
    flush(1.0)
    parameters = {"window": window}
    if node is not None:
        path = f"/api/v1/nodes/{quote(node, safe='', errors='surrogateescape')}/stats"
        parameters["graph"] = graph
    elif graph is not None:
        path = f"/api/v1/graphs/{quote(graph, safe='', errors='surrogateescape')}/stats"
    else:
        path = "/api/v1/export"
    statistics: dict[str, Any] = fetch(path, parameters, url)
    return statistics


def fetch(
    path: str, parameters: Mapping[str, object] | None = None, url: str | None = None
) -> Any:
    """Return the JSON at a path of the agent's HTTP interface.

    Raises:
        AgentUnreachable: no agent answers there.
        AgentRefused: the agent answered with an error.
        QueryError: the answer is not the agent's.
    """
    query = {k: str(v) for k, v in (parameters or {}).items() if v is not None}
    return _request(
        "GET",
        f"{path}?{urlencode(query, errors='surrogateescape')}" if query else path,
        None,
        url,
    )


def fetch_text(path: str, url: str | None = None) -> str:
    """Return the text at a path, such as that of `/metrics`; raise as `fetch` does."""
    _, answer = _exchange("GET", path, None, url)
    return answer.decode(errors="replace")


def send(method: str, path: str, value: object = None, url: str | None = None) -> Any:
    """Send a change to the agent; return its answer's JSON.

    Args:
        method: POST or DELETE.
        path: percent-encoded.
        value: the body, sent as JSON; None for no body.
        url: the agent's address; see `stats`.

    Raises:
        AgentUnreachable: no agent answers there.
        AgentRefused: the agent answered with an error.
        QueryError: the answer is not the agent's.
    """
    body = None if value is None else json.dumps(value).encode()
    return _request(method, path, body, url)


def refusal(status: int, body: bytes) -> AgentRefused | None:
    """Return the exception for an error answer; None if it is not an agent's."""
    try:
        error = json.loads(body)["error"]
        fields = [str(error.get(key, "")) for key in ("code", "message", "hint")]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return AgentRefused(status, *fields)


def unreachable(base: str, error: Exception) -> AgentUnreachable:
    """Return the exception for an agent that does not answer."""
    if getattr(error, "reason", "") == "WRONG_VERSION_NUMBER":
        plain = base.replace("https://", "http://", 1)
        return AgentUnreachable(
            f"the server at {base} uses plain HTTP, without TLS; use {plain}"
        )
    return AgentUnreachable(
        f"no agent answers at {base} ({error});"
        " start one with `kaywatch serve`, or set KAYWATCH_URL to its address"
    )


def connect(
    base: str, timeout: float = TIMEOUT
) -> tuple[http.client.HTTPConnection, str]:
    """Return a connection to an agent, not open yet, and the prefix of its paths.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError as error:  # a bracket or a port that is not one
        raise _invalid_url(base, f"{error}; ") from None
    if not base.isprintable() or " " in base:
        raise _invalid_url(base)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return _UnixConnection(parts.path, timeout), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _invalid_url(base)
    kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
    if parts.scheme == "https":
        kind = http.client.HTTPSConnection
    return kind(parts.hostname, port, timeout=timeout), parts.path.rstrip("/")


def headers() -> dict[str, str]:
    """Return the headers of each request: the token, if there is one.

    It is in `KAYWATCH_TOKEN`, or the first line of the file that `KAYWATCH_TOKEN_FILE`
    names, which keeps it out of the environment that every child inherits.

    Raises:
        ConfigurationError: the file cannot be read, or the token is invalid.
    """
    token = os.environ.get("KAYWATCH_TOKEN", "").strip()
    path = os.environ.get("KAYWATCH_TOKEN_FILE", "")
    if path and not token:
        try:
            with open(path, encoding="ascii") as file:
                lines = (line.strip() for line in file)
                token = next(line for line in lines if line and line[0] != "#")
        except (OSError, UnicodeDecodeError, StopIteration) as error:
            reason = getattr(error, "strerror", None) or "it contains no token"
            raise ConfigurationError(f"KAYWATCH_TOKEN_FILE={path}: {reason}") from None
    # A line break in it could add another header.
    if not token.isascii() or not token.isprintable():
        raise ConfigurationError(
            "KAYWATCH_TOKEN: a token has only letters, digits and -_.~+/="
        )
    return {"Authorization": f"Bearer {token}"} if token else {}


def _invalid_url(base: str, reason: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"url {base!r}: {reason}expected something like {DEFAULT_URL}, or"
        " unix:/run/kaywatch/http.sock (KAYWATCH_URL)"
    )


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self.timeout)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        self.sock = connection


def _request(method: str, target: str, body: bytes | None, url: str | None) -> Any:
    status, answer = _exchange(method, target, body, url)
    try:
        return json.loads(answer)
    except ValueError:
        base, path = _base(url), target.partition("?")[0]
        raise QueryError(f"{base}{path}: expected JSON (HTTP {status})") from None


def _base(url: str | None) -> str:
    return url or os.environ.get("KAYWATCH_URL") or DEFAULT_URL


def _exchange(
    method: str, target: str, body: bytes | None, url: str | None
) -> tuple[int, bytes]:
    """Send a request; return the status and the body of its answer."""
    base = _base(url)
    connection, prefix = connect(base)
    fields = headers()
    if method != "GET":
        fields["Content-Type"] = "application/json"
    try:
        connection.request(method, prefix + target, body, fields)
        response = connection.getresponse()
        status, answer = response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(base, error) from None
    finally:
        connection.close()
    if status >= 400 and (refused := refusal(status, answer)) is not None:
        raise refused
    return status, answer
