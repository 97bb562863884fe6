"""Whether a server can be reached: connected to, greeted by TLS, and hung up on."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

from kaywatch_agent.cli.doctor import tls
from kaywatch_agent.cli.doctor.finding import Findings, ok, problem

__all__ = ["CONNECT_SECONDS", "reach", "words"]

CONNECT_SECONDS: Final = 5.0


def reach(
    where: str,
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None,
    allow: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Connect, shake hands, and send nothing.

    Args:
        where: what it is called in findings.
        host: its name or address.
        port: where it listens.
        context: whom to trust; None where it doesn't speak TLS.
        allow: raises OSError for an address that must not be connected to.
    """
    try:
        link = _connection(host, port, allow)
    except socket.gaierror:
        yield problem(
            f"{where}: the host's name is not known",
            "correct its URL, or see to the name server (/etc/resolv.conf)",
        )
        return
    except (OSError, ValueError) as error:
        yield problem(
            f"{where}: no connection: {words(error)}",
            "is it running, and does a firewall let the agent out?",
        )
        return
    if context is not None:
        yield from _handshake(where, host, port, link, context)
    else:
        link.close()
        yield ok(f"{where}: can be connected to; nothing was sent")


def words(error: Exception) -> str:
    """Return what went wrong, without an address: a URL may be a secret."""
    if isinstance(error, TimeoutError):
        return f"nothing within {CONNECT_SECONDS:g} s"
    return (getattr(error, "strerror", None) or type(error).__name__).lower()


def _connection(host: str, port: int, allow: Callable[[str], None]) -> socket.socket:
    """Connect to the first address that is allowed, and answers."""
    refused: Exception = OSError("no address")
    for family, kind, proto, _, where in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        link = socket.socket(family, kind, proto)
        link.settimeout(CONNECT_SECONDS)
        try:
            allow(str(where[0]))
            link.connect(where)
        except OSError as error:
            link.close()
            refused = error
        else:
            return link
    raise refused


def _handshake(
    where: str, host: str, port: int, link: socket.socket, context: ssl.SSLContext
) -> Findings:
    try:
        found = tls.look(host, port, link, context)
    except (OSError, ssl.SSLError) as error:
        yield problem(
            f"{where}: TLS failed: {words(error)}", "does it speak TLS there?"
        )
        return
    if not found.distrust:
        yield ok(f"{where}: can be reached; nothing was sent")
    yield from tls.judged(f"{where}: its certificate", found, time.time())
