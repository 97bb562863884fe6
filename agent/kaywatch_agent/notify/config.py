"""What can be set of receivers (`[receiver.NAME]`) and of the heartbeat."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.notify.policy import FollowUp, Policy, parse_rate
from kaywatch_agent.notify.secret import SOURCES, Secret, secret
from kaywatch_agent.rules.rule import Grouping
from kaywatch_agent.settings.reader import Duration, Problems, Unit, section
from kaywatch_agent.units import parse_duration

__all__ = [
    "AlertmanagerConfig",
    "AppriseConfig",
    "HeartbeatConfig",
    "PagerDutyConfig",
    "ReceiverConfig",
    "SlackConfig",
    "WebhookConfig",
    "check",
    "parse",
    "policies",
    "warnings",
]

PAGERDUTY_URLS: Final = {
    "us": "https://events.pagerduty.com",
    "eu": "https://events.eu.pagerduty.com",
}
RateText = Annotated[str, Unit("rate", parse_rate)]

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True, kw_only=True)
class ReceiverConfig:
    """What all receivers have.

    Attributes:
        type: `slack`, `pagerduty`, `webhook`, `alertmanager` or `apprise`.
        min_severity: triggers below it are not sent; resolves always are.
        rate: how many messages in which time, such as `60/m`.
        max_age: when an undelivered message is given up.
        fallback: the receiver that is told when this one can't be.
    """

    secrets: ClassVar[tuple[str, ...]] = ()
    grouped: ClassVar[bool] = True
    max_alerts: ClassVar[int] = 10
    follow_up: ClassVar[FollowUp] = "post"

    name: str = field(default="", repr=False)
    type: str = ""
    min_severity: Severity = "info"
    rate: RateText = "60/m"
    max_age: Duration = "24h"
    fallback: str = ""

    def __post_init__(self) -> None:
        for name in self.secrets:
            self.find(name)
        self.validate()

    @property
    def path(self) -> str:
        """What its keys begin with in a complaint."""
        return f"receiver.{self.name}."

    def validate(self) -> None:
        """Raise ConfigError for what doesn't go together."""

    def find(self, name: str) -> Secret | None:
        """Return one of its secrets, if it is given."""
        values = {name + s: getattr(self, name + s) for s in SOURCES}
        return secret(self.path, name, values)

    def need(self, name: str) -> Secret:
        """Return a secret that there has to be."""
        found = self.find(name)
        if found is None:
            ways = ", ".join(name + source for source in SOURCES[1:])
            raise ConfigError(self.path + name, f"missing; give one of {ways}")
        return found

    def policy(self, grouping: Grouping) -> Policy:
        """Return what the outbox has to know."""
        return Policy(
            grouped=self.grouped,
            **dataclasses.asdict(grouping),
            max_alerts=self.max_alerts,
            max_age=parse_duration(self.max_age),
            rate=parse_rate(self.rate),
            min_severity=self.min_severity,
            fallback=self.fallback,
            follow_up=self.follow_up,
        )


def _secret() -> str:
    value: str = field(default="", repr=False)
    return value


@dataclass(frozen=True, kw_only=True)
class SlackConfig(ReceiverConfig):
    """Slack: an incoming webhook, or a bot.

    Attributes:
        webhook_url: of the incoming webhook.
        bot_token: of a bot with the scope chat:write.
        channel: where the bot posts.
        mode: whether a resolve changes the message, answers to it, or is a new one.
        url: of Slack's Web API.
    """

    secrets = ("webhook_url", "bot_token")

    rate: RateText = "1/s"
    webhook_url: str = _secret()
    webhook_url_file: str = ""
    webhook_url_env: str = ""
    webhook_url_credential: str = ""
    bot_token: str = _secret()
    bot_token_file: str = ""
    bot_token_env: str = ""
    bot_token_credential: str = ""
    channel: str = ""
    mode: FollowUp = "update"
    url: str = "https://slack.com/api"

    @property
    def bot(self) -> bool:
        """Whether it is a bot that posts."""
        return self.find("bot_token") is not None

    def validate(self) -> None:
        """A webhook or a bot, and the bot has a channel."""
        if self.bot and self.find("webhook_url") is not None:
            raise ConfigError(
                self.path + "bot_token", "there is a webhook_url, too; give one of them"
            )
        if not self.bot:
            self.need("webhook_url")
        elif not self.channel:
            raise ConfigError(self.path + "channel", "missing; a bot needs one")
        _check_url(self.path + "url", self.url)

    def policy(self, grouping: Grouping) -> Policy:
        """Only a bot can go on from a message."""
        policy = super().policy(grouping)
        return dataclasses.replace(policy, follow_up=self.mode) if self.bot else policy


@dataclass(frozen=True, kw_only=True)
class PagerDutyConfig(ReceiverConfig):
    """PagerDuty: Events API v2.

    Attributes:
        routing_key: the integration key of a service, or of a ruleset.
        region: where the account is.
        url: instead of the region's.
    """

    secrets = ("routing_key",)
    grouped = False

    # 120 a minute are allowed, by integration key.
    rate: RateText = "100/m"
    routing_key: str = _secret()
    routing_key_file: str = ""
    routing_key_env: str = ""
    routing_key_credential: str = ""
    region: Literal["us", "eu"] = "us"
    url: str = ""

    def validate(self) -> None:
        """There has to be a key."""
        self.need("routing_key")
        _check_url(self.path + "url", self.base_url)

    @property
    def base_url(self) -> str:
        """Where events go."""
        return self.url or PAGERDUTY_URLS[self.region]


@dataclass(frozen=True, kw_only=True)
class WebhookConfig(ReceiverConfig):
    """A webhook: JSON to a URL, signed.

    Attributes:
        url: where it goes.
        format: our own body, or the one that an Alertmanager sends.
        secret: what it is signed with; for `standard`, `whsec_` and base64.
        signature: Standard Webhooks, GitHub's X-Hub-Signature-256, or none.
        external_url: of this agent's page, for the format alertmanager.
    """

    secrets = ("url", "secret")
    max_alerts = 500

    url: str = _secret()
    url_file: str = ""
    url_env: str = ""
    url_credential: str = ""
    secret: str = _secret()
    secret_file: str = ""
    secret_env: str = ""
    secret_credential: str = ""
    format: Literal["native", "alertmanager"] = "native"
    signature: Literal["standard", "github", "none"] = "none"
    external_url: str = ""

    def validate(self) -> None:
        """There has to be a URL, and for a signature a secret."""
        self.need("url")
        if self.signature != "none":
            self.need("secret")


@dataclass(frozen=True, kw_only=True)
class AlertmanagerConfig(ReceiverConfig):
    """An Alertmanager, or all peers of its cluster.

    Attributes:
        urls: of the peers; all get everything.
        resend_interval: how often they are told what fires.
    """

    urls: tuple[str, ...] = ()
    resend_interval: Duration = "1m"

    def validate(self) -> None:
        """There has to be a peer."""
        if not self.urls:
            raise ConfigError(
                self.path + "urls", 'missing; such as ["http://127.0.0.1:9093"]'
            )
        for url in self.urls:
            _check_url(self.path + "urls", url)


@dataclass(frozen=True, kw_only=True)
class AppriseConfig(ReceiverConfig):
    """Whatever Apprise can reach.

    Attributes:
        urls: one or more of its URLs, one a line; each is a secret.
    """

    secrets = ("urls",)

    urls: str = _secret()
    urls_file: str = ""
    urls_env: str = ""
    urls_credential: str = ""

    def validate(self) -> None:
        """There has to be a URL."""
        self.need("urls")


@dataclass(frozen=True, kw_only=True)
class HeartbeatConfig:
    """A URL that is pinged while all is well (`[heartbeat]`); none by default.

    Attributes:
        url: such as https://hc-ping.com/UUID; a secret.
        interval: how often.
        fail: whether `/fail` is pinged when all is not well.
    """

    url: str = _secret()
    url_file: str = ""
    url_env: str = ""
    url_credential: str = ""
    interval: Duration = "60s"
    fail: bool = True

    def __post_init__(self) -> None:
        self.target()

    def target(self) -> Secret | None:
        """Return the URL, if there is one."""
        values = {"url" + s: getattr(self, "url" + s) for s in SOURCES}
        return secret("heartbeat.", "url", values)


TYPES: Final[dict[str, type[ReceiverConfig]]] = {
    "slack": SlackConfig,
    "pagerduty": PagerDutyConfig,
    "webhook": WebhookConfig,
    "alertmanager": AlertmanagerConfig,
    "apprise": AppriseConfig,
}


def parse(tables: Mapping[str, Any]) -> dict[str, ReceiverConfig]:
    """Return the receivers that the tables below `[receiver]` are, by name.

    Raises:
        ConfigError: naming the key and the fix.
    """
    if not isinstance(tables, dict):
        raise ConfigError("receiver", f"expected a table [receiver], got {tables!r}")
    problems, found = Problems(), dict[str, ReceiverConfig]()
    for name, table in tables.items():
        with problems.caught():
            found[name] = _receiver(name, table)
    problems.check()
    for name, config in found.items():
        with problems.caught():
            _check_fallback(name, config, found)
    problems.check()
    return found


def check(configs: Mapping[str, ReceiverConfig]) -> None:
    """Read every secret once, to complain at the start rather than at 3 a.m.

    Raises:
        ConfigError: one can't be read.
    """
    for config in configs.values():
        for found in filter(None, map(config.find, config.secrets)):
            found.read()


def warnings(configs: Mapping[str, ReceiverConfig]) -> list[str]:
    """Return what is allowed and yet not wise."""
    return [
        f"{found.key}: a secret in the configuration file; {name}_file is safer"
        for config in configs.values()
        for name in config.secrets
        if (found := config.find(name)) is not None and found.inline
    ]


def policies(
    configs: Mapping[str, ReceiverConfig], grouping: Grouping
) -> dict[str, Policy]:
    """Return what the outbox has to know, of the receivers that it serves.

    An Alertmanager is told what is, again and again, rather than what happened.
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
        raise ConfigError(path, "a name has letters, digits and _.- only")
    if not isinstance(table, dict):
        raise ConfigError(path, f"expected a table [{path}]")
    chosen = table.get("type")
    if not isinstance(chosen, str) or chosen not in TYPES:
        allowed = ", ".join(TYPES)
        raise ConfigError(f"{path}.type", f"{chosen!r} is not one of {allowed}")
    kind = TYPES[chosen]
    if "name" in table:
        raise ConfigError(f"{path}.name", "unknown key; the table's name is it")
    _check_secrets(path, kind.secrets, table)
    return section(kind, {**table, "name": name}, path)


def _check_secrets(path: str, names: Sequence[str], table: Mapping[str, Any]) -> None:
    """Complain of a secret of another type here, where it isn't quoted."""
    for name in names:
        if name in table and not isinstance(table[name], str):
            raise ConfigError(f"{path}.{name}", "expected a string")


def _check_fallback(
    name: str, config: ReceiverConfig, found: Mapping[str, ReceiverConfig]
) -> None:
    key, fallback = f"receiver.{name}.fallback", config.fallback
    if not fallback:
        return
    if fallback == name or fallback not in found:
        others = ", ".join(other for other in found if other != name) or "none"
        raise ConfigError(key, f"{fallback!r} is no other receiver (there: {others})")
    if isinstance(found[fallback], AlertmanagerConfig):
        raise ConfigError(key, "an alertmanager gets all alerts anyway")


def _check_url(key: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(key, "expected a URL with http or https")
