"""The configuration of receivers that page: an incident for each alert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from kaywatch_agent.notify.receiver_config import RateText, ReceiverConfig
from kaywatch_agent.notify.secret import Secret
from kaywatch_agent.settings.reader import check_url

__all__ = ["OpsgenieConfig", "PagerDutyConfig"]

PAGERDUTY_URLS: Final = {
    "us": "https://events.pagerduty.com",
    "eu": "https://events.eu.pagerduty.com",
}
OPSGENIE_URLS: Final = {
    "us": "https://api.opsgenie.com",
    "eu": "https://api.eu.opsgenie.com",
}


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
class OpsgenieConfig(ReceiverConfig):
    """Opsgenie, or Jira Service Management: the Alert API.

    Attributes:
        api_key: the key of an integration of type API.
        region: the region of the account.
        url: overrides the region's URL, such as
            `https://api.atlassian.com/jsm/ops/integration` for Jira Service Management.
        tags: tags of each alert, besides its severity and its labels.
        resolve_on_no_data: whether an alert whose data stopped is closed; otherwise it
            stays open with `NO DATA`.
    """

    grouped = False

    api_key: Secret
    region: Literal["us", "eu"] = "us"
    url: str = ""
    tags: tuple[str, ...] = ()
    resolve_on_no_data: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url(self.path + "url", self.base_url)

    @property
    def base_url(self) -> str:
        """The URL that requests are sent to, without the path."""
        url = self.url or OPSGENIE_URLS[self.region]
        # Their pages show the whole URL, which is then pasted.
        return url.rstrip("/").removesuffix("/v2/alerts")
