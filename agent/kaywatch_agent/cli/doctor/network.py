"""Checks of what is connected to: the agent's socket, receivers, brokers, and TLS.

Strategy: look up the host, connect, perform the TLS handshake, and close. No request is
sent, except for `/-/ready` of an Alertmanager, which exists for that.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import http.client
import os
import pwd
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from kaywatch._send import broker as brokers
from kaywatch._send.transport import candidates
from kaywatch.errors import ConfigurationError
from kaywatch_agent.cli.doctor.context import (
    CheckContext,
    group_name,
    user_name,
)
from kaywatch_agent.cli.doctor.result import (
    CheckResult,
    CheckResults,
    ok,
    problem,
    unchecked,
    unreadable,
    warning,
)
from kaywatch_agent.cli.service.installer import closed_folder
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config import (
    AlertmanagerConfig,
    AppriseConfig,
    PagerDutyConfig,
    ReceiverConfig,
    SlackConfig,
)
from kaywatch_agent.notify.http import NoAnswer, check_address, check_url, redacted
from kaywatch_agent.units import duration

# What /health calls the session with a broker, before the broker's label.
MQTT_STAGE: Final = "mqtt "

CONNECT_SECONDS: Final = 5.0
MAX_CONNECTS: Final = 8  # at once

# Clients of Let's Encrypt renew 30 days before.
EXPIRES_SOON_DAYS: Final = 14


# -- the agent's socket --------------------------------------------------------------


def socket_access(context: CheckContext) -> CheckResults:
    """Check that the socket exists, and show who can push."""
    path = Path(context.socket)
    folder = closed_folder(path)
    try:
        info = path.lstat()
    except PermissionError:
        yield problem(
            f"{path}: this user cannot enter {folder}",
            f"chmod o+x {folder}, or set ingest.socket to another path",
        )
        return
    except OSError as error:
        yield problem(
            f"{path}: {os.strerror(error.errno or 0).lower()}",
            "start the agent; or set --socket here and KAYWATCH_ENDPOINT for"
            " applications to where its socket is",
        )
        return
    if not stat.S_ISSOCK(info.st_mode):
        yield problem(f"{path} is not a socket", "move it, and restart the agent")
        return
    ingest = context.config.ingest
    groups = [f"members of {name}" for name in ingest.allow_gids]
    allowed = ", ".join((*ingest.allow_uids, *groups))
    yield _who_can_push(path, info, allowed)
    if allowed:
        yield ok(f"only {allowed} and root can push (ingest.allow_uids, allow_gids)")
    if folder is not None:
        yield warning(
            f"not every user can enter {_owners(folder, folder.stat())}, whatever the"
            " mode of the socket",
            f"chmod o+x {folder}, if other users should push",
        )


def _who_can_push(path: Path, info: os.stat_result, allowed: str) -> CheckResult:
    where, group = _owners(path, info), group_name(info.st_gid)
    if info.st_mode & stat.S_IWOTH:
        if allowed:
            return ok(f"{where}: every user of this host can connect")
        return warning(
            f"{where}: every user of this host can push",
            f'set ingest.mode = "0660", and add users who push to the group {group}',
        )
    owner = user_name(info.st_uid)
    pushing = [owner] if info.st_mode & stat.S_IWUSR else []
    if info.st_mode & stat.S_IWGRP:
        pushing.append(f"the group {group}{_members(info.st_gid, owner)}")
    if not pushing:
        return problem(f"{where}: only root can push", 'set ingest.mode = "0660"')
    return ok(f"{where}: {' and '.join(pushing)} can push")


def _members(gid: int, owner: str) -> str:
    try:
        members = [name for name in grp.getgrgid(gid).gr_mem if name != owner]
    except KeyError:
        return ""
    return f" ({', '.join(members[:10])})" if members else ""


def _owners(path: Path, info: os.stat_result) -> str:
    owners = f"{user_name(info.st_uid)}:{group_name(info.st_gid)}"
    return f"{path} ({stat.S_IMODE(info.st_mode):04o} {owners})"


def socket_connect(context: CheckContext) -> CheckResults:
    """Check that this user can connect, as an application of this user would."""
    user, error = user_name(os.geteuid()), context.listener
    if context.socket_activated:
        yield ok("systemd holds it; not connected to, as that would start the agent")
    elif isinstance(error, OSError):
        if os.path.exists(context.socket) or error.errno == errno.EACCES:
            yield _refusal(context.socket, user, error)
    elif os.geteuid() == 0:
        yield ok("root can connect, whatever the mode is")
    elif not context.config.ingest.access.admits(_ThisProcess()):
        yield problem(
            f"{user} can connect, but is not in allow_uids or allow_gids",
            f'add "{user}" to ingest.allow_uids, and reload the configuration',
        )
    else:
        yield ok(f"{user} can connect")


class _ThisProcess:
    """This process, as the agent identifies it."""

    uid = property(lambda _: os.geteuid())
    gids = property(lambda _: (os.getegid(), *os.getgroups()))
    trusted = False


def _refusal(path: str, user: str, error: OSError) -> CheckResult:
    if error.errno == errno.ECONNREFUSED:
        return problem(
            f"{path}: no process listens",
            "its agent was killed; start another one, which replaces the socket",
        )
    if error.errno == errno.EACCES:
        return problem(f"{user} cannot connect to {path}", _grant(path, user))
    if isinstance(error, TimeoutError):
        return problem(
            f"{path}: connections are not accepted",
            "the agent hangs: see its log, and restart it",
        )
    return unchecked(f"{path}: {error}", "check that it is the socket of an agent")


def _grant(path: str, user: str) -> str:
    """Return how to let a user connect."""
    try:
        info = os.stat(path)
    except OSError:
        folder = closed_folder(Path(path))
        return f"chmod o+x {folder}: other users cannot enter it"
    group = group_name(info.st_gid)
    if not info.st_mode & stat.S_IWGRP:
        return 'set ingest.mode = "0660", and restart the agent'
    with contextlib.suppress(KeyError):
        if info.st_gid in os.getgrouplist(user, pwd.getpwnam(user).pw_gid):
            return f"{user} was added to {group} since the last login: log in again"
    return f"as root: usermod -aG {group} {user}; then log in again"


def socket_discovery(context: CheckContext) -> CheckResults:
    """Check that applications find the socket without configuration."""
    if os.environ.get("KAYWATCH_ENDPOINT"):
        return  # see `endpoint`
    paths = list(candidates(None))
    if next(filter(os.path.exists, paths), None) == context.socket:
        yield ok("applications of this user find it without configuration")
    elif os.path.exists(context.socket):
        yield warning(
            f"applications of this user look at {' and '.join(paths)}",
            f"set KAYWATCH_ENDPOINT=unix://{context.socket} for them",
        )


# -- connections and TLS -------------------------------------------------------------


def certificate(context: CheckContext) -> CheckResults:
    """Check that the agent's own certificate does not expire soon."""
    url = urlsplit(context.url)
    if url.scheme != "https" or not url.hostname:
        return
    tls = ssl.create_default_context()
    with contextlib.suppress(OSError):
        tls.load_verify_locations(context.config.http.tls_certificate_file)
        # Trusted as it is: it need not be an authority's.
        tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        link = socket.create_connection((url.hostname, _port(url)), CONNECT_SECONDS)
        yield _handshake(f"the certificate of {context.url}", link, url.hostname, tls)
    except OSError as error:
        yield unchecked("its certificate", f"cannot connect: {error}")


def _reach(
    where: str,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    check: Callable[[str], None] = lambda _: None,
) -> CheckResults:
    """Connect to a server, perform the TLS handshake, and send nothing.

    Args:
        where: what results call the server.
        host: its name or address.
        port: its port.
        tls: whom to trust; None for a server without TLS.
        check: raises OSError for an address that must not be connected to.
    """
    try:
        link = _connection(host, port, check)
    except socket.gaierror:
        yield problem(
            f"{where}: the host's name cannot be resolved",
            "correct the URL, or check the name server (/etc/resolv.conf)",
        )
        return
    except (OSError, ValueError) as error:
        yield problem(
            f"{where}: cannot connect: {_cause(error)}",
            "check that it runs, and that no firewall is in between",
        )
        return
    yield ok(f"{where}: can be connected to; nothing was sent")
    with link:
        if tls is None:
            return
        try:
            yield _handshake(f"{where}: its certificate", link, host, tls)
        except OSError as error:
            text = f"{where}: the TLS handshake failed: {_cause(error)}"
            yield problem(text, "check that the port is right, and uses TLS")


def _connection(host: str, port: int, check: Callable[[str], None]) -> socket.socket:
    """Connect to the first address that is allowed, and answers."""
    failure: OSError = OSError("no address")
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            check(str(address[0]))
            return socket.create_connection((str(address[0]), port), CONNECT_SECONDS)
        except OSError as error:
            failure = error
    raise failure


def _handshake(
    what: str, link: socket.socket, host: str, tls: ssl.SSLContext
) -> CheckResult:
    """Perform the TLS handshake, close the connection, and judge the certificate.

    Raises:
        OSError: the server does not speak TLS.
    """
    try:
        with link, tls.wrap_socket(link, server_hostname=host) as secure:
            expires = str((secure.getpeercert() or {})["notAfter"])
    except ssl.SSLCertVerificationError as error:
        return problem(
            f"{what} is not trusted: {error.verify_message or error.reason}",
            "renew it; or set SSL_CERT_FILE to the certificate of the authority that"
            " signed it",
        )
    left = ssl.cert_time_to_seconds(expires) - time.time()
    if left < EXPIRES_SOON_DAYS * 86_400:
        return warning(f"{what} expires in {duration(left)}", "renew it")
    return ok(f"{what} is valid for {duration(left)}")


def _cause(error: Exception) -> str:
    """Return what went wrong, without an address: a URL may be a secret."""
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    return (getattr(error, "strerror", None) or type(error).__name__).lower()


def _port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


# -- receivers -----------------------------------------------------------------------


class _Target(NamedTuple):
    """A server that notifications are sent to."""

    name: str
    url: str  # may be a secret
    ready: str = ""  # the path to ask whether it is ready

    def __str__(self) -> str:
        return f"{self.name} ({redacted(self.url)})"


def receivers_reached(context: CheckContext) -> CheckResults:
    """Check that each receiver, and the heartbeat, can be connected to."""
    targets: list[_Target] = []
    for name, config in context.config.notify.receivers.items():
        try:
            targets += _targets(f"receiver.{name}", config)
        except ConfigError as error:
            yield unreadable(error)
        else:
            if isinstance(config, AppriseConfig):
                hint = f"Apprise cannot be checked without sending; notify test {name}"
                yield unchecked(f"receiver.{name}", hint)
    try:
        heartbeat = context.config.notify.heartbeat.target()
        if heartbeat is not None:
            targets.append(_Target("heartbeat", heartbeat.read()))
    except ConfigError as error:
        yield unreadable(error)
    with ThreadPoolExecutor(MAX_CONNECTS, "doctor receiver") as pool:
        for results in pool.map(lambda target: list(_target_reached(target)), targets):
            yield from results


def _targets(name: str, config: ReceiverConfig) -> Iterator[_Target]:
    for key in config.secrets:
        secret = config.find(key)
        value = secret.read() if secret is not None else ""
        if key in ("webhook_url", "url") and value:
            yield _Target(name, value)
    if isinstance(config, PagerDutyConfig):
        yield _Target(name, config.base_url)
    elif isinstance(config, SlackConfig) and config.bot:
        yield _Target(name, config.url)
    elif isinstance(config, AlertmanagerConfig):
        for url in config.urls:
            yield _Target(name, url, "/-/ready")


def _target_reached(target: _Target) -> CheckResults:
    try:
        check_url(target.url)
        url = urlsplit(target.url)
        port = _port(url)
    except (NoAnswer, ValueError) as error:
        yield problem(f"{target}: {error}", "correct its URL")
        return
    tls = ssl.create_default_context() if url.scheme == "https" else None
    results = list(_reach(str(target), url.hostname or "", port, tls, _check_address))
    yield from results
    if target.ready and not any(r.status == "problem" for r in results):
        yield _ready(target, url)


def _check_address(address: str) -> None:
    check_address(address, private=True)


def _ready(target: _Target, url: SplitResult) -> CheckResult:
    fix = "check that it is an Alertmanager"
    secure = url.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=CONNECT_SECONDS)
    with contextlib.closing(connection):
        try:
            connection.request("GET", url.path.rstrip("/") + target.ready)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return problem(f"{target}: no answer: {_cause(error)}", fix)
    if status == http.HTTPStatus.OK:
        return ok(f"{target}: is ready")
    return problem(f"{target}: {target.ready} returns {status}", fix)


def receivers_delivering(context: CheckContext) -> CheckResults:
    """Check what the agent reports about each receiver."""
    answer = context.get("/api/v1/receivers")
    for receiver in answer["receivers"] if answer else ():
        name = f"receiver.{receiver['name']}"
        if receiver["disabled"]:
            yield problem(
                f"{name} is disabled: it answered 410 Gone",
                "correct its URL, and reload the configuration",
            )
        elif not receiver["up"]:
            yield problem(
                f"{name} is failing: {receiver['error']}",
                f"fix it, then `kaywatch notify test {receiver['name']}`",
            )
        if receiver["dead"]:
            yield problem(
                f"{name}: {receiver['dead']} messages could not be delivered",
                "see `kaywatch outbox list --status dead`; then retry or purge them",
            )


# -- brokers -------------------------------------------------------------------------


def broker_sessions(context: CheckContext) -> CheckResults:
    """Check that the agent has a session with each broker."""
    stages = context.health["stages"] if context.health else {}
    for config in context.config.ingest.mqtt if context.health else ():
        label, stage = config.label, stages.get(MQTT_STAGE + config.label)
        if stage is None:
            yield warning(
                f"{label}: the agent does not know this broker",
                "restart it: the broker was added to the configuration since",
            )
        elif stage["problem"]:
            yield problem(f"{label}: {stage['problem']}", "see docs/mqtt.md")
        else:
            count = sum(client["via"] == label for client in context.connected)
            yield ok(f"{label}: connected; {count} clients use it")


def brokers_reached(context: CheckContext) -> CheckResults:
    """Check that each broker can be connected to, and its secrets can be read."""
    for config in context.config.ingest.mqtt:
        try:
            yield from broker_reached(config.broker.url, config.broker)
        except ConfigurationError as error:
            text = ConfigurationError(f"{config.label}: {error}")
            yield unreadable(text, "see [[ingest.mqtt]]")


def broker_reached(where: str, broker: brokers.Broker) -> CheckResults:
    """Connect to a broker.

    Raises:
        ConfigurationError: its secrets or certificates cannot be read.
    """
    broker.secret()
    yield from _reach(where, broker.host, broker.port, broker.context())
