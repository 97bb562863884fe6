"""Read back over HTTP what the agent aggregated: standard library only."""

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
    """Return the agent's figures of a node, of a graph, or of everything.

    What this process recorded is flushed first, so it is in them.

    Args:
        node: a node's name: the keys of KayGraph's `get_stats` and more.
        graph: a graph's name: with `node` the node within that graph, without it
            the keys of `get_graph_stats` and more.
        window: how far back, such as `5m`; since first seen by default.
        url: the agent's address; `KAYWATCH_URL` by default, else
            `http://127.0.0.1:9477`.

    Returns:
        The answer's JSON. Without node and graph, `{"timestamp", "nodes", "graphs"}`.

    Raises:
        AgentUnreachable: nobody answers there.
        AgentRefused: the agent doesn't know the node, or a parameter is wrong.
    """
    flush(1.0)
    parameters = {"window": window}
    if node is not None:
        path = f"/api/v1/nodes/{quote(node, safe='')}/stats"
        parameters["graph"] = graph
    elif graph is not None:
        path = f"/api/v1/graphs/{quote(graph, safe='')}/stats"
    else:
        path = "/api/v1/export"
    found: dict[str, Any] = fetch(path, parameters, url)
    return found


def fetch(
    path: str, parameters: Mapping[str, object] | None = None, url: str | None = None
) -> Any:
    """Return the JSON at a path of the agent's HTTP interface.

    Raises:
        AgentUnreachable: nobody answers there.
        AgentRefused: the agent answered with an error.
        QueryError: what came back is not the agent's.
    """
    base = url or os.environ.get("KAYWATCH_URL") or DEFAULT_URL
    given = {k: str(v) for k, v in (parameters or {}).items() if v is not None}
    target = f"{path}?{urlencode(given)}" if given else path
    return _answer(base, path, *_ask(base, "GET", target))


def send(method: str, path: str, value: object = None, url: str | None = None) -> Any:
    """Have the agent change something; return its answer's JSON.

    Args:
        method: POST or DELETE.
        path: percent-encoded.
        value: what is sent as JSON; None for nothing.
        url: the agent's address; see `stats`.

    Raises:
        AgentUnreachable: nobody answers there.
        AgentRefused: the agent answered with an error.
        QueryError: what came back is not the agent's.
    """
    base = url or os.environ.get("KAYWATCH_URL") or DEFAULT_URL
    body = None if value is None else json.dumps(value).encode()
    return _answer(base, path, *_ask(base, method, path, body))


def _answer(base: str, path: str, status: int, body: bytes) -> Any:
    if status >= 400 and (refused := refusal(status, body)) is not None:
        raise refused
    try:
        return json.loads(body)
    except ValueError:
        raise QueryError(f"{base}{path}: expected JSON (HTTP {status})") from None


def refusal(status: int, body: bytes) -> AgentRefused | None:
    """Return what the agent says in an error answer, if it is the agent's."""
    try:
        error = json.loads(body)["error"]
        words = [str(error.get(key, "")) for key in ("code", "message", "hint")]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return AgentRefused(status, *words)


def unreachable(base: str, error: Exception) -> AgentUnreachable:
    """Return what to raise when nobody answers."""
    return AgentUnreachable(
        f"no agent answers at {base} ({error});"
        " start one with `kaywatch serve`, or say where it is with KAYWATCH_URL"
    )


def connect(
    base: str, timeout: float = TIMEOUT
) -> tuple[http.client.HTTPConnection, str]:
    """Return a connection to an agent, not open yet, and what its paths begin with.

    Raises:
        ConfigurationError: that is no URL.
    """
    parts = urlsplit(base)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return _UnixConnection(parts.path, timeout), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"url {base!r}: expected something like {DEFAULT_URL}, or"
            " unix:/run/kaywatch/http.sock (KAYWATCH_URL)"
        )
    kind = (
        http.client.HTTPSConnection
        if parts.scheme == "https"
        else http.client.HTTPConnection
    )
    connection = kind(parts.hostname, parts.port, timeout=timeout)
    return connection, parts.path.rstrip("/")


def headers() -> dict[str, str]:
    """Return what goes with each request: the token, where one is given.

    It is in `KAYWATCH_TOKEN`, or the first line of the file that `KAYWATCH_TOKEN_FILE`
    names, which keeps it out of the environment that every child inherits.

    Raises:
        ConfigurationError: there is no such file, or no token in it.
    """
    token = os.environ.get("KAYWATCH_TOKEN", "").strip()
    path = os.environ.get("KAYWATCH_TOKEN_FILE", "")
    if path and not token:
        try:
            with open(path, encoding="ascii") as file:
                lines = (line.strip() for line in file)
                token = next(line for line in lines if line and line[0] != "#")
        except (OSError, UnicodeDecodeError, StopIteration) as error:
            why = getattr(error, "strerror", None) or "it has no token"
            raise ConfigurationError(f"KAYWATCH_TOKEN_FILE={path}: {why}") from None
    # What is no token must not become another header.
    if not token.isascii() or not token.isprintable():
        raise ConfigurationError(
            "KAYWATCH_TOKEN: a token is of letters, digits, -_.~+/="
        )
    return {"Authorization": f"Bearer {token}"} if token else {}


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(self.timeout)
        try:
            made.connect(self._path)
        except OSError:
            made.close()
            raise
        self.sock = made


def _ask(
    base: str, method: str, target: str, body: bytes | None = None
) -> tuple[int, bytes]:
    connection, prefix = connect(base)
    sent = headers()
    if method != "GET":
        sent["Content-Type"] = "application/json"
    try:
        connection.request(method, prefix + target, body, sent)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(base, error) from None
    finally:
        connection.close()
