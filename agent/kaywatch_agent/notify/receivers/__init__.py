"""The receivers: each formats a notification, sends it, and judges the response."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from kaywatch_agent.notify.config import (
    AlertmanagerConfig,
    AppriseConfig,
    DiscordConfig,
    EmailConfig,
    OpsgenieConfig,
    PagerDutyConfig,
    ReceiverConfig,
    SlackConfig,
    TeamsConfig,
    WebhookConfig,
)
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.notify.receivers.apprise import Apprise
from kaywatch_agent.notify.receivers.discord import Discord
from kaywatch_agent.notify.receivers.email import Email
from kaywatch_agent.notify.receivers.opsgenie import Opsgenie
from kaywatch_agent.notify.receivers.pagerduty import PagerDuty
from kaywatch_agent.notify.receivers.slack import Slack
from kaywatch_agent.notify.receivers.teams import Teams
from kaywatch_agent.notify.receivers.webhook import Webhook
from kaywatch_agent.notify.worker import Receiver

__all__ = ["CLASSES", "build"]

CLASSES: Final[Mapping[type[ReceiverConfig], Callable[[Any, HttpClient], Receiver]]] = {
    SlackConfig: Slack,
    TeamsConfig: Teams,
    DiscordConfig: Discord,
    EmailConfig: lambda config, _: Email(config),
    PagerDutyConfig: PagerDuty,
    OpsgenieConfig: Opsgenie,
    WebhookConfig: Webhook,
    AppriseConfig: lambda config, _: Apprise(config),
}


def build(
    configs: Mapping[str, ReceiverConfig], http: HttpClient
) -> dict[str, Receiver]:
    """Return the receivers that the outbox serves, by name."""
    return {
        name: CLASSES[type(config)](config, http)
        for name, config in configs.items()
        # An AlertmanagerSender sends to these.
        if not isinstance(config, AlertmanagerConfig)
    }
