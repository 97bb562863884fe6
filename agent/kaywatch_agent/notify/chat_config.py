"""The configuration of receivers that post to channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.policy import FollowUp
from kaywatch_agent.notify.receiver_config import RateText, ReceiverConfig
from kaywatch_agent.notify.secret import Secret
from kaywatch_agent.settings.reader import check_url

__all__ = ["DiscordConfig", "SlackConfig", "TeamsConfig"]


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

    def checks(self) -> list[Callable[[], None]]:
        """Return what validates the keys."""
        return [*super().checks(), self._check_url, self._check_account]

    def credential(self) -> Secret:
        """Return the bot's token, or the webhook's URL."""
        secret = self.bot_token or self.webhook_url
        if secret is None:
            raise ConfigError(
                self.path + "webhook_url",
                "missing; set webhook_url_file, or bot_token_file and channel",
            )
        return secret

    def _check_url(self) -> None:
        check_url(self.path + "url", self.url)

    def _check_account(self) -> None:
        self.credential()
        if self.bot_token is None:
            fixed = "a webhook has a channel of its own; remove it, or set bot_token"
            if self.channel:
                raise ConfigError(self.path + "channel", fixed)
            if self.mode == "thread":
                text = '"thread": a webhook cannot reply; remove it, or set bot_token'
                raise ConfigError(self.path + "mode", text)
        elif self.webhook_url is not None:
            raise ConfigError(
                self.bot_token.key, "set either bot_token or webhook_url, not both"
            )
        elif not self.channel:
            raise ConfigError(
                self.path + "channel",
                'missing; a bot needs a channel such as "#alerts"',
            )

    def urls_to_reach(self) -> Iterable[str]:
        """Return the URL of Slack's Web API, or the webhook's."""
        return [self.credential().read() if self.bot_token is None else self.url]

    @property
    def follow_up(self) -> FollowUp:
        """Only a bot can update its messages or reply to them."""
        return self.mode if self.bot_token is not None else "post"


@dataclass(frozen=True, kw_only=True)
class TeamsConfig(ReceiverConfig):
    """Microsoft Teams: a workflow that posts to a channel or a chat.

    Attributes:
        webhook_url: the URL of the workflow.
    """

    rate: RateText = "30/m"
    webhook_url: Secret

    def urls_to_reach(self) -> Iterable[str]:
        """Return the workflow's URL."""
        return [self.webhook_url.read()]


@dataclass(frozen=True, kw_only=True)
class DiscordConfig(ReceiverConfig):
    """Discord: a webhook of a channel.

    Attributes:
        webhook_url: the URL of the webhook.
        mode: whether a resolve updates the message, or is a new message.
    """

    # Discord accepts 30 a minute in one channel.
    rate: RateText = "30/m"
    webhook_url: Secret
    mode: Literal["update", "post"] = "update"

    def urls_to_reach(self) -> Iterable[str]:
        """Return the webhook's URL."""
        return [self.webhook_url.read()]

    @property
    def follow_up(self) -> FollowUp:
        """Whether a resolve updates the message."""
        return self.mode
