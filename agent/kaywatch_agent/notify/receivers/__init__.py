"""The receivers: each renders a request, sends it, and classifies the answer."""

from __future__ import annotations

from collections.abc import Mapping

from kaywatch_agent.notify.config import (
    AppriseConfig,
    PagerDutyConfig,
    ReceiverConfig,
    SlackConfig,
    WebhookConfig,
)
from kaywatch_agent.notify.http import Http
from kaywatch_agent.notify.receivers.apprise import Apprise
from kaywatch_agent.notify.receivers.pagerduty import PagerDuty
from kaywatch_agent.notify.receivers.slack import Slack
from kaywatch_agent.notify.receivers.webhook import Webhook
from kaywatch_agent.notify.worker import Receiver

__all__ = ["build"]


def build(configs: Mapping[str, ReceiverConfig], http: Http) -> dict[str, Receiver]:
    """Return the receivers that messages are sent to, by name."""
    found: dict[str, Receiver] = {}
    for name, config in configs.items():
        match config:
            case SlackConfig():
                found[name] = Slack(config, http)
            case PagerDutyConfig():
                found[name] = PagerDuty(config, http)
            case WebhookConfig():
                found[name] = Webhook(config, http)
            case AppriseConfig():
                found[name] = Apprise(config)
            case _:  # an Alertmanager has a Resender
                pass
    return found
