"""Sends requests to receivers, and to nobody else.

Where a connection goes is checked when it is made, not by name, so that neither DNS nor
a redirect leads it elsewhere. Errors never hold a URL: often it is a secret itself.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp

from kaywatch._version import __version__

__all__ = ["Answer", "Http", "NoAnswer", "redacted"]

CONNECT_SECONDS: Final = 5.0
TOTAL_SECONDS: Final = 15.0
MAX_BODY: Final = 64 * 1024  # of an answer; the rest is not read
MIN_SECRET: Final = 6  # characters; what is shorter stands in any text

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Where clouds hand out credentials, and what is on this link only. Never a receiver.
NEVER: Final[tuple[_Network, ...]] = (
    ipaddress.ip_network("169.254.0.0/16"),
    ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_network("fd00:ec2::254/128"),
    ipaddress.ip_network("100.100.100.200/32"),
)

# IPv4 addresses within IPv6 ones, RFC 6052.
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Answer(NamedTuple):
    """What a receiver answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body, whatever its bytes are."""
        return self.body.decode("utf-8", "replace").strip()


class NoAnswer(Exception):
    """There was none, or it came too late.

    Attributes:
        undelivered: whether the request surely did not arrive.
    """

    def __init__(self, text: str, *, undelivered: bool = False) -> None:
        super().__init__(text)
        self.undelivered = undelivered


class Http:
    """One session for all receivers."""

    def __init__(
        self, *, private: bool = True, total_seconds: float = TOTAL_SECONDS
    ) -> None:
        """Open nothing yet.

        Args:
            private: whether loopback and private networks may be reached: those that
                the configuration file names are the operator's own.
            total_seconds: how long a request may take in all.
        """
        self._private = private
        self._total = total_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        secrets: tuple[str, ...] = (),
    ) -> Answer:
        """Send a request and return its answer, whatever its status.

        Args:
            url: http or https.
            body: what is sent, exactly.
            headers: beside the user agent's.
            secrets: what must not stand in the answer's text: it may echo them.

        Raises:
            NoAnswer: nothing came back in time, or the address is not allowed.
        """
        check_url(url)
        # Nothing packed: what is read is bounded, and so is what it becomes.
        common = {
            "User-Agent": f"kaywatch/{__version__}",
            "Accept-Encoding": "identity",
        }
        sent = {**common, **headers}
        try:
            async with self._open.post(
                url, data=body, headers=sent, allow_redirects=False
            ) as response:
                found = await _read(response.content)
                return Answer(
                    response.status,
                    dict(response.headers),
                    _without(found, (url, urlsplit(url).path.lstrip("/"), *secrets)),
                )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _translated(error) from None

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                socket_factory=self._socket, limit=20, use_dns_cache=False
            )
            timeout = aiohttp.ClientTimeout(
                total=self._total, sock_connect=CONNECT_SECONDS
            )
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, trust_env=False
            )
        return self._session

    def _socket(self, address: Any) -> socket.socket:
        """Return a socket for an address, once it was looked up, if it is allowed."""
        family, kind, proto, _, where = address
        check_address(str(where[0]), private=self._private)
        made = socket.socket(family, kind, proto)
        made.setblocking(False)
        return made


def check_url(url: str) -> None:
    """Refuse what is no URL of the web.

    Raises:
        NoAnswer: it is not http or https, or has no host.
    """
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        sound = False
    if not sound or url != url.strip():
        raise NoAnswer("no http or https URL", undelivered=True)


def check_address(host: str, *, private: bool) -> None:
    """Refuse an address that no receiver may have.

    Raises:
        OSError: it is the link's, a cloud's, or private where that isn't allowed.
    """
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    if any(address in network for network in NEVER):
        raise OSError(errno.EACCES, "link-local and metadata addresses are not allowed")
    if not private and not address.is_global:
        raise OSError(errno.EACCES, "private addresses are not allowed")


def redacted(url: str) -> str:
    """Return a URL without what is secret in it: `https://hooks.slack.com/…`."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "…"
    if not parts.scheme or not host:
        return "…"
    return f"{parts.scheme}://{host}{port}/…"


# -- inside --------------------------------------------------------------------------


def _translated(error: Exception) -> NoAnswer:
    """Say what went wrong, without the URL that most of these errors name."""
    undelivered = isinstance(error, aiohttp.ClientConnectorError)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return NoAnswer("the host's name is not known", undelivered=True)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return NoAnswer("TLS: the certificate is not trusted", undelivered=True)
    if isinstance(error, (ssl.SSLError, aiohttp.ClientSSLError)):
        return NoAnswer("TLS failed", undelivered=undelivered)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return NoAnswer(f"no connection in {CONNECT_SECONDS:.0f} s", undelivered=True)
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return NoAnswer("no answer in time")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return NoAnswer("the connection was closed without an answer")
    if isinstance(error, aiohttp.InvalidURL):
        return NoAnswer("no http or https URL", undelivered=True)
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        # Ours, see `check_address`: it names no address.
        return NoAnswer("the address is not allowed for receivers", undelivered=True)
    if isinstance(error, OSError) and error.errno:
        return NoAnswer(os.strerror(error.errno).lower(), undelivered=undelivered)
    return NoAnswer(f"no answer ({type(error).__name__})", undelivered=undelivered)


async def _read(content: aiohttp.StreamReader) -> bytes:
    """Return a body, or as much of it as we care for."""
    found = b""
    while len(found) < MAX_BODY:
        chunk = await content.read(MAX_BODY - len(found))
        if not chunk:
            break
        found += chunk
    return found


def _without(body: bytes, secrets: tuple[str, ...]) -> bytes:
    for secret in secrets:
        if len(secret) >= MIN_SECRET:
            body = body.replace(secret.encode(), "…".encode())
    return body
