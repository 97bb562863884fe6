"""Requests to one server: remote write, and queries of what it stored."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

import cramjam

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.export.config import RemoteWriteConfig, TargetConfig
from kaywatch_agent.notify.http import HttpClient, NoResponse, Response, redact_url
from kaywatch_agent.notify.request_options import RequestOptions

__all__ = [
    "QueryFailed",
    "RemoteWriteClient",
    "Unavailable",
    "request_options",
    "retry_after",
]

_HEADERS: Final = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
MAX_RETRY_AFTER: Final = 300.0  # seconds
_TEMPORARY: Final = frozenset({429, 500, 502, 503, 504})


class Unavailable(Exception):
    """The server may have stored nothing; the same request has to be sent again."""


class QueryFailed(Exception):
    """The server has no query API, or does not allow us to use it."""


class RemoteWriteClient:
    """Sends single requests to one server."""

    def __init__(self, config: RemoteWriteConfig, http: HttpClient) -> None:
        self._config = config
        self._http = http

    async def post(self, request: bytes) -> Response:
        """Send an encoded request; return the response, whatever its status.

        Raises:
            Unavailable: there was no response, or the credentials cannot be read.
        """
        body = bytes(cramjam.snappy.compress_raw(request))
        try:
            return await self._http.post(
                self._config.url, body, _HEADERS, options=request_options(self._config)
            )
        except (NoResponse, ConfigError) as error:
            raise Unavailable(str(error)) from None

    async def query(self, expression: str) -> dict[str, float]:
        """Return the values of a query by the name of the metric.

        Raises:
            QueryFailed: the server does not answer it.
            Unavailable: there was no response, or the server cannot answer now.
        """
        # VictoriaMetrics hides samples of the last 30 seconds, unless asked not to use
        # its cache.
        url = f"{self._config.query_address}?" + urlencode(
            {"query": expression, "nocache": "1"}
        )
        try:
            response = await self._http.post(
                url, b"", options=request_options(self._config), method="GET"
            )
        except (NoResponse, ConfigError) as error:
            raise Unavailable(str(error)) from None
        if response.status in _TEMPORARY:
            raise Unavailable(f"HTTP {response.status}")
        try:
            samples = response.json["data"]["result"]
            return {
                sample["metric"].get("__name__", ""): float(sample["value"][1])
                for sample in samples
            }
        except (LookupError, TypeError, ValueError):
            text = f"HTTP {response.status} from {redact_url(url)}"
            raise QueryFailed(text) from None


def request_options(config: TargetConfig) -> RequestOptions:
    """Return how to send a request; secrets are read again each time.

    Raises:
        ConfigError: they cannot be read.
    """
    options = config.request_options()
    if config.bearer_token is not None:
        value = f"Bearer {config.bearer_token.read()}"
    elif config.password is not None:
        value = _basic(config.username, config.password.read())
    else:
        return options
    return RequestOptions(
        options.timeout,
        {**options.headers, "Authorization": value},
        options.proxy,
        options.ca,
    )


def retry_after(headers: Mapping[str, str]) -> float:
    """Return how long a server asks to wait, in seconds; 0 if it does not."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
