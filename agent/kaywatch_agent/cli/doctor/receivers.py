"""Whether receivers can be reached. Nothing is sent, and nobody is told anything.

Strategy: look up the host, connect, shake hands where it is TLS, and hang up before any
request. Of an Alertmanager `/-/ready` is read, which is there for that.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from kaywatch_agent.cli.doctor.finding import (
    Findings,
    Verdict,
    ok,
    problem,
    unchecked,
    worst,
)
from kaywatch_agent.cli.doctor.ground import Ground
from kaywatch_agent.cli.doctor.reach import CONNECT_SECONDS, reach, words
from kaywatch_agent.cli.doctor.secrets import unread
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config import (
    AlertmanagerConfig,
    AppriseConfig,
    PagerDutyConfig,
    ReceiverConfig,
    SlackConfig,
)
from kaywatch_agent.notify.http import NoAnswer, check_address, check_url, redacted

__all__ = ["CHECKS"]

AT_ONCE: Final = 8


class Target(NamedTuple):
    """Where something is sent to.

    Attributes:
        name: of the receiver.
        url: a secret.
        ready: the path that says whether it is well; empty for none.
    """

    name: str
    url: str
    ready: str = ""


def reached(ground: Ground) -> Findings:
    """Each receiver, and the heartbeat, can be reached."""
    targets: list[Target] = []
    for name, config in ground.config.notify.receivers.items():
        try:
            targets += _targets(f"receiver.{name}", config)
        except ConfigError as error:
            yield unread(str(error))
            continue
        if isinstance(config, AppriseConfig):
            yield unchecked(
                f"receiver.{name}", "Apprise can only be tried by sending something"
            )
    try:
        heartbeat = ground.config.notify.heartbeat.target()
        if heartbeat is not None:
            targets.append(Target("heartbeat", heartbeat.read()))
    except ConfigError as error:
        yield unread(str(error))
    with ThreadPoolExecutor(AT_ONCE, "doctor receiver") as pool:
        for findings in pool.map(lambda target: list(_reached(target)), targets):
            yield from findings


def delivered(ground: Ground) -> Findings:
    """What the agent has to say of them."""
    found = ground.get("/api/v1/receivers")
    for receiver in found["receivers"] if found else ():
        name = f"receiver.{receiver['name']}"
        if receiver["disabled"]:
            yield problem(
                f"{name} is disabled: it answered 410, gone",
                "mend its URL, and reload the configuration",
            )
        elif not receiver["up"]:
            yield problem(f"{name} is down: {receiver['error']}", _TRY)
        if receiver["dead"]:
            yield problem(
                f"{name}: {receiver['dead']} messages could not be delivered",
                "kaywatch outbox list --status dead; then outbox retry or purge",
            )


_TRY: Final = "kaywatch notify test NAME, once it should work"


def _targets(name: str, config: ReceiverConfig) -> Iterator[Target]:
    for secret in config.secrets:
        found = config.find(secret)
        value = found.read() if found is not None else ""
        if secret in ("webhook_url", "url") and value:
            yield Target(name, value)
    if isinstance(config, PagerDutyConfig):
        yield Target(name, config.base_url)
    elif isinstance(config, SlackConfig) and config.bot:
        yield Target(name, config.url)
    elif isinstance(config, AlertmanagerConfig):
        for url in config.urls:
            yield Target(name, url, "/-/ready")


def _reached(target: Target) -> Findings:
    where = f"{target.name} ({redacted(target.url)})"
    try:
        check_url(target.url)
        parts = urlsplit(target.url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
    except (NoAnswer, ValueError) as error:
        yield problem(f"{where}: {error}", "correct its URL")
        return
    context = ssl.create_default_context() if secure else None
    found = list(
        reach(where, parts.hostname or "", port, context=context, allow=_allowed)
    )
    yield from found
    if target.ready and worst(found) is not Verdict.PROBLEM:
        yield from _ready(target)


def _allowed(address: str) -> None:
    check_address(address, private=True)


def _ready(target: Target) -> Findings:
    parts = urlsplit(target.url)
    kind = (
        http.client.HTTPSConnection
        if parts.scheme == "https"
        else http.client.HTTPConnection
    )
    connection = kind(parts.hostname or "", parts.port, timeout=CONNECT_SECONDS)
    where = f"{target.name} ({redacted(target.url)})"
    try:
        connection.request("GET", parts.path.rstrip("/") + target.ready)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        yield problem(f"{where}: no answer: {words(error)}", "is it an Alertmanager?")
        return
    finally:
        connection.close()
    if status == http.HTTPStatus.OK:
        yield ok(f"{where}: says that it is ready")
    else:
        yield problem(
            f"{where}: {target.ready} answers {status}", "is it an Alertmanager?"
        )


CHECKS: Final = (reached, delivered)
