"""Email, sent through an SMTP server.

The message that resolves an alert belongs to the thread of the message that reported
it, because it refers to its Message-ID (RFC 5322, section 3.6.4). Gmail also compares
subjects, but ignores a prefix in brackets, such as the status.

A server may accept a message for some of its recipients only. The message is then sent
again to the others, unless they were rejected permanently.
"""

from __future__ import annotations

import email.policy
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, Final

import structlog

from kaywatch_agent.model.alerts import Notification
from kaywatch_agent.notify import formatting
from kaywatch_agent.notify.config import EmailConfig
from kaywatch_agent.notify.receivers.email_html import html_body
from kaywatch_agent.notify.result import DeliveryOutcome, DeliveryResult, sent
from kaywatch_agent.notify.smtp import MailRejected, MailReply, MailServer, deliver
from kaywatch_agent.notify.truncation import truncate
from kaywatch_agent.units import parse_duration

__all__ = ["Email", "judge", "message_bytes"]

MAX_SUBJECT: Final = 200  # characters; every client cuts a longer subject
MAX_TEXT: Final = 100_000  # characters of a body; Gmail cuts HTML after 102 kB
MAX_REMEMBERED: Final = 1_000  # messages that some recipients have received

# The limit of RFC 5322 for a line of a header. With a lower limit, Python would encode
# a Message-ID that is longer than a line, which breaks threads.
_HEADER_LINES: Final = email.policy.SMTP.clone(max_line_length=998)
# Control characters, and halves of surrogate pairs, which UTF-8 cannot encode.
_UNSENDABLE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
)

log = structlog.get_logger("kaywatch.notify")


class Email:
    """Sends to the recipients of one section."""

    def __init__(self, config: EmailConfig) -> None:
        self._config = config
        self._server = MailServer(
            config.host,
            config.server_port,
            config.tls,
            config.username,
            config.ca,
            parse_duration(config.timeout),
        )
        # Recipients that have received a message that is sent again to others.
        self._received: dict[str, set[str]] = {}

    def render(self, notification: Notification, now: float) -> dict[str, Any]:
        """Return the headers and both bodies."""
        message = self._message(notification, now)
        text, html = message.iter_parts()
        return {
            "headers": {name: str(value) for name, value in message.items()},
            "text": text.get_content(),
            "html": html.get_content(),
        }

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Send a message to the recipients that have not received it yet."""
        password = self._config.password.read() if self._config.password else ""
        message = self._message(notification, now)
        received = self._received.get(notification.id, set())
        recipients = [one for one in self._config.to if one not in received]
        try:
            refused = await deliver(
                self._server,
                password,
                self._config.sender,
                recipients or self._config.to,
                message_bytes(message),
            )
        except MailRejected as error:
            return judge(error.reply, _hide(str(error), password))
        return self._judge_partial(notification, message, recipients, refused)

    def _judge_partial(
        self,
        notification: Notification,
        message: EmailMessage,
        recipients: Sequence[str],
        refused: dict[str, MailReply],
    ) -> DeliveryResult:
        """Return the result of a message that some recipients have received."""
        for recipient, reply in refused.items():
            log.warning(
                "the mail server rejected a recipient",
                receiver=self._config.name,
                recipient=recipient,
                error=str(reply),
            )
        later = {one: reply for one, reply in refused.items() if reply.code < 500}
        if not later:
            self._received.pop(notification.id, None)
            return sent(250, ref=str(message["Message-ID"]))
        received = self._received.setdefault(notification.id, set())
        received |= set(recipients) - later.keys()
        while len(self._received) > MAX_REMEMBERED:
            self._received.pop(next(iter(self._received)))
        address, reply = next(iter(later.items()))
        return judge(reply, f"the mail server rejected {address}: {reply}")

    def _message(self, notification: Notification, now: float) -> EmailMessage:
        config = self._config
        _, _, domain = config.sender.partition("@")
        message = EmailMessage(policy=email.policy.SMTP)
        message["From"] = config.from_
        message["To"] = ", ".join(config.to)
        subject = " ".join(_clean(formatting.title(notification)).split())
        message["Subject"] = truncate(subject, MAX_SUBJECT)
        date = datetime.fromtimestamp(now, UTC)
        message["Date"] = format_datetime(date)
        message["Message-ID"] = f"<{notification.id}@{domain}>"
        if notification.ref:
            message["In-Reply-To"] = notification.ref
            message["References"] = notification.ref
        # Prevents automatic replies of absent recipients (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        # The subject is the first line of the text.
        _, _, text = formatting.plain_text(notification, now).partition("\n")
        text = truncate(_clean(text.strip()), MAX_TEXT)
        message.set_content(f"{text}\n", cte="quoted-printable")
        html = html_body(notification, now)
        message.add_alternative(_clean(html), subtype="html", cte="quoted-printable")
        return message


def message_bytes(message: EmailMessage) -> bytes:
    """Return a message as it is sent."""
    return message.as_bytes(policy=_HEADER_LINES)


def judge(reply: MailReply, error: str) -> DeliveryResult:
    """Return the result of a reply: 4xx is temporary, and 5xx is a rejection.

    After 421 the server accepts nothing for a moment (RFC 5321, section 3.8).
    """
    if reply.code >= 500:
        return DeliveryResult(
            DeliveryOutcome.REFUSED, reply.code, error, undelivered=True
        )
    return DeliveryResult(
        DeliveryOutcome.RETRY,
        reply.code,
        error,
        pause=reply.code == 421,
        undelivered=True,
    )


# -- inside --------------------------------------------------------------------------


def _clean(text: str) -> str:
    return _UNSENDABLE.sub("\ufffd", text)


def _hide(text: str, password: str) -> str:
    """Return a reply without the password, which a server may repeat."""
    return text.replace(password, "…") if password else text
