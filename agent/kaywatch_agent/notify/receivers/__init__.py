"""The receivers: each formats a notification, sends it, and judges the response."""

from __future__ import annotations

from collections.abc import Mapping

from kaywatch_agent.notify.config import (
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

__all__ = ["build"]


def build(
    configs: Mapping[str, ReceiverConfig], http: HttpClient
) -> dict[str, Receiver]:
    """Return the receivers that the outbox serves, by name."""
    receivers: dict[str, Receiver] = {}
    for name, config in configs.items():
        match config:
            case SlackConfig():
                receivers[name] = Slack(config, http)
            case TeamsConfig():
                receivers[name] = Teams(config, http)
            case DiscordConfig():
                receivers[name] = Discord(config, http)
            case EmailConfig():
                receivers[name] = Email(config)
            case PagerDutyConfig():
                receivers[name] = PagerDuty(config, http)
            case OpsgenieConfig():
                receivers[name] = Opsgenie(config, http)
            case WebhookConfig():
                receivers[name] = Webhook(config, http)
            case AppriseConfig():
                receivers[name] = Apprise(config)
            case _:  # an Alertmanager is served by an AlertmanagerSender
                pass
    return receivers
