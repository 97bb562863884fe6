"""A real SMTP server, aiosmtpd, that answers as servers do on good and bad days."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from tests.agents import DEADLINE


@dataclass(frozen=True)
class Mail:
    """A message that the server was sent, and how."""

    sender: str
    recipients: list[str]
    content: bytes
    login: str
    encrypted: bool

    @property
    def message(self) -> EmailMessage:
        parsed = email.message_from_bytes(self.content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    def body(self, kind: str) -> str:
        """Return the plain or HTML body."""
        part = self.message.get_body((kind,))
        assert part is not None
        return str(part.get_content()).replace("\r\n", "\n")


class MailServer:
    """Records what it accepts, and replies as configured.

    Attributes:
        port: a free port of 127.0.0.1.
        mails: the accepted messages.
        replies: the next replies by command (`RCPT address`, `MAIL`, `DATA`); the
            messages are accepted once there are no more.
        hangs: whether it never replies to DATA.
        hangs_up: whether it closes the connection instead of replying to DATA.
    """

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[Mail] = []
        self.replies: dict[str, deque[str]] = defaultdict(deque)
        self.hangs = False
        self.hangs_up = False
        self.password = ""

    def answer(self, command: str, *replies: str) -> None:
        self.replies[command].extend(replies)

    def authenticate(
        self, server: Any, session: Session, envelope: Envelope, method: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        name, password = data.login.decode(), data.password.decode()
        valid = password == self.password
        # The reply of a careless server.
        text = None if valid else f"535 5.7.8 {name} has not the password {password}"
        return AuthResult(success=valid, handled=valid, message=text, auth_data=name)

    # -- called by aiosmtpd --------------------------------------------------------

    async def handle_MAIL(
        self, server: Any, session: Session, envelope: Envelope, address: str, _: Any
    ) -> str:
        if self.replies["MAIL"]:
            return self.replies["MAIL"].popleft()
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: Any, session: Session, envelope: Envelope, address: str, _: Any
    ) -> str:
        if self.replies[f"RCPT {address}"]:
            return self.replies[f"RCPT {address}"].popleft()
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(
        self, server: Any, session: Session, envelope: Envelope
    ) -> str:
        if self.hangs:
            await asyncio.sleep(DEADLINE)
        if self.hangs_up:
            server.transport.abort()
        if self.replies["DATA"]:
            return self.replies["DATA"].popleft()
        assert isinstance(envelope.content, bytes)
        mail = Mail(
            str(envelope.mail_from),
            list(envelope.rcpt_tos),
            envelope.content,
            session.auth_data or "",
            server.transport.get_extra_info("sslcontext") is not None,
        )
        self.mails.append(mail)
        return "250 queued"


@contextmanager
def run_mail_server(
    *,
    starttls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    password: str = "",
) -> Iterator[MailServer]:
    """Serve on a free port.

    Args:
        starttls: encrypts on request, which is then required.
        tls: encrypts from the beginning.
        password: required if it is not empty.
    """
    handler = MailServer()
    handler.password = password
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    def protocol() -> SMTP:
        return SMTP(
            handler,
            hostname="mail.example.org",
            tls_context=starttls,
            require_starttls=starttls is not None,
            auth_required=bool(password),
            auth_require_tls=starttls is not None,
            authenticator=handler.authenticate if password else None,
            loop=loop,
        )

    async def serve() -> asyncio.Server:
        return await loop.create_server(protocol, "127.0.0.1", 0, ssl=tls)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def run() -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(serve())
        handler.port = server.sockets[0].getsockname()[1]
        ready.set()
        loop.run_forever()
        loop.run_until_complete(stop(server))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(DEADLINE)
    try:
        yield handler
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)
