"""The configuration of receivers (`[receiver.NAME]`) and of the heartbeat."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.notify.policy import FollowUp, Policy, parse_rate
from kaywatch_agent.notify.request_config import RequestConfig
from kaywatch_agent.notify.secret import Secret, secret_names, section_with_secrets
from kaywatch_agent.rules.rule import Grouping
from kaywatch_agent.settings.reader import Duration, ErrorCollector, Unit, check_url
from kaywatch_agent.units import parse_duration

__all__ = [
    "AlertmanagerConfig",
    "AppriseConfig",
    "HeartbeatConfig",
    "NotifyConfig",
    "PagerDutyConfig",
    "ReceiverConfig",
    "SlackConfig",
    "WebhookConfig",
    "parse",
    "parse_heartbeat",
    "policies",
]

PAGERDUTY_URLS: Final = {
    "us": "https://events.pagerduty.com",
    "eu": "https://events.eu.pagerduty.com",
}
RateText = Annotated[str, Unit("rate", parse_rate)]

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True, kw_only=True)
class ReceiverConfig(RequestConfig):
    """The keys that all receivers have.

    Attributes:
        type: `slack`, `pagerduty`, `webhook`, `alertmanager` or `apprise`.
        min_severity: less severe alerts are not sent; resolves always are.
        rate: at most this many messages per time, such as `60/m`.
        max_age: how long delivery of a message is retried.
        max_attempts: how often delivery of a message is tried.
        fallback: the receiver to notify when this one cannot be reached.
        error_text: whether to show the text of the last error, besides its type.
    """

    grouped: ClassVar[bool] = True
    max_alerts: ClassVar[int] = 10

    name: str = field(default="", repr=False)
    type: str = ""
    min_severity: Severity = "info"
    rate: RateText = "60/m"
    max_age: Duration = "24h"
    max_attempts: int = 1_000
    fallback: str = ""
    error_text: bool = True

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(
                self.path + "max_attempts", f"{self.max_attempts}: expected at least 1"
            )
        self.check_requests()

    @property
    def path(self) -> str:
        """The prefix of its keys in error messages."""
        return f"receiver.{self.name}."

    @property
    def follow_up(self) -> FollowUp:
        """How later messages relate to the first one about an alert."""
        return "post"

    def secrets(self) -> dict[str, Secret]:
        """Return the secrets that are set, by name."""
        values = {name: getattr(self, name) for name in secret_names(type(self))}
        return {name: value for name, value in values.items() if value is not None}

    def policy(self, grouping: Grouping) -> Policy:
        """Return the part of the configuration that the outbox needs."""
        return Policy(
            grouped=self.grouped,
            **dataclasses.asdict(grouping),
            max_alerts=self.max_alerts,
            max_age=parse_duration(self.max_age),
            max_attempts=self.max_attempts,
            rate=parse_rate(self.rate),
            min_severity=self.min_severity,
            fallback=self.fallback,
            error_text=self.error_text,
            follow_up=self.follow_up,
        )


@dataclass(frozen=True, kw_only=True)
class SlackConfig(ReceiverConfig):
    """Slack: an incoming webhook, or a bot.

    Attributes:
        webhook_url: the URL of the incoming webhook.
        bot_token: the token of a bot with the scope chat:write.
        channel: where the bot posts.
        mode: whether a resolve updates the message, replies to it, or is a new message.
        url: the base URL of Slack's Web API.
    """

    rate: RateText = "1/s"
    webhook_url: Secret | None = None
    bot_token: Secret | None = None
    channel: str = ""
    mode: FollowUp = "update"
    url: str = "https://slack.com/api"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.credential()
        if self.bot_token is not None and self.webhook_url is not None:
            raise ConfigError(
                self.bot_token.key, "set either bot_token or webhook_url, not both"
            )
        if self.bot_token is not None and not self.channel:
            raise ConfigError(
                self.path + "channel",
                'missing; a bot needs a channel such as "#alerts"',
            )
        check_url(self.path + "url", self.url)

    def credential(self) -> Secret:
        """Return the bot's token, or the webhook's URL."""
        secret = self.bot_token or self.webhook_url
        if secret is None:
            raise ConfigError(
                self.path + "webhook_url",
                "missing; set webhook_url_file, or bot_token_file and channel",
            )
        return secret

    @property
    def follow_up(self) -> FollowUp:
        """Only a bot can update its messages or reply to them."""
        return self.mode if self.bot_token is not None else "post"


@dataclass(frozen=True, kw_only=True)
class PagerDutyConfig(ReceiverConfig):
    """PagerDuty: Events API v2.

    Attributes:
        routing_key: the integration key of a service or a ruleset.
        region: the region of the account.
        url: overrides the region's URL.
        resolve_on_no_data: whether an alert whose data stopped resolves its incident;
            otherwise the incident stays open with `NO DATA`.
    """

    grouped = False

    # PagerDuty accepts 120 a minute for each integration key.
    rate: RateText = "100/m"
    routing_key: Secret
    region: Literal["us", "eu"] = "us"
    url: str = ""
    resolve_on_no_data: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url(self.path + "url", self.base_url)

    @property
    def base_url(self) -> str:
        """The URL that events are sent to, without the path."""
        url = self.url or PAGERDUTY_URLS[self.region]
        # PagerDuty's pages show the whole URL, which is then pasted.
        return url.rstrip("/").removesuffix("/v2/enqueue")


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.signature != "none" and self.secret is None:
            raise ConfigError(
                self.path + "secret",
                f"missing; the signature {self.signature} needs a secret_file",
            )


@dataclass(frozen=True, kw_only=True)
class AlertmanagerConfig(ReceiverConfig):
    """An Alertmanager, or all peers of a cluster.

    Attributes:
        urls: the URLs of the peers; each receives every alert.
        resend_interval: how often firing alerts are sent again.
    """

    urls: tuple[str, ...] = ()
    resend_interval: Duration = "1m"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.urls:
            raise ConfigError(
                self.path + "urls", 'missing; for example ["http://127.0.0.1:9093"]'
            )
        for url in self.urls:
            check_url(self.path + "urls", url)


@dataclass(frozen=True, kw_only=True)
class AppriseConfig(ReceiverConfig):
    """Any service that Apprise supports.

    Attributes:
        urls: one or more Apprise URLs, separated by spaces or lines.
    """

    urls: Secret

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("headers", "proxy", "ca"):
            if getattr(self, name):
                raise ConfigError(
                    self.path + name, "Apprise does not support this key; remove it"
                )


@dataclass(frozen=True, kw_only=True)
class HeartbeatConfig(RequestConfig):
    """A URL that is pinged while the agent is healthy (`[heartbeat]`); none by default.

    Attributes:
        url: such as https://hc-ping.com/UUID; a secret.
        interval: how often to ping.
        method: of the requests, `POST`, `GET` or `HEAD`.
        fail: whether to ping `/fail` while the agent is unhealthy.
    """

    url: Secret | None = None
    interval: Duration = "60s"
    method: Literal["POST", "GET", "HEAD"] = "POST"
    fail: bool = True

    def __post_init__(self) -> None:
        self.check_requests()

    @property
    def path(self) -> str:
        """The prefix of its keys in error messages."""
        return "heartbeat."


TYPES: Final[dict[str, type[ReceiverConfig]]] = {
    "slack": SlackConfig,
    "pagerduty": PagerDutyConfig,
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
    problems.raise_all()
    for config in configs.values():
        with problems.collect():
            _check_fallback(config, configs)
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
        raise ConfigError(f"{path}.type", f"{kind!r} is not one of {allowed}")
    if "name" in table:
        raise ConfigError(
            f"{path}.name", f"unknown key; [{path}] already names the receiver"
        )
    return section_with_secrets(TYPES[kind], {**table, "name": name}, path)


def _check_fallback(
    config: ReceiverConfig, configs: Mapping[str, ReceiverConfig]
) -> None:
    key, fallback = config.path + "fallback", config.fallback
    if not fallback:
        return
    others = [name for name in configs if name != config.name]
    if fallback not in others:
        allowed = ", ".join(others) or "none is configured"
        raise ConfigError(key, f"{fallback!r} is not another receiver ({allowed})")
    if isinstance(configs[fallback], AlertmanagerConfig):
        raise ConfigError(
            key, f"{fallback!r} is an Alertmanager, which receives all alerts anyway"
        )
