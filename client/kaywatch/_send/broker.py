"""A broker: its address, our account there, and the version of MQTT it speaks.

Client and agent share this module. It never shows a password.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, unquote, urlsplit

from kaywatch import wire
from kaywatch.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

__all__ = [
    "SCHEMES",
    "Broker",
    "PacketLimit",
    "MqttVersion",
    "from_environment",
    "parse",
    "without_secret",
]

# The port that IANA registered for each scheme.
SCHEMES: Final = {"mqtt": 1883, "mqtts": 8883}

MAX_PREFIX: Final = 200  # characters; a topic has at most 65,535 bytes

# Fields of `Broker` by the variable that sets them.
VARIABLES: Final = {
    "KAYWATCH_MQTT_PASSWORD": "password",
    "KAYWATCH_MQTT_PASSWORD_FILE": "password_file",
    "KAYWATCH_MQTT_CA": "ca",
    "KAYWATCH_MQTT_CERT": "cert",
    "KAYWATCH_MQTT_KEY": "key",
}


# The limit is not reduced further: some names and one traceback must fit.
SMALLEST_LIMIT: Final = 4_096

log = logging.getLogger("kaywatch")


@dataclass(frozen=True)
class Broker:
    """The address of a broker, and our account there.

    Attributes:
        host, port, tls: where it listens, and whether with TLS.
        prefix: begins our topics.
        user: our name there; empty for none.
        password_file, password_env: where to read the password, if not in `password`.
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
        """The broker in one line, without the password."""
        scheme = "mqtts" if self.tls else "mqtt"
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{user}{host}:{self.port}/{self.prefix}"

    def secret(self) -> str | None:
        """Return the password; read again each time, since files are replaced.

        Raises:
            ConfigurationError: the file or the variable cannot be read.
        """
        if self.password_env:
            password = os.environ.get(self.password_env)
            if password is None:
                raise ConfigurationError(f"{self.password_env} is not set")
            return password
        if not self.password_file:
            return self.password or None
        try:
            with open(self.password_file, encoding="utf-8") as file:
                return file.read(65_536).strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ConfigurationError(
                f"cannot read the password file {self.password_file}: {reason}"
            ) from None

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS settings for a connection; None without TLS.

        Raises:
            ConfigurationError: a certificate or key cannot be read.
        """
        if not self.tls:
            return None
        import ssl

        files = f"the CA {self.ca}"
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.cert:
                files = (
                    f"the certificate {self.cert} with its key {self.key or 'inside'}"
                )
                context.load_cert_chain(self.cert, self.key or None)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(f"cannot use {files}: {error}") from None
        return context


class MqttVersion:
    """The MQTT version to use with a broker: 5 if it can, else 3.1.1.

    Attributes:
        is_5: whether to use MQTT 5 for the next connection.
    """

    def __init__(self) -> None:
        self.is_5 = True
        self._confirmed = False

    def confirm(self) -> None:
        """Keep this version: the broker accepted a connection with it."""
        self._confirmed = True

    def switch(self) -> bool:
        """Use the other version from now on; return whether it is 3.1.1.

        Called when the broker reports that it does not support this version.
        """
        self.is_5 = not self.is_5
        self._confirmed = False
        return not self.is_5

    def switch_if_unconfirmed(self) -> bool:
        """Switch after the broker closed the connection without a reason.

        An old broker does that for MQTT 5, and any broker when it stops. If it accepted
        this version before, it is the latter.
        """
        return not self._confirmed and self.switch()


class PacketLimit:
    """The largest message that a broker takes, learned if it does not announce it.

    Such a broker closes the connection when it receives a larger message. A connection
    can end for other reasons too, so one such end proves nothing.

    Attributes:
        largest: bytes of a message; kept for all connections of the process.
    """

    def __init__(self) -> None:
        self.largest = wire.MAX_FRAME
        self._suspected = 0  # bytes of the message before the last such end

    def confirm(self, size: int) -> None:
        """Note that the broker accepted a message."""
        if size >= self._suspected:
            self._suspected = 0

    def suspect(self, size: int, is_certain: bool) -> None:
        """Note that a connection ended after a message of `size` bytes."""
        if size <= SMALLEST_LIMIT:
            return
        if not is_certain and size != self._suspected:
            self._suspected = size
            return
        self._suspected = 0
        self.largest = max(SMALLEST_LIMIT, size // 2)
        log.warning(
            "the broker closes the connection after a message of %d bytes, without"
            " announcing a limit; kaywatch sends at most %d bytes at once from now on"
            " (mosquitto: message_size_limit)",
            size,
            self.largest,
        )


def parse(url: str, **settings: str) -> Broker:
    """Return the broker at a URL such as `mqtts://user@host:8883/prefix`.

    Args:
        url: where it is; a password in it works, but files are safer.
        settings: other fields of `Broker`, such as `ca`; empty ones are ignored.

    Raises:
        ConfigurationError: naming the problem and the URL without its password.
    """
    fields = {key: value for key, value in settings.items() if value}
    try:
        parts = urlsplit(url)
        port = parts.port
        _check(parts, fields)
        prefix = _prefix(unquote(parts.path))
    except ConfigurationError as error:
        raise ConfigurationError(f"endpoint {without_secret(url)!r}: {error}") from None
    except ValueError:
        raise ConfigurationError(
            f"endpoint {without_secret(url)!r}: the host is missing or the port is not"
            " from 1 to 65535; expected mqtt://host:1883/kaywatch"
        ) from None
    fields.setdefault("user", unquote(parts.username or ""))
    if not {"password", "password_file", "password_env"} & fields.keys():
        fields["password"] = unquote(parts.password or "")
    tls = parts.scheme == "mqtts"
    host = parts.hostname or ""
    return Broker(host, port or SCHEMES[parts.scheme], tls, prefix, **fields)


def from_environment(url: str, environment: Mapping[str, str] = os.environ) -> Broker:
    """Return the broker at a URL, with the settings of `VARIABLES`.

    Raises:
        ConfigurationError: as of `parse`.
    """
    return parse(
        url, **{name: environment.get(key, "") for key, name in VARIABLES.items()}
    )


def without_secret(url: str) -> str:
    """Return a URL with its password masked."""
    head, slashes, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    user, colon, _ = account.partition(":")
    return f"{head}{slashes}{user}{':***' if colon else ''}{at}{host}"


def _check(parts: SplitResult, fields: Mapping[str, str]) -> None:
    if parts.scheme not in SCHEMES:
        raise ConfigurationError(
            f"unknown scheme {parts.scheme!r};"
            " expected mqtt://host:1883/kaywatch or mqtts://host:8883/kaywatch"
        )
    if not parts.hostname or parts.port == 0:
        raise ConfigurationError(
            "the host is missing or the port is 0; expected mqtt://host:1883/kaywatch"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(
            "? and # are not allowed; set a password with KAYWATCH_MQTT_PASSWORD_FILE"
        )
    tls_files = sorted(fields.keys() & {"ca", "cert", "key"})
    if parts.scheme == "mqtt" and tls_files:
        raise ConfigurationError(f"{' and '.join(tls_files)} need TLS; use mqtts://")
    if "key" in fields and "cert" not in fields:
        raise ConfigurationError(
            "a key needs its certificate; set cert, or KAYWATCH_MQTT_CERT for a client"
        )


def _prefix(path: str) -> str:
    prefix = path.strip("/") or wire.MQTT_PREFIX
    if prefix.startswith("$share"):
        raise ConfigurationError(
            "$share is not allowed: a shared subscription splits the messages of a"
            " client among several agents; give each agent its own prefix"
        )
    if prefix[0] == "$" or set(prefix) & set("+#\0") or len(prefix) > MAX_PREFIX:
        raise ConfigurationError(
            f"invalid topic prefix {prefix[:80]!r}: expected at most {MAX_PREFIX}"
            " characters, without + and #, and without $ at the start"
        )
    return prefix
