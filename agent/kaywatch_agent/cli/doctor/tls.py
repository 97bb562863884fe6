"""What certificate a server has, and how long it is good; nothing is asked of it."""

from __future__ import annotations

import socket
import ssl
from typing import Final, NamedTuple

from kaywatch_agent import units as quantities
from kaywatch_agent.cli.doctor.finding import Findings, ok, problem, warning

__all__ = ["Certificate", "judged", "look"]

CONNECT_SECONDS: Final = 5.0

# Renewed by then, where somebody renews it: Let's Encrypt's clients do 30 days before.
SOON_DAYS: Final = 14


class Certificate(NamedTuple):
    """A server's certificate.

    Attributes:
        expires: Unix seconds; 0 if that is not known.
        distrust: why it isn't trusted; empty if it is.
    """

    expires: float
    distrust: str = ""


def look(
    host: str,
    port: int,
    connection: socket.socket | None = None,
    context: ssl.SSLContext | None = None,
) -> Certificate:
    """Shake hands, and hang up.

    Args:
        host: the name that the certificate has to be for.
        port: where.
        connection: one that is open already; closed in any case.
        context: whom to trust; the system's authorities by default.

    Raises:
        OSError: there is no connection, or no TLS on it.
    """
    link = connection or socket.create_connection((host, port), CONNECT_SECONDS)
    with link:
        link.settimeout(CONNECT_SECONDS)
        context = context or ssl.create_default_context()
        try:
            with context.wrap_socket(link, server_hostname=host) as secure:
                found = secure.getpeercert() or {}
        except ssl.SSLCertVerificationError as error:
            return Certificate(0.0, error.verify_message or str(error.reason))
        return Certificate(ssl.cert_time_to_seconds(str(found["notAfter"])))


def judged(what: str, found: Certificate, now: float) -> Findings:
    """Yield what there is to say of a certificate."""
    if found.distrust:
        yield problem(
            f"{what} is not trusted: {found.distrust}",
            "renew it, or, if an authority of your own signed it, name that one's"
            " certificate in SSL_CERT_FILE",
        )
        return
    left = found.expires - now
    if left < SOON_DAYS * 86_400:
        yield warning(
            f"{what} expires in {quantities.span(left)}", "renew it before that"
        )
    else:
        yield ok(f"{what} is good for {quantities.span(left)}")
