"""Checks the files and variables to which keys of receivers refer, and their content.

A defect keeps a receiver from working. The agent starts nevertheless, because a missing
file may appear later, and reports the defect on `/health`. A warning is about a risk.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config import (
    DiscordConfig,
    HeartbeatConfig,
    PagerDutyConfig,
    ReceiverConfig,
    SlackConfig,
    TeamsConfig,
    WebhookConfig,
)
from kaywatch_agent.notify.secret import Secret
from kaywatch_agent.notify.signing import sign_standard
from kaywatch_agent.settings.reader import check_url

__all__ = ["ConfigNote", "find_defects", "find_warnings"]

KEY_LENGTH: Final = 32  # of an integration key of PagerDuty

# The secrets that are URLs.
_URLS: Final = frozenset({"url", "webhook_url"})

# The secrets that are keys or tokens, and what these consist of.
_KEYS: Final = frozenset({"routing_key", "api_key", "bot_token"})
_KEY: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")

# Such as a receiver on this host for a first try.
_HOST_ALONE: Final = re.compile(r"https?://[^/?#@]*/?")

# The ends of known services' hosts, and the type of receiver for each.
_HOSTS: Final = {
    "hooks.slack.com": "slack",
    "events.pagerduty.com": "pagerduty",
    "events.eu.pagerduty.com": "pagerduty",
    "api.opsgenie.com": "opsgenie",
    "api.eu.opsgenie.com": "opsgenie",
    "discord.com": "discord",
    "discordapp.com": "discord",
    "logic.azure.com": "teams",
    "api.powerplatform.com": "teams",
}
# Of connectors of Office 365, which Microsoft has retired.
RETIRED: Final = "webhook.office.com"

_BY_URL: Final = (SlackConfig, TeamsConfig, DiscordConfig, WebhookConfig)


class ConfigNote(NamedTuple):
    """A defect or a risk of a key, and its fix."""

    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.text}; {self.fix}"


def find_defects(
    receivers: Mapping[str, ReceiverConfig], heartbeat: HeartbeatConfig
) -> list[ConfigNote]:
    """Return the defects because of which receivers or the heartbeat cannot work."""
    notes = [
        note
        for config in receivers.values()
        for name, secret in config.secrets().items()
        for note in _check_secret(config, name, secret)
    ]
    if heartbeat.url is not None:
        notes += _check_secret(None, "url", heartbeat.url)
    return notes


def find_warnings(
    receivers: Mapping[str, ReceiverConfig], heartbeat: HeartbeatConfig
) -> list[ConfigNote]:
    """Return the secrets that the configuration or other users' permissions expose."""
    secrets = [one for config in receivers.values() for one in config.secrets().items()]
    if heartbeat.url is not None:
        secrets.append(("url", heartbeat.url))
    notes = []
    for name, secret in secrets:
        if not secret.source and _may_be_secret(name, secret.location):
            fix = f"set {name}_file, with mode 0600, or {name}_credential"
            text = f"{secret.key}: the configuration file contains a secret"
            notes.append(ConfigNote(text, fix))
        elif secret.source == "_file":
            notes += _check_mode(secret)
    return notes


# -- inside --------------------------------------------------------------------------


def _may_be_secret(name: str, value: str) -> bool:
    """Return whether a value is more than a URL of a host, without a path or a user."""
    return name not in _URLS or not _HOST_ALONE.fullmatch(value)


def _check_secret(
    config: ReceiverConfig | None, name: str, secret: Secret
) -> Iterator[ConfigNote]:
    try:
        value = secret.read()
        if name in _URLS:
            check_url(secret.key, value)
    except ConfigError as error:
        yield ConfigNote(str(error), "correct the key, the file or the variable")
        return
    if name in _URLS:
        yield from _check_host(config, secret, value)
    elif isinstance(config, PagerDutyConfig) and len(value) != KEY_LENGTH:
        yield ConfigNote(
            f"{secret.key}: {len(value)} characters, expected {KEY_LENGTH}",
            "copy the integration key of an integration of type Events API v2",
        )
    elif name in _KEYS and not _KEY.fullmatch(value):
        yield ConfigNote(
            f"{secret.key}: contains a space, a quote or another invalid character",
            "write the key alone",
        )
    elif isinstance(config, WebhookConfig) and config.signature == "standard":
        try:
            sign_standard(value, "", 0, b"")
        except ValueError:
            text = f"{secret.key}: invalid secret"
            yield ConfigNote(text, "expected whsec_ followed by base64")


def _check_host(
    config: ReceiverConfig | None, secret: Secret, value: str
) -> Iterator[ConfigNote]:
    if config is None or not isinstance(config, _BY_URL):
        return
    host = f".{urlsplit(value).hostname or ''}"
    if host.endswith(f".{RETIRED}"):
        yield ConfigNote(
            f"{secret.key}: the URL of an Office 365 connector, which is retired",
            'create a workflow, and set its URL with type = "teams"',
        )
    kinds = (kind for end, kind in _HOSTS.items() if host.endswith(f".{end}"))
    kind = next(kinds, config.type)
    # A workflow may also be an application of one's own.
    if kind == config.type or (kind == "teams" and config.type == "webhook"):
        return
    yield ConfigNote(
        f'{secret.key}: a URL for type = "{kind}", but the type is "{config.type}"',
        f'set type = "{kind}"',
    )


def _check_mode(secret: Secret) -> Iterator[ConfigNote]:
    try:
        mode = stat.S_IMODE(Path(secret.location).stat().st_mode)
    except OSError:
        return  # a defect already
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        yield ConfigNote(
            f"{secret.key}: every user can access {secret.location} ({mode:04o})",
            f"chmod 0600 {secret.location}",
        )
