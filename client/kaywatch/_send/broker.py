"""A broker: where it is, who we are there, and which version of MQTT it speaks.

Client and agent read it alike. A password is never part of what is shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from kaywatch import wire
from kaywatch.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

__all__ = [
    "SCHEMES",
    "AgentStatus",
    "Broker",
    "MqttVersion",
    "from_environment",
    "parse",
    "without_secret",
]

# By scheme, the port that is registered for it.
SCHEMES: Final = {"mqtt": 1883, "mqtts": 8883}

MAX_PREFIX: Final = 200  # characters; a topic has at most 65,535 bytes


@dataclass(frozen=True)
class Broker:
    """Where a broker is, and who we are there.

    Attributes:
        host, port, tls: where it listens, and how.
        prefix: what our topics begin with.
        user: our name there; empty for none.
        password_file, password_env: where the password is, if not in `password`.
        ca: a file of certificates to trust; empty for the system's.
        cert, key: files with our own certificate and its key.
    """

    host: str
    port: int
    tls: bool = False
    prefix: str = wire.MQTT_PREFIX
    user: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    password_env: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def url(self) -> str:
        """It in one line, without the password."""
        scheme = "mqtts" if self.tls else "mqtt"
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{user}{host}:{self.port}/{self.prefix}"

    def secret(self) -> str | None:
        """Return the password; read anew each time, since files are replaced.

        Raises:
            ConfigurationError: it is not where it should be.
        """
        if self.password_env:
            found = os.environ.get(self.password_env)
            if found is None:
                raise ConfigurationError(f"{self.password_env} is not set")
            return found
        if not self.password_file:
            return self.password or None
        try:
            with open(self.password_file, encoding="utf-8") as file:
                return file.read(65_536).strip()
        except (OSError, UnicodeDecodeError) as error:
            text = getattr(error, "strerror", None) or "it is no text"
            raise ConfigurationError(
                f"can't read the password in {self.password_file}: {text}"
            ) from None

    def context(self) -> ssl.SSLContext | None:
        """Return how to speak TLS with it; None for not at all.

        Raises:
            ConfigurationError: a certificate or key can't be read.
        """
        if not self.tls:
            return None
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca or None)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(f"can't use the CA {self.ca}: {error}") from None
        if self.cert:
            try:
                context.load_cert_chain(self.cert, self.key or None)
            except OSError as error:
                files = f"{self.cert} with the key {self.key or 'in it'}"
                raise ConfigurationError(f"can't use {files}: {error}") from None
        return context


class AgentStatus(Enum):
    """What a broker says of the agent."""

    AWAY = auto()
    HERE = auto()  # as the broker remembers, from before we came
    ARRIVED = auto()  # just now


class MqttVersion:
    """Which MQTT a broker speaks: 5 if it can, else 3.1.1. Remembers what worked."""

    def __init__(self) -> None:
        self.five = True
        self._known = False  # this version has worked

    def worked(self) -> None:
        """It has let us in."""
        self._known = True

    def refused(self) -> bool:
        """It says that it doesn't know this version; return whether 3.1.1 is next."""
        self.five = not self.five
        self._known = False
        return not self.five

    def hung_up(self) -> bool:
        """It closed the connection without a word; return whether 3.1.1 is next.

        So does a broker that knows no MQTT 5, or one that is about to stop: if it has
        let us in before, the latter.
        """
        return not self._known and self.refused()


def parse(url: str, **settings: str) -> Broker:
    """Return the broker at a URL such as `mqtts://user@host:8883/prefix`.

    Args:
        url: where it is; a password in it works, but files are safer.
        settings: of `Broker`, such as `ca`; empty ones count as not given.

    Raises:
        ConfigurationError: naming what can't be used.
    """
    shown = without_secret(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(
            f"endpoint {shown!r}: no host or no port from 1 to 65535, as in"
            " mqtt://host:1883/kaywatch"
        ) from None
    if parts.scheme not in SCHEMES:
        raise ConfigurationError(
            f"endpoint {shown!r}: unknown scheme {parts.scheme!r};"
            " write mqtt://host:1883/kaywatch or mqtts://host:8883/kaywatch"
        )
    if not parts.hostname or port == 0:
        raise ConfigurationError(
            f"endpoint {shown!r}: no host or port, as in mqtt://host:1883/kaywatch"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(
            f"endpoint {shown!r}: ? and # have no meaning here; a password is best"
            " given by KAYWATCH_MQTT_PASSWORD_FILE"
        )
    given = {key: value for key, value in settings.items() if value}
    tls = parts.scheme == "mqtts"
    if not tls and (used := sorted(given.keys() & {"ca", "cert", "key"})):
        raise ConfigurationError(
            f"endpoint {shown!r}: {' and '.join(used)} need TLS; write mqtts://"
        )
    if "key" in given and "cert" not in given:
        raise ConfigurationError(f"endpoint {shown!r}: a key without a certificate")
    known = {"user": unquote(parts.username or ""), **given}
    if not {"password", "password_file", "password_env"} & given.keys():
        known["password"] = unquote(parts.password or "")
    prefix = _prefix(unquote(parts.path), shown)
    return Broker(parts.hostname, port or SCHEMES[parts.scheme], tls, prefix, **known)


def from_environment(url: str, environment: Mapping[str, str] = os.environ) -> Broker:
    """Return the broker at a URL, with KAYWATCH_MQTT_PASSWORD and its like.

    Raises:
        ConfigurationError: naming what can't be used.
    """
    names = {
        "password": "KAYWATCH_MQTT_PASSWORD",
        "password_file": "KAYWATCH_MQTT_PASSWORD_FILE",
        "ca": "KAYWATCH_MQTT_CA",
        "cert": "KAYWATCH_MQTT_CERT",
        "key": "KAYWATCH_MQTT_KEY",
    }
    return parse(url, **{key: environment.get(name, "") for key, name in names.items()})


def without_secret(url: str) -> str:
    """Return a URL as it may be shown."""
    head, slashes, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    user, colon, _ = account.partition(":")
    return f"{head}{slashes}{user}{':***' if colon else ''}{at}{host}"


def _prefix(path: str, shown: str) -> str:
    prefix = path.strip("/") or wire.MQTT_PREFIX
    if prefix.startswith("$share"):
        raise ConfigurationError(
            f"endpoint {shown!r}: a shared subscription gives each message to any of"
            " several agents, and one client's numbers have to stay with one of them;"
            " give each agent a prefix of its own"
        )
    if prefix[0] == "$" or set(prefix) & set("+#\0") or len(prefix) > MAX_PREFIX:
        raise ConfigurationError(
            f"endpoint {shown!r}: the prefix of topics has at most {MAX_PREFIX}"
            " characters, no + or #, and no $ at its beginning"
        )
    return prefix
