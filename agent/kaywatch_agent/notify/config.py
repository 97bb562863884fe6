"""The configuration of receivers (`[receiver.NAME]`) and of the heartbeat."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.notify.chat_config import DiscordConfig, SlackConfig, TeamsConfig
from kaywatch_agent.notify.email_config import EmailConfig
from kaywatch_agent.notify.pager_config import OpsgenieConfig, PagerDutyConfig
from kaywatch_agent.notify.policy import Policy
from kaywatch_agent.notify.receiver_config import ReceiverConfig
from kaywatch_agent.notify.request_config import RequestConfig
from kaywatch_agent.notify.secret import Secret, section_with_secrets
from kaywatch_agent.rules.rule import Grouping
from kaywatch_agent.settings.reader import (
    Duration,
    ErrorCollector,
    check_link,
    check_url,
)
from kaywatch_agent.units import parse_duration

__all__ = [
    "AlertmanagerConfig",
    "AppriseConfig",
    "DiscordConfig",
    "EmailConfig",
    "HeartbeatConfig",
    "NotifyConfig",
    "OpsgenieConfig",
    "PagerDutyConfig",
    "ReceiverConfig",
    "SlackConfig",
    "TeamsConfig",
    "WebhookConfig",
    "parse",
    "parse_heartbeat",
    "policies",
]

# Monitors of heartbeats accept no shorter periods.
MIN_HEARTBEAT_SECONDS: Final = 1.0

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True, kw_only=True)
class WebhookConfig(ReceiverConfig):
    """A webhook: signed JSON, posted to a URL.

    Attributes:
        url: where to post.
        format: kaywatch's own body, or the body of an Alertmanager's webhook.
        secret: the key of the signature; for `standard`, `whsec_` and base64.
        signature: Standard Webhooks, GitHub's X-Hub-Signature-256, or none.
        external_url: the URL of this agent's page, for the format alertmanager.
    """

    max_alerts = 500

    url: Secret
    secret: Secret | None = None
    format: Literal["native", "alertmanager"] = "native"
    signature: Literal["standard", "github", "none"] = "none"
    external_url: str = ""

    def checks(self) -> list[Callable[[], None]]:
        """Return what validates the keys."""
        return [*super().checks(), self._check_signature, self._check_external_url]

    def _check_signature(self) -> None:
        if self.signature != "none" and self.secret is None:
            raise ConfigError(
                self.path + "secret",
                f"missing; the signature {self.signature} needs a secret_file",
            )
        if self.signature == "none" and self.secret is not None:
            text = 'requests are not signed; set signature = "standard" or "github"'
            raise ConfigError(self.secret.key, text)

    def _check_external_url(self) -> None:
        if self.external_url:
            check_link(self.path + "external_url", self.external_url)

    def urls_to_reach(self) -> Iterable[str]:
        """Return the webhook's URL."""
        return [self.url.read()]


@dataclass(frozen=True, kw_only=True)
class AlertmanagerConfig(ReceiverConfig):
    """An Alertmanager, or all peers of a cluster.

    Attributes:
        urls: the URLs of the peers; each receives every alert.
        resend_interval: how often firing alerts are sent again.
    """

    urls: tuple[str, ...] = ()
    resend_interval: Duration = "1m"

    def checks(self) -> list[Callable[[], None]]:
        """Return what validates the keys."""
        return [*super().checks(), self._check_urls, self._check_interval]

    def _check_urls(self) -> None:
        if not self.urls:
            raise ConfigError(
                self.path + "urls", 'missing; for example ["http://127.0.0.1:9093"]'
            )
        problems = ErrorCollector()
        for number, url in enumerate(self.urls):
            with problems.collect():
                check_url(f"{self.path}urls[{number}]", url)
        problems.raise_all()

    def _check_interval(self) -> None:
        if parse_duration(self.resend_interval) <= 0:
            text = f'"{self.resend_interval}": expected more than 0, such as "1m"'
            raise ConfigError(self.path + "resend_interval", text)

    def urls_to_reach(self) -> Iterable[str]:
        """Return the URLs of the peers, without the path of the API."""
        # Which is often pasted as well.
        return [url.rstrip("/").removesuffix("/api/v2/alerts") for url in self.urls]


@dataclass(frozen=True, kw_only=True)
class AppriseConfig(ReceiverConfig):
    """Any service that Apprise supports.

    Attributes:
        urls: one or more Apprise URLs, separated by spaces or lines.
    """

    urls: Secret

    def checks(self) -> list[Callable[[], None]]:
        """Return what validates the keys."""
        return [*super().checks(), self._reject_keys]

    def _reject_keys(self) -> None:
        self.reject_keys("Apprise", "headers", "proxy", "ca")

    def urls_to_reach(self) -> Iterable[str]:
        """Return none: only Apprise knows where its URLs lead."""
        return ()


@dataclass(frozen=True, kw_only=True)
class HeartbeatConfig(RequestConfig):
    """A URL that is pinged while the agent is healthy (`[heartbeat]`); none by default.

    Attributes:
        url: such as https://hc-ping.com/UUID; a secret.
        interval: how often to ping.
        method: the method of the requests, `POST`, `GET` or `HEAD`.
        fail: whether to ping `/fail` while the agent is unhealthy.
    """

    url: Secret | None = None
    interval: Duration = "60s"
    method: Literal["POST", "GET", "HEAD"] = "POST"
    fail: bool = True

    def __post_init__(self) -> None:
        problems = ErrorCollector()
        if parse_duration(self.interval) < MIN_HEARTBEAT_SECONDS:
            text = f'"{self.interval}": expected at least "1s", such as "60s"'
            problems.add(self.path + "interval", text)
        with problems.collect():
            self.check_requests()
        problems.raise_all()

    @property
    def path(self) -> str:
        """The prefix of its keys in error messages."""
        return "heartbeat."


TYPES: Final[dict[str, type[ReceiverConfig]]] = {
    "slack": SlackConfig,
    "teams": TeamsConfig,
    "discord": DiscordConfig,
    "email": EmailConfig,
    "pagerduty": PagerDutyConfig,
    "opsgenie": OpsgenieConfig,
    "webhook": WebhookConfig,
    "alertmanager": AlertmanagerConfig,
    "apprise": AppriseConfig,
}


@dataclass(frozen=True)
class NotifyConfig:
    """The receivers, and how they are notified.

    Attributes:
        receivers: by name.
        grouping: how alerts share messages.
        heartbeat: the URL that is pinged while the agent is healthy.
    """

    receivers: Mapping[str, ReceiverConfig] = field(default_factory=dict)
    grouping: Grouping = field(default_factory=Grouping)
    heartbeat: HeartbeatConfig = field(default_factory=HeartbeatConfig)

    @property
    def min_severity(self) -> dict[str, Severity]:
        """The lowest severity that each receiver is notified of."""
        return {name: config.min_severity for name, config in self.receivers.items()}


def parse(tables: Mapping[str, Any]) -> dict[str, ReceiverConfig]:
    """Return the receivers of the tables below `[receiver]`, by name.

    Raises:
        ConfigError: all errors, each with its key and the fix.
    """
    if not isinstance(tables, dict):
        raise ConfigError("receiver", f"expected a table [receiver], got {tables!r}")
    problems, configs = ErrorCollector(), dict[str, ReceiverConfig]()
    for name, table in tables.items():
        with problems.collect():
            configs[name] = _receiver(name, table)
    for config in configs.values():
        with problems.collect():
            _check_fallback(config, configs, tables)
    problems.raise_all()
    return configs


def parse_heartbeat(table: object) -> HeartbeatConfig:
    """Return the table `[heartbeat]`.

    Raises:
        ConfigError: all errors, each with its key.
    """
    if not isinstance(table, dict):
        raise ConfigError("heartbeat", f"expected a table [heartbeat], got {table!r}")
    return section_with_secrets(HeartbeatConfig, table, "heartbeat")


def policies(
    configs: Mapping[str, ReceiverConfig], grouping: Grouping
) -> dict[str, Policy]:
    """Return the policies of the receivers that the outbox serves.

    An Alertmanager is not one of them: it is sent the current alerts at an interval.
    """
    return {
        name: config.policy(grouping)
        for name, config in configs.items()
        if not isinstance(config, AlertmanagerConfig)
    }


# -- inside --------------------------------------------------------------------------


def _receiver(name: str, table: Any) -> ReceiverConfig:
    path = f"receiver.{name}"
    if not _NAME.fullmatch(name):
        allowed = "up to 100 letters, digits, and _ . -"
        raise ConfigError(path, f"invalid name: expected {allowed}")
    if not isinstance(table, dict):
        raise ConfigError(path, f"expected a table [{path}], got {table!r}")
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        allowed = ", ".join(TYPES)
        text = f"{kind!r} is not one of" if "type" in table else "missing; expected"
        raise ConfigError(f"{path}.type", f"{text} {allowed}")
    if "name" in table:
        raise ConfigError(
            f"{path}.name", f"unknown key; [{path}] already names the receiver"
        )
    return section_with_secrets(TYPES[kind], {**table, "name": name}, path)


def _check_fallback(
    config: ReceiverConfig,
    configs: Mapping[str, ReceiverConfig],
    names: Collection[str],
) -> None:
    key, fallback = config.path + "fallback", config.fallback
    if not fallback:
        return
    others = [name for name in names if name != config.name]
    if fallback not in others:
        allowed = ", ".join(others) or "none is configured"
        raise ConfigError(key, f"{fallback!r} is not another receiver ({allowed})")
    if isinstance(configs.get(fallback), AlertmanagerConfig):
        raise ConfigError(
            key, f"{fallback!r} is an Alertmanager, which receives all alerts anyway"
        )
