"""HTTP requests to receivers.

The address is checked when the connection is made, not by name, so that neither DNS nor
a redirect leads elsewhere. Errors never contain a URL: it is often a secret itself.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from kaywatch._version import __version__
from kaywatch_agent.notify.request_options import RequestOptions

__all__ = [
    "HttpClient",
    "NoResponse",
    "Response",
    "check_address",
    "redact_url",
    "tls_context",
]

CONNECT_SECONDS: Final = 5.0
TOTAL_SECONDS: Final = 15.0
MAX_BODY: Final = 64 * 1024  # bytes of a response; the rest is not read
BODY_SECONDS: Final = 2.0  # how long a body is read: the status decides, not the body
MIN_SECRET: Final = 6  # characters; anything shorter occurs in ordinary text
NO_URL: Final = "not an http or https URL"

# A compressed response could grow beyond MAX_BODY, so none is accepted.
_HEADERS: Final = {
    "User-Agent": f"kaywatch/{__version__}",
    "Accept-Encoding": "identity",
}
_JSON_HEADERS: Final = {**_HEADERS, "Content-Type": "application/json"}

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Link-local addresses, and where clouds serve credentials. Never a receiver.
FORBIDDEN: Final[tuple[_Network, ...]] = (
    ipaddress.ip_network("169.254.0.0/16"),
    ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_network("fd00:ec2::254/128"),
    ipaddress.ip_network("100.100.100.200/32"),
)

# IPv4 addresses embedded in IPv6 addresses, RFC 6052.
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Response(NamedTuple):
    """A receiver's response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text; invalid UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace").strip()

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is not one."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except (msgspec.DecodeError, ValueError):
            return {}


DEFAULT_OPTIONS: Final = RequestOptions()


class NoResponse(Exception):
    """There was no response in time.

    Attributes:
        undelivered: whether the request certainly did not arrive.
    """

    def __init__(self, text: str, *, undelivered: bool = False) -> None:
        super().__init__(text)
        self.undelivered = undelivered


class HttpClient:
    """One HTTP session for all receivers."""

    def __init__(self, *, total_seconds: float = TOTAL_SECONDS) -> None:
        """Open no connection yet; a request may take `total_seconds`."""
        self._total = total_seconds
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close all connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        secrets: tuple[str, ...] = (),
        options: RequestOptions = DEFAULT_OPTIONS,
        method: str = "POST",
    ) -> Response:
        """Send a request, and return the response with any status.

        The body is read as far as it arrives soon: a response whose body is cut,
        mislabelled or endless is a response with its status.

        Args:
            url: http or https.
            body: the exact bytes to send; JSON, or nothing.
            headers: in addition to the content type and the user agent.
            secrets: texts to remove from the response, which may echo them.
            options: how to send it.
            method: of the request.

        Raises:
            NoResponse: none came in time, or the address is not allowed.
        """
        check_url(url)
        common = _JSON_HEADERS if body else _HEADERS
        seconds = self._total if options.timeout is None else options.timeout
        try:
            async with self._open.request(
                method,
                url,
                data=body or None,
                headers={**common, **(headers or {}), **options.headers},
                allow_redirects=False,
                proxy=_proxy_for(options, url),
                ssl=_tls(options),
                timeout=aiohttp.ClientTimeout(
                    total=seconds, sock_connect=min(CONNECT_SECONDS, seconds)
                ),
            ) as response:
                content = await _read(response)
                values = options.headers.values()
                hidden = (url, urlsplit(url).path.lstrip("/"), *secrets, *values)
                return Response(
                    response.status, dict(response.headers), _without(content, hidden)
                )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _translate_error(error) from None

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                socket_factory=self._socket, limit=20, use_dns_cache=False
            )
            # Bodies are not decompressed: a wrong Content-Encoding is no failure.
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=False, auto_decompress=False
            )
        return self._session

    def _socket(self, address: Any) -> socket.socket:
        """Return a socket for a resolved address, if the address is allowed."""
        family, kind, proto, _, where = address
        check_address(str(where[0]))
        connection = socket.socket(family, kind, proto)
        connection.setblocking(False)
        return connection


def check_url(url: str) -> None:
    """Reject anything but an http or https URL with a host.

    Raises:
        NoResponse: the URL is not valid.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid or url != url.strip():
        raise NoResponse(NO_URL, undelivered=True)


def check_address(host: str) -> None:
    """Reject an address that no receiver may have.

    Private addresses are allowed: only the configuration file sets receivers' URLs.

    Raises:
        OSError: the address is link-local, or that of a metadata service.
    """
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    if any(address in network for network in FORBIDDEN):
        raise OSError(errno.EACCES, "link-local and metadata addresses are not allowed")


def redact_url(url: str) -> str:
    """Return a URL without its secret parts: `https://hooks.slack.com/…`."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "…"
    if not parts.scheme or not host:
        return "…"
    return f"{parts.scheme}://{host}{port}/…"


def tls_context(ca: str) -> ssl.SSLContext:
    """Return how certificates are verified.

    Args:
        ca: a file of trusted CA certificates; empty for those of the system.

    Raises:
        NoResponse: the file cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as error:  # a subclass for invalid certificates
        reason = (error.strerror or "unreadable").lower()
        if isinstance(error, ssl.SSLError):
            reason = "no valid certificate"
        text = f"cannot read the CA certificates in {ca}: {reason}"
        raise NoResponse(text, undelivered=True) from None


# -- inside --------------------------------------------------------------------------

# Texts for exceptions, most specific first, and whether the request certainly did not
# arrive. Their own texts name the URL.
_ERRORS: Final[tuple[tuple[type[Exception], str, bool], ...]] = (
    (aiohttp.ClientConnectorDNSError, "the host name cannot be resolved", True),
    (
        aiohttp.ClientConnectorCertificateError,
        "TLS: the certificate is not trusted",
        True,
    ),
    (aiohttp.ClientSSLError, "TLS failed", True),
    (ssl.SSLError, "TLS failed", False),
    (aiohttp.ConnectionTimeoutError, f"no connection in {CONNECT_SECONDS:.0f} s", True),
    (TimeoutError, "no response in time", False),
    (
        aiohttp.ServerDisconnectedError,
        "the connection was closed without a response",
        False,
    ),
    (aiohttp.InvalidURL, NO_URL, True),
)


def _translate_error(error: Exception) -> NoResponse:
    """Return an exception whose text does not contain the URL."""
    for kind, text, undelivered in _ERRORS:
        if isinstance(error, kind):
            return NoResponse(text, undelivered=undelivered)
    undelivered = isinstance(error, aiohttp.ClientConnectorError)
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        # Raised by `check_address`.
        return NoResponse("the address is not allowed for receivers", undelivered=True)
    if isinstance(error, OSError) and error.errno:
        return NoResponse(os.strerror(error.errno).lower(), undelivered=undelivered)
    return NoResponse(f"no response ({type(error).__name__})", undelivered=undelivered)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return a body, as far as it arrives; at most MAX_BODY bytes."""
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while len(body) < MAX_BODY:
                chunk = await response.content.read(MAX_BODY - len(body))
                if not chunk:
                    return body
                body += chunk
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        pass
    # The rest of the body would be read as the next response of this connection.
    response.close()
    return body


def _without(body: bytes, secrets: tuple[str, ...]) -> bytes:
    for secret in secrets:
        if len(secret) >= MIN_SECRET:
            body = body.replace(secret.encode(), "…".encode())
    return body


def _proxy_for(options: RequestOptions, url: str) -> str | None:
    """Return the URL of the proxy for a URL; None for a direct connection."""
    if options.proxy != "environment":
        return options.proxy or None
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies_environment()
    return proxies.get(parts.scheme) or proxies.get("all")


def _tls(options: RequestOptions) -> ssl.SSLContext | bool:
    return tls_context(options.ca) if options.ca else True
