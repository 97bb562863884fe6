"""Emails reach a real SMTP server, are readable, and stay in their alert's thread."""

from __future__ import annotations

import html
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.agent.notify.alerts import NOON, alert, resolve_alert
from tests.agent.notify.test_receivers import STRANGE, message
from tests.agent.notify.test_worker import run_worker, until
from tests.certificates import certificate
from tests.mail_server import MailServer, run_mail_server
from tests.receivers import Receivers

from kaywatch_agent.model.alerts import MessageStatus, Notification, NotificationKind
from kaywatch_agent.notify import appearance
from kaywatch_agent.notify.config import EmailConfig, parse
from kaywatch_agent.notify.receivers.email import Email, message_bytes
from kaywatch_agent.notify.result import DeliveryOutcome, DeliveryResult
from kaywatch_agent.notify.worker import attempt

pytestmark = [
    # aiosmtpd uses functions that Python 3.12 and later deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # It does not know that a connection is encrypted from its beginning.
    pytest.mark.filterwarnings("ignore:Requiring AUTH:UserWarning"),
]

ID = "<msg_01M8999830ABCDEFGHJKMNPQRS@example.org>"
INJECTION = "x\r\nBcc: victim@example.org\r\n\r\n<b>hi</b>"
SENT, RETRY = DeliveryOutcome.SENT, DeliveryOutcome.RETRY
REFUSED = DeliveryOutcome.REFUSED


def table(server: MailServer | None = None, **keys: Any) -> dict[str, Any]:
    return {
        "type": "email",
        "host": "127.0.0.1",
        "port": server.port if server else 25,
        "tls": "none",
        "from": "kaywatch <kaywatch@example.org>",
        "to": ["ops@example.org", "dev@example.org"],
        **keys,
    }


def receiver(server: MailServer | None = None, **keys: Any) -> Email:
    config = parse({"ops": table(server, **keys)})["ops"]
    assert isinstance(config, EmailConfig)
    return Email(config)


async def send(
    server: MailServer, notification: Notification | None = None, **keys: Any
) -> DeliveryResult:
    return await attempt(receiver(server, **keys), notification or message(), NOON + 5)


async def test_an_email_has_text_and_html_for_all_recipients() -> None:
    with run_mail_server() as server:
        result = await send(server)

    assert (result.outcome, result.code, result.ref) == (SENT, 250, ID)
    (mail,) = server.mails
    assert mail.sender == "kaywatch@example.org"
    assert mail.recipients == ["ops@example.org", "dev@example.org"]
    headers = mail.message
    assert headers["From"] == "kaywatch <kaywatch@example.org>"
    assert headers["To"] == "ops@example.org, dev@example.org"
    assert headers["Subject"] == "[FIRING] node-success-rate: checkout / pay"
    assert headers["Message-ID"] == ID
    assert headers["Date"] == "Wed, 25 Nov 2026 12:01:05 +0000"
    assert headers["Auto-Submitted"] == "auto-generated"
    assert "In-Reply-To" not in headers
    assert headers.get_content_type() == "multipart/alternative"
    text, page = mail.body("plain"), mail.body("html")
    assert text.startswith("pay: success 84.2 % < 95.0 % (32 of 203 failed in 5m)\n")
    assert "  Errors: TimeoutError 21, ValueError 9, KeyError 2\n" in text
    assert "  Silence: https://kaywatch.example/#/silence/abc\n" in text
    for part in ("FIRING", "checkout / pay", "TimeoutError 21", "worker-3"):
        assert part in page
    assert re.findall(r'<a href="([^"]+)"', page) == [
        "https://kaywatch.example/#/graphs/checkout",
        "https://runbooks.example/checkout",
        "https://kaywatch.example/#/silence/abc",
    ]
    assert all(len(line) <= 998 for line in mail.content.split(b"\r\n"))


async def test_the_end_of_an_alert_is_in_the_thread_of_its_start(
    receivers: Receivers,
) -> None:
    with run_mail_server() as server:
        async with run_worker(receivers, ops=table(server, timeout="60s")) as run:
            run.put("ops", NotificationKind.FIRING, alert())
            await until(lambda: run.count(MessageStatus.SENT) == 1)
            run.put("ops", NotificationKind.REPEAT, alert())
            await until(lambda: run.count(MessageStatus.SENT) == 2)
            run.put("ops", NotificationKind.RESOLVED, resolve_alert(alert()))
            await until(lambda: run.count(MessageStatus.SENT) == 3)

    first, repeat, end = [mail.message for mail in server.mails]
    for later in (repeat, end):
        assert later["In-Reply-To"] == first["Message-ID"]
        assert later["References"] == first["Message-ID"]
    assert len({mail["Message-ID"] for mail in (first, repeat, end)}) == 3
    # Gmail compares subjects without their brackets.
    subjects = {re.sub(r"^\[[^]]+\] ", "", mail["Subject"]) for mail in (first, end)}
    assert subjects == {"node-success-rate: checkout / pay"}
    assert end["Subject"].startswith("[RESOLVED]")


def test_a_message_id_longer_than_a_line_is_sent_as_it_is() -> None:
    sender = f"kaywatch@{'very-long-name.' * 8}example.org"
    long = receiver(**{"from": sender})
    reply = message(ref=f"<msg_1@{'very-long-name.' * 8}example.org>")
    content = message_bytes(long._message(reply, NOON)).decode()

    assert f"\r\nIn-Reply-To: {reply.ref}\r\n" in content
    assert f"\r\nReferences: {reply.ref}\r\n" in content
    assert f"\r\nMessage-ID: <{reply.id}@" in content


async def test_names_can_neither_add_headers_nor_markup() -> None:
    hostile = alert(
        INJECTION,
        rule=INJECTION,
        summary=f"<script>alert(1)</script>{INJECTION}\ud800\0",
        host='"><img src=x>',
        dashboard_url='https://x/?a="><script>',
    )
    with run_mail_server() as server:
        result = await send(server, message(hostile))

    assert result.outcome is SENT
    (mail,) = server.mails
    headers = mail.message
    assert mail.recipients == ["ops@example.org", "dev@example.org"]
    assert "Bcc" not in headers and len(headers.get_all("Subject")) == 1
    assert "Bcc: victim@example.org" in headers["Subject"]
    page = mail.body("html")
    for tag in ("<script", "<img", "<b>hi"):
        assert tag not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("count", [1, 2, 50])
def test_an_email_is_shorter_than_what_clients_hide(count: int) -> None:
    strange = alert(STRANGE, summary=STRANGE, note=STRANGE, host=STRANGE)
    rendered = receiver().render(message(*[strange] * count, left_out=450), NOON + 5)

    assert len(rendered["headers"]["Subject"]) <= 200
    assert len(rendered["text"]) <= 100_001
    assert len(rendered["html"]) <= 102_000 or count == 50
    assert "+450 more" in rendered["html"]


@pytest.mark.parametrize(
    ("notification", "status", "colour"),
    [
        (message(alert()), "FIRING", appearance.RED),
        (message(alert(severity="warning")), "FIRING", "#b45309"),
        (message(alert(severity="info")), "FIRING", appearance.BLUE),
        (message(alert(), kind="repeat"), "STILL FIRING", appearance.RED),
        (message(alert(), kind="test"), "TEST, FIRING", appearance.RED),
        (message(resolve_alert(alert())), "RESOLVED", appearance.GREEN),
        (message(resolve_alert(alert(), reason="no_data")), "NO DATA", "#6e7781"),
        (message(alert(), resolve_alert(alert())), "FIRING: 1, RESOLVED: 1", "#d32f2f"),
    ],
)
def test_the_status_and_its_colour_come_first(
    notification: Notification, status: str, colour: str
) -> None:
    page = receiver().render(notification, NOON)["html"]
    label = re.search(r'<span style="background:(#\w+);[^>]+>([^<]+)</span>', page)

    assert label is not None
    assert label.groups() == (colour, status)
    text = html.unescape(re.sub(r"<[^>]+>", "", page.partition("<body")[2]))
    assert text.partition(">")[2].startswith(status)


def test_a_group_shows_links_of_all_once_and_each_alert_with_its_own() -> None:
    alerts = [alert(node, silence_url=f"https://k/{node}") for node in ("pay", "ship")]
    page = receiver().render(message(*alerts), NOON + 5)["html"]

    urls = re.findall(r'<a href="([^"]+)"', page)
    assert urls[:2] == [alerts[0].dashboard_url, alerts[0].runbook_url]
    assert urls[2:] == ["https://k/pay", "https://k/ship"]


# -- the connection ------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    issued = certificate(tmp_path_factory.mktemp("tls"), "mail")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    return context, str(issued.certificate)


@pytest.mark.parametrize("mode", ["starttls", "tls"])
async def test_a_connection_is_encrypted_and_logged_in(
    tls: tuple[ssl.SSLContext, str], mode: str, tmp_path: Path
) -> None:
    context, ca = tls
    secret = tmp_path / "password"
    secret.write_text("hunter22\n")
    keys = {"tls": mode, "username": "kay", "password_file": str(secret)}
    with run_mail_server(**{mode: context}, password="hunter22") as server:
        untrusted = await send(server, **keys)
        result = await send(server, **keys, ca=ca)
        secret.write_text("wrong-one")
        wrong = await send(server, **keys, ca=ca)

    assert (untrusted.outcome, untrusted.error) == (
        RETRY,
        "TLS: the certificate is not trusted",
    )
    assert result.outcome is SENT, result.error
    (mail,) = server.mails
    assert (mail.login, mail.encrypted) == ("kay", True)
    assert (wrong.outcome, wrong.code) == (REFUSED, 535)
    assert wrong.error.startswith("the mail server rejected the login: 535")
    assert "wrong-one" not in wrong.error


async def test_nothing_is_sent_without_the_encryption_that_is_configured() -> None:
    with run_mail_server() as server:
        result = await send(server, tls="starttls")

    assert result.outcome is RETRY
    assert "STARTTLS" in result.error
    assert server.mails == []


@pytest.mark.parametrize(
    ("command", "reply", "outcome", "pause"),
    [
        ("MAIL", "550 5.7.1 no such sender", REFUSED, False),
        ("MAIL", "421 4.7.0 too busy", RETRY, True),
        ("DATA", "554 5.7.1 spam", REFUSED, False),
        ("DATA", "452 4.3.1 disk full", RETRY, False),
    ],
)
async def test_a_code_of_400_is_temporary_and_one_of_500_a_rejection(
    command: str, reply: str, outcome: DeliveryOutcome, pause: bool
) -> None:
    with run_mail_server() as server:
        server.answer(command, reply)
        result = await send(server)

    assert (result.outcome, result.pause) == (outcome, pause)
    assert (result.code, result.undelivered) == (int(reply[:3]), True)
    assert result.error.endswith(reply)


async def test_a_message_is_repeated_only_to_those_who_have_not_received_it() -> None:
    with run_mail_server() as server:
        server.answer("RCPT dev@example.org", "450 4.2.0 greylisted")
        ops = receiver(server)
        first = await attempt(ops, message(), NOON)
        second = await attempt(ops, message(), NOON)
        third = await attempt(ops, message(kind="repeat"), NOON)

    assert first.outcome is RETRY
    assert first.error == (
        "the mail server rejected dev@example.org: 450 4.2.0 greylisted"
    )
    assert (second.outcome, third.outcome) == (SENT, SENT)
    assert [mail.recipients for mail in server.mails] == [
        ["ops@example.org"],
        ["dev@example.org"],
        ["ops@example.org", "dev@example.org"],
    ]


async def test_a_recipient_that_does_not_exist_does_not_stop_the_others() -> None:
    with run_mail_server() as server:
        server.answer("RCPT dev@example.org", "550 5.1.1 unknown")
        partial = await send(server)
        for name in ("ops", "dev"):
            server.answer(f"RCPT {name}@example.org", "550 5.1.1 unknown")
        refused = await send(server)

    assert partial.outcome is SENT
    assert [mail.recipients for mail in server.mails] == [["ops@example.org"]]
    assert refused.outcome is REFUSED
    assert refused.error.startswith("the mail server rejected all recipients: 550")


async def test_a_server_that_hangs_up_may_have_accepted_the_message() -> None:
    with run_mail_server() as server:
        server.hangs_up = True
        result = await send(server)

    assert (result.outcome, result.undelivered) == (RETRY, False)
    assert result.error == "the mail server closed the connection"


async def test_a_server_that_hangs_is_given_up() -> None:
    with run_mail_server() as server:
        server.hangs = True
        result = await send(server, timeout="100ms")

    assert result.outcome is RETRY
    assert result.error == "no response of the mail server within 0.1 s"


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("169.254.169.254", "the address is not allowed for receivers"),
        ("nowhere.invalid", "the host name cannot be resolved"),
        ("127.0.0.1", "connection refused"),
    ],
)
async def test_a_server_that_cannot_be_reached_is_tried_again(
    host: str, error: str
) -> None:
    with run_mail_server() as server:
        pass  # its port is free again
    result = await send(server, host=host)

    assert (result.outcome, result.undelivered, result.error) == (RETRY, True, error)
