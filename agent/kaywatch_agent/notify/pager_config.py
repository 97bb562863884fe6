"""The configuration of receivers that page: an incident for each alert."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal
from urllib.parse import urlsplit

from kaywatch_agent.errors import ConfigError
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
class _RegionalConfig(ReceiverConfig):
    """A service with a URL for each region of accounts.

    Attributes:
        region: the region of the account.
        url: overrides the region's URL.
    """

    grouped = False

    region_urls: ClassVar[Mapping[str, str]]
    domain: ClassVar[str]  # of all of the service's hosts
    # Its pages show URLs with this path, which are then pasted.
    path_of_requests: ClassVar[str]

    region: Literal["us", "eu"] = "us"
    url: str = ""

    def checks(self) -> list[Callable[[], None]]:
        """Return what validates the keys."""
        return [*super().checks(), self._check_url]

    @property
    def base_url(self) -> str:
        """The URL that requests are sent to, without the path."""
        url = self.url or self.region_urls[self.region]
        return url.rstrip("/").removesuffix(self.path_of_requests)

    def _check_url(self) -> None:
        check_url(self.path + "url", self.base_url)
        host = urlsplit(self.base_url).hostname or ""
        # A proxy may have any path; that of the service is known.
        if f".{host}".endswith(self.domain) and not self._is_own_url():
            text = f"expected {self.region_urls[self.region]}{self.path_of_requests}"
            # Without the value: URLs of other APIs contain a key.
            raise ConfigError(self.path + "url", text)

    def _is_own_url(self) -> bool:
        return self.base_url.lower() in self.region_urls.values()

    def urls_to_reach(self) -> Iterable[str]:
        """Return the URL of the region."""
        return [self.base_url]


@dataclass(frozen=True, kw_only=True)
class PagerDutyConfig(_RegionalConfig):
    """PagerDuty: Events API v2.

    Attributes:
        routing_key: the integration key of a service or a ruleset.
        resolve_on_no_data: whether an alert whose data stopped resolves its incident;
            otherwise the incident stays open with `NO DATA`.
    """

    region_urls = PAGERDUTY_URLS
    domain = ".pagerduty.com"
    path_of_requests = "/v2/enqueue"

    # PagerDuty accepts 120 a minute for each integration key.
    rate: RateText = "100/m"
    routing_key: Secret
    resolve_on_no_data: bool = False


@dataclass(frozen=True, kw_only=True)
class OpsgenieConfig(_RegionalConfig):
    """Opsgenie, or Jira Service Management: the Alert API.

    Attributes:
        api_key: the key of an integration of type API.
        url: overrides the region's URL, such as
            `https://api.atlassian.com/jsm/ops/integration` for Jira Service Management.
        tags: tags of each alert, besides its severity and its labels.
        resolve_on_no_data: whether an alert whose data stopped is closed; otherwise it
            stays open with `NO DATA`.
    """

    region_urls = OPSGENIE_URLS
    domain = ".opsgenie.com"
    path_of_requests = "/v2/alerts"

    api_key: Secret
    tags: tuple[str, ...] = ()
    resolve_on_no_data: bool = False
