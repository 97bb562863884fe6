"""The keys that all receivers have."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.notify.policy import FollowUp, Policy, parse_rate
from kaywatch_agent.notify.request_config import RequestConfig
from kaywatch_agent.notify.secret import Secret, secret_names
from kaywatch_agent.rules.rule import Grouping
from kaywatch_agent.settings.reader import Duration, ErrorCollector, Unit
from kaywatch_agent.units import parse_duration

__all__ = ["RateText", "ReceiverConfig"]

RateText = Annotated[str, Unit("rate", parse_rate)]


@dataclass(frozen=True, kw_only=True)
class ReceiverConfig(RequestConfig, ABC):
    """The keys that all receivers have.

    Attributes:
        type: `slack`, `teams`, `discord`, `email`, `pagerduty`, `opsgenie`, `webhook`,
            `alertmanager` or `apprise`.
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
        problems = ErrorCollector()
        for check in self.checks():
            with problems.collect():
                check()
        problems.raise_all()

    def checks(self) -> list[Callable[[], None]]:
        """Return what validates the keys; each raises ConfigError."""
        return [self._check_limits, self.check_requests]

    @property
    def path(self) -> str:
        """The prefix of its keys in error messages."""
        return f"receiver.{self.name}."

    @property
    def follow_up(self) -> FollowUp:
        """How later messages relate to the first one about an alert."""
        return "post"

    @abstractmethod
    def urls_to_reach(self) -> Iterable[str]:
        """Return the URLs that it sends requests to; they may be secrets.

        Raises:
            ConfigError: a secret cannot be read.
        """

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

    def reject_keys(self, service: str, *names: str) -> None:
        """Raise ConfigError for keys that are set, but that a service cannot use."""
        problems = ErrorCollector()
        for name in names:
            if getattr(self, name):
                text = f"{service} does not support this key; remove it"
                problems.add(self.path + name, text)
        problems.raise_all()

    def _check_limits(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(
                self.path + "max_attempts", f"{self.max_attempts}: expected at least 1"
            )
        if parse_duration(self.max_age) <= 0:
            text = f'"{self.max_age}": expected more than 0, such as "24h"'
            raise ConfigError(self.path + "max_age", text)
