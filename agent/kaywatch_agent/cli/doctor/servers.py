"""Checks of servers and their certificates: receivers, brokers, and the agent's HTTP.

Strategy: resolve the host, connect, perform the TLS handshake, and close. No request is
sent, except to `/-/ready` of an Alertmanager, which exists for checks.
"""

from __future__ import annotations

import contextlib
import http.client
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from kaywatch._send import broker as brokers
from kaywatch.errors import ConfigurationError
from kaywatch_agent.cli.doctor.context import CheckContext
from kaywatch_agent.cli.doctor.result import (
    CheckResult,
    CheckResults,
    ok,
    problem,
    unchecked,
    unreadable,
    warning,
)
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config import (
    AlertmanagerConfig,
    AppriseConfig,
    EmailConfig,
    ReceiverConfig,
)
from kaywatch_agent.notify.http import (
    NoResponse,
    check_address,
    check_url,
    redact_url,
    tls_context,
)
from kaywatch_agent.units import duration

# The prefix of a broker's stage in /health, before the broker's label.
MQTT_STAGE: Final = "mqtt "

CONNECT_SECONDS: Final = 5.0
MAX_CONNECTS: Final = 8  # at once

# Let's Encrypt recommends to renew 30 days before the end.
EXPIRES_SOON_DAYS: Final = 14
SMTP_READY: Final = 220
SMTP_OK: Final = 250
MAX_REPLY: Final = 200  # characters of a mail server's reply


def check_agent_certificate(context: CheckContext) -> CheckResults:
    """Check that the agent's own certificate does not expire soon."""
    url = urlsplit(context.url)
    if url.scheme != "https" or not url.hostname:
        return
    tls = ssl.create_default_context()
    with contextlib.suppress(OSError):
        tls.load_verify_locations(context.config.http.tls_certificate_file)
        # Trust the certificate itself, even if no authority signed it.
        tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        connection = socket.create_connection(
            (url.hostname, _port_of(url)), CONNECT_SECONDS
        )
        what = f"the certificate of {context.url}"
        yield _check_certificate(what, connection, url.hostname, tls)
    except OSError as error:
        # `check_health` reports a server without TLS.
        if getattr(error, "reason", "") != "WRONG_VERSION_NUMBER":
            yield unchecked("its certificate", f"cannot connect: {error}")


def _connect(
    where: str,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    check: Callable[[str], None] = lambda _: None,
) -> CheckResults:
    """Connect to a server, perform the TLS handshake, and send nothing.

    Args:
        where: the name of the server in results.
        host: its host name or address.
        port: its port.
        tls: the trusted authorities; None for a server without TLS.
        check: raises OSError for an address that is not allowed.
    """
    try:
        connection = _open(host, port, check)
    except (OSError, ValueError) as error:
        yield _unreachable(where, error)
        return
    yield ok(f"{where}: can be connected to; nothing was sent")
    with connection:
        if tls is None:
            return
        try:
            what = f"{where}: its certificate"
            yield _check_certificate(what, connection, host, tls)
        except OSError as error:
            text = f"{where}: the TLS handshake failed: {_describe_error(error)}"
            yield problem(text, "check the port, and that it uses TLS")


def _unreachable(where: str, error: Exception) -> CheckResult:
    if isinstance(error, socket.gaierror):
        return problem(
            f"{where}: the host's name cannot be resolved",
            "correct the URL, or check the name servers in /etc/resolv.conf",
        )
    return problem(
        f"{where}: cannot connect: {_describe_error(error)}",
        "check that it runs, and that no firewall blocks it",
    )


def _open(host: str, port: int, check: Callable[[str], None]) -> socket.socket:
    """Connect to the first address that is allowed and answers."""
    failure: OSError = OSError("no address")
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            check(str(address[0]))
            return socket.create_connection((str(address[0]), port), CONNECT_SECONDS)
        except OSError as error:
            failure = error
    raise failure


def _check_certificate(
    what: str, connection: socket.socket, host: str, tls: ssl.SSLContext
) -> CheckResult:
    """Perform the TLS handshake, close the connection, and check the certificate.

    Raises:
        OSError: the server does not speak TLS.
    """
    try:
        with connection, tls.wrap_socket(connection, server_hostname=host) as secure:
            expires = str((secure.getpeercert() or {})["notAfter"])
    except ssl.SSLCertVerificationError as error:
        return problem(
            f"{what} is not trusted: {error.verify_message or error.reason}",
            "renew it; or set SSL_CERT_FILE to the certificate of its authority",
        )
    remaining = ssl.cert_time_to_seconds(expires) - time.time()
    if remaining < EXPIRES_SOON_DAYS * 86_400:
        return warning(f"{what} expires in {duration(remaining)}", "renew it")
    return ok(f"{what} is valid for {duration(remaining)}")


def _describe_error(error: Exception) -> str:
    """Return the reason without the URL, which may be a secret."""
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    return (getattr(error, "strerror", None) or type(error).__name__).lower()


def _port_of(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


# -- receivers -----------------------------------------------------------------------


class _Target(NamedTuple):
    """A server that notifications are sent to."""

    name: str
    url: str  # may be a secret
    ready_path: str = ""  # where the server reports whether it is ready

    def __str__(self) -> str:
        return f"{self.name} ({redact_url(self.url)})"


class _MailTarget(NamedTuple):
    """An SMTP server."""

    name: str
    config: EmailConfig

    def __str__(self) -> str:
        return f"{self.name} ({self.config.host}:{self.config.server_port})"


def check_receiver_connections(context: CheckContext) -> CheckResults:
    """Check that kaywatch can connect to each receiver, and to the heartbeat."""
    targets: list[_Target | _MailTarget] = []
    for name, config in context.config.notify.receivers.items():
        try:
            targets += _list_targets(f"receiver.{name}", config)
        except ConfigError as error:
            yield unreadable(error)
        else:
            if isinstance(config, AppriseConfig):
                hint = f"Apprise can only send; run `kaywatch notify test {name}`"
                yield unchecked(f"receiver.{name}", hint)
    try:
        heartbeat = context.config.notify.heartbeat.url
        if heartbeat is not None:
            targets.append(_Target("heartbeat", heartbeat.read()))
    except ConfigError as error:
        yield unreadable(error)
    with ThreadPoolExecutor(MAX_CONNECTS, "doctor receiver") as pool:
        for results in pool.map(lambda target: list(_check_target(target)), targets):
            yield from results


def _list_targets(name: str, config: ReceiverConfig) -> Iterator[_Target | _MailTarget]:
    ready_path = "/-/ready" if isinstance(config, AlertmanagerConfig) else ""
    for url in config.urls_to_reach():
        yield _Target(name, url, ready_path)
    if isinstance(config, EmailConfig):
        yield _MailTarget(name, config)


def _check_target(target: _Target | _MailTarget) -> CheckResults:
    if isinstance(target, _MailTarget):
        yield from _check_mail_server(target)
        return
    try:
        check_url(target.url)
        url = urlsplit(target.url)
        port = _port_of(url)
    except (NoResponse, ValueError) as error:
        yield problem(f"{target}: {error}", "correct its URL")
        return
    tls = ssl.create_default_context() if url.scheme == "https" else None
    results = list(_connect(str(target), url.hostname or "", port, tls, check_address))
    yield from results
    if target.ready_path and not any(r.status == "problem" for r in results):
        yield _check_ready(target, url)


def _check_mail_server(target: _MailTarget) -> CheckResults:
    """Connect to a mail server, and check its certificate."""
    config = target.config
    try:
        tls = tls_context(config.ca) if config.tls != "none" else None
    except NoResponse as error:
        yield problem(f"{target}: {error}", "correct the key ca")
        return
    host, port = config.host, config.server_port
    if tls is None or config.tls == "tls":
        yield from _connect(str(target), host, port, tls, check_address)
        return
    try:
        connection = _open(host, port, check_address)
    except (OSError, ValueError) as error:
        yield _unreachable(str(target), error)
        return
    yield ok(f"{target}: can be connected to; nothing was sent")
    with connection:
        yield _check_starttls(target, connection, tls)


def _check_starttls(
    target: _MailTarget, connection: socket.socket, tls: ssl.SSLContext
) -> CheckResult:
    """Encrypt a connection to a mail server, and check the certificate."""
    client = smtplib.SMTP(local_hostname="localhost")
    client.sock = connection
    try:
        reply = client.getreply()
        if reply[0] == SMTP_READY:
            reply = client.ehlo()
            if reply[0] == SMTP_OK and not client.has_extn("starttls"):
                text = f"{target}: the mail server does not offer STARTTLS"
                return problem(text, 'set tls = "tls" or "none", and the port for it')
            reply = client.docmd("STARTTLS")
        if reply[0] != SMTP_READY:
            text = f"{reply[0]} {reply[1].decode(errors='replace')}"[:MAX_REPLY]
            fix = "check the server, and that it accepts mail from this host"
            return problem(f"{target}: the mail server answers {text}", fix)
        what = f"{target}: its certificate after STARTTLS"
        return _check_certificate(what, connection, target.config.host, tls)
    except (OSError, smtplib.SMTPException) as error:
        text = f"{target}: no encryption by STARTTLS: {_describe_error(error)}"
        return problem(text, "check the port, and that it is a mail server")


def _check_ready(target: _Target, url: SplitResult) -> CheckResult:
    fix = "check that it is an Alertmanager"
    secure = url.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=CONNECT_SECONDS)
    with contextlib.closing(connection):
        try:
            connection.request("GET", url.path.rstrip("/") + target.ready_path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return problem(f"{target}: no answer: {_describe_error(error)}", fix)
    if status == http.HTTPStatus.OK:
        return ok(f"{target}: is ready")
    return problem(f"{target}: {target.ready_path} returns {status}", fix)


def check_receiver_deliveries(context: CheckContext) -> CheckResults:
    """Check the state of each receiver in the agent."""
    answer = context.get("/api/v1/receivers")
    for receiver in answer["receivers"] if answer else ():
        name = f"receiver.{receiver['name']}"
        if receiver["disabled"]:
            yield problem(
                f"{name} is disabled, because it answered 410 Gone",
                "correct its URL, and reload the configuration",
            )
        elif receiver["up"] is False:
            yield problem(
                f"{name} is failing: {receiver['error']}",
                f"fix it, then run `kaywatch notify test {receiver['name']}`",
            )
        if receiver["dead"]:
            yield problem(
                f"{name}: {receiver['dead']} messages could not be delivered",
                "see `kaywatch outbox list --status dead`, then retry or purge them",
            )


# -- brokers -------------------------------------------------------------------------


def check_broker_sessions(context: CheckContext) -> CheckResults:
    """Check that the agent is connected to each broker."""
    stages = context.health["stages"] if context.health else {}
    for config in context.config.ingest.mqtt if context.health else ():
        label, stage = config.label, stages.get(MQTT_STAGE + config.label)
        if stage is None:
            yield warning(
                f"{label}: the agent does not know this broker",
                "restart the agent: the broker was added to the configuration later",
            )
        elif stage["problem"]:
            yield problem(f"{label}: {stage['problem']}", "see docs/mqtt.md")
        else:
            count = sum(client["via"] == label for client in context.connected)
            yield ok(f"{label}: connected; {count} clients use it")


def check_broker_connections(context: CheckContext) -> CheckResults:
    """Check that kaywatch can connect to each broker, and read its secrets."""
    for config in context.config.ingest.mqtt:
        try:
            yield from check_broker(config.broker.url, config.broker)
        except ConfigurationError as error:
            text = ConfigurationError(f"{config.label}: {error}")
            yield unreadable(text, "correct its keys in [[ingest.mqtt]]")


def check_broker(where: str, broker: brokers.Broker) -> CheckResults:
    """Connect to a broker.

    Raises:
        ConfigurationError: its secrets or certificates cannot be read.
    """
    broker.secret()
    yield from _connect(where, broker.host, broker.port, broker.context())
