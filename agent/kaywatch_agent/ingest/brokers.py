"""The brokers that clients on other hosts push to (`[[ingest.mqtt]]`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields

from kaywatch._send.broker import Broker, parse
from kaywatch_agent.errors import InvalidValue

__all__ = ["BrokerConfig"]

# Keys that `kaywatch._send.broker.parse` does not take, or takes by another name.
_OWN = (
    "url",
    "client_id",
    "username",
    "session_seconds",
    "grace_seconds",
    "publish_alerts",
)


@dataclass(frozen=True)
class BrokerConfig:
    """An MQTT broker to read from.

    Attributes:
        url: the address, such as `mqtts://host:8883/kaywatch`; the path is the prefix
            of all topics, `kaywatch` by default.
        client_id: the agent's MQTT client id; by default `kaywatch-HOST-` and eight
            hexadecimal digits derived from the prefix. The broker keeps a session
            under it.
        username: the agent's account at the broker.
        password, password_file, password_env: the account's password, or where it is.
        ca: a file of trusted CA certificates; by default those of the system.
        cert: a file with the agent's own certificate.
        key: a file with the key of `cert`.
        session_seconds: how long the broker keeps messages while the agent is offline.
        grace_seconds: how long a client may be disconnected before it is considered
            dead. A client reconnects within three seconds of a lost connection; a
            restart of the broker takes longer.
        publish_alerts: whether to publish alerts to the broker's topics.
    """

    url: str
    client_id: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    password_env: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    session_seconds: int = 3600
    grace_seconds: int = 30
    publish_alerts: bool = False

    def __post_init__(self) -> None:
        try:
            _ = self.broker
        except ValueError as error:
            raise InvalidValue("url", str(error).removeprefix("endpoint ")) from None
        for name in ("session_seconds", "grace_seconds"):
            if not 0 <= getattr(self, name) < 2**32 - 1:
                raise InvalidValue(
                    name, f"{getattr(self, name)}: expected 0 to 4294967294"
                )
        if sum(map(bool, (self.password, self.password_file, self.password_env))) > 1:
            raise InvalidValue(
                "password", "set only one of password, password_file, password_env"
            )

    @property
    def broker(self) -> Broker:
        """The broker's address, account and TLS files.

        Raises:
            ValueError: a key has an invalid value; the message names it.
        """
        options = {
            key.name: str(getattr(self, key.name))
            for key in fields(self)
            if key.name not in _OWN
        }
        return parse(self.url, user=self.username, **options)

    @property
    def label(self) -> str:
        """The broker's name in metrics, logs and lists: host, port and prefix."""
        broker = self.broker
        return f"{broker.host}:{broker.port}/{broker.prefix}"

    def default_id(self, host: str) -> str:
        """Return the default client id on a host. It is stable across restarts."""
        digest = hashlib.sha256(self.broker.prefix.encode()).hexdigest()
        return f"kaywatch-{host}-{digest[:8]}"
