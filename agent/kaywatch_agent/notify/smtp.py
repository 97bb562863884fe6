"""Sends one email through an SMTP server.

As for HTTP, the address is checked when the connection is made. Each message has a
connection of its own: alerts are rare, and servers close idle connections.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from kaywatch_agent.notify.http import (
    CONNECT_SECONDS,
    NoResponse,
    check_address,
    tls_context,
)

if TYPE_CHECKING:
    import aiosmtplib

__all__ = ["MailServer", "MailReply", "MailRejected", "deliver"]

MAX_REPLY: Final = 300  # characters of a server's reply that are kept
QUIT_SECONDS: Final = 2.0


class MailReply(NamedTuple):
    """A server's reply: its code, such as 250, and its text."""

    code: int
    text: str

    def __str__(self) -> str:
        text = " ".join(self.text.split())
        return f"{self.code} {text}"[:MAX_REPLY]


class MailRejected(Exception):
    """The server rejected the login, the sender, all recipients or the content.

    Attributes:
        reply: the server's reply.
        refused: the replies for each recipient, if recipients were rejected.
    """

    def __init__(
        self,
        what: str,
        reply: MailReply,
        refused: Mapping[str, MailReply] | None = None,
    ) -> None:
        super().__init__(f"{what}: {reply}")
        self.reply = reply
        self.refused = dict(refused or {})


@dataclass(frozen=True)
class MailServer:
    """A server, and how to connect to it.

    Attributes:
        host: its name.
        port: its port.
        tls: `tls`, `starttls` or `none`.
        username: the name to log in with; empty for no login.
        ca: a file of trusted CA certificates; empty for those of the system.
        seconds: how long the delivery of a message may take.
    """

    host: str
    port: int
    tls: str
    username: str
    ca: str
    seconds: float


async def deliver(
    server: MailServer,
    password: str,
    sender: str,
    recipients: Sequence[str],
    message: bytes,
) -> dict[str, MailReply]:
    """Send a message, and return the recipients that the server rejected.

    Raises:
        NoResponse: the server did not accept the message in time.
        MailRejected: the server accepted it for no recipient.
    """
    attempt = _Attempt(server)
    try:
        async with asyncio.timeout(server.seconds):
            client = await attempt.connect(password)
            return await attempt.send(client, sender, recipients, message)
    except TimeoutError:
        raise NoResponse(
            f"no response of the mail server within {server.seconds:g} s",
            undelivered=not attempt.is_sending,
        ) from None
    finally:
        await attempt.close()


class _Attempt:
    """One connection to a server.

    Attributes:
        is_sending: whether the server may have accepted the message.
    """

    def __init__(self, server: MailServer) -> None:
        self.is_sending = False
        self._server = server
        self._client: aiosmtplib.SMTP | None = None

    async def connect(self, password: str) -> aiosmtplib.SMTP:
        """Connect, encrypt and log in.

        Raises:
            NoResponse: there is no connection, or no encrypted one.
            MailRejected: the server rejected the connection or the login.
        """
        import aiosmtplib

        server = self._server
        # Before the connection: the file may be missing.
        context = tls_context(server.ca)
        connection = await _connect(server.host, server.port)
        client = self._client = aiosmtplib.SMTP(
            hostname=server.host,
            sock=connection,
            use_tls=server.tls == "tls",
            # Never opportunistic: whoever removes the offer would read the password.
            start_tls=server.tls == "starttls",
            tls_context=context,
            local_hostname=_own_name(),
            timeout=None,  # of one command; `deliver` limits all of them
        )
        try:
            await client.connect()
            if server.username:
                await client.login(server.username, password)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise _translate(error, undelivered=True) from None
        return client

    async def send(
        self,
        client: aiosmtplib.SMTP,
        sender: str,
        recipients: Sequence[str],
        message: bytes,
    ) -> dict[str, MailReply]:
        """Send a message; see `deliver`."""
        import aiosmtplib

        self.is_sending = True
        try:
            refused, _ = await client.sendmail(sender, recipients, message)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise _translate(error, undelivered=False) from None
        return {
            recipient: MailReply(reply.code, reply.message)
            for recipient, reply in refused.items()
        }

    async def close(self) -> None:
        """End the session if the server still responds, and close the connection."""
        import aiosmtplib

        if self._client is None:
            return
        try:
            if self._client.is_connected:
                await self._client.quit(timeout=QUIT_SECONDS)
        except (aiosmtplib.SMTPException, OSError):
            pass  # the message's result does not depend on it
        finally:
            self._client.close()


# -- inside --------------------------------------------------------------------------


async def _connect(host: str, port: int) -> socket.socket:
    """Return a connection to the first address that is allowed and answers."""
    loop = asyncio.get_running_loop()
    try:
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        text = "the host name cannot be resolved"
        raise NoResponse(text, undelivered=True) from None
    failure = NoResponse("the host has no address", undelivered=True)
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        connection.setblocking(False)
        try:
            check_address(str(address[0]))
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.sock_connect(connection, address)
        except TimeoutError:
            connection.close()
            text = f"no connection in {CONNECT_SECONDS:.0f} s"
            failure = NoResponse(text, undelivered=True)
        except OSError as error:
            connection.close()
            failure = NoResponse(_describe(error), undelivered=True)
        except BaseException:  # cancelled, or the whole delivery takes too long
            connection.close()
            raise
        else:
            return connection
    raise failure


def _translate(error: Exception, *, undelivered: bool) -> NoResponse | MailRejected:
    """Return an exception of this module for one of the library or the connection."""
    import aiosmtplib

    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        refused = {
            one.recipient: MailReply(one.code, one.message) for one in error.recipients
        }
        # One that may be accepted later decides.
        reply = min(refused.values())
        return MailRejected("the mail server rejected all recipients", reply, refused)
    for kind, what in (
        (aiosmtplib.SMTPAuthenticationError, "the mail server rejected the login"),
        (aiosmtplib.SMTPSenderRefused, "the mail server rejected the sender"),
        (aiosmtplib.SMTPDataError, "the mail server rejected the message"),
        (aiosmtplib.SMTPResponseException, "the mail server rejected the connection"),
    ):
        if isinstance(error, kind):
            return MailRejected(what, MailReply(error.code, error.message))
    return NoResponse(_describe(error), undelivered=undelivered)


def _describe(error: Exception) -> str:
    """Return what happened to a connection, without the host's name."""
    import aiosmtplib

    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "TLS: the certificate is not trusted"
    if isinstance(cause, ssl.SSLError):
        return "TLS failed; check the port, and the key tls"
    if isinstance(error, aiosmtplib.SMTPServerDisconnected):
        return "the mail server closed the connection"
    if isinstance(error, TimeoutError):
        return "no response of the mail server in time"
    if isinstance(cause, OSError) and cause.errno == errno.EACCES:
        return "the address is not allowed for receivers"  # by `check_address`
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno).lower()
    if isinstance(error, aiosmtplib.SMTPException):
        return str(error.message)[:MAX_REPLY]
    return f"no response ({type(error).__name__})"


def _own_name() -> str:
    """Return the name that the agent's host introduces itself with."""
    name = socket.gethostname()
    valid = name.isascii() and name.isprintable() and " " not in name
    return name if name and valid else "localhost"
