"""The brokers that clients of other hosts push to (`[[ingest.mqtt]]`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields

from kaywatch._send.broker import Broker, parse

__all__ = ["BrokerConfig"]

# Of `kaywatch._send.broker.Broker`, under other names here or not at all.
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
    """One broker.

    Attributes:
        url: where it is: `mqtts://host:8883/kaywatch`; the path is what topics begin
            with, `kaywatch` by default.
        client_id: the agent's name there; by default `kaywatch-HOST-` and eight digits
            that stand for the prefix. The broker keeps a session for it.
        username: its account there.
        password, password_file, password_env: the account's password, or where it is.
        ca: a file of certificates to trust, by default the system's.
        cert, key: files with the agent's own certificate, and the certificate's key.
        session_seconds: how long the broker keeps messages for an agent that is away.
        grace_seconds: how long a client may be away until it is taken for dead. It is
            back within three seconds of a lost connection, once it can be; a broker
            that is restarted takes longer.
        publish_alerts: whether those who may read there are told of alerts.
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
        _ = self.broker
        for name in ("session_seconds", "grace_seconds"):
            if not 0 <= getattr(self, name) < 2**32 - 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected seconds")
        if sum(map(bool, (self.password, self.password_file, self.password_env))) > 1:
            raise ValueError("password, password_file, password_env: give one of them")

    @property
    def broker(self) -> Broker:
        """It as client and agent understand it.

        Raises:
            ValueError: naming what can't be used.
        """
        named = {
            key.name: str(getattr(self, key.name))
            for key in fields(self)
            if key.name not in _OWN
        }
        return parse(self.url, user=self.username, **named)

    @property
    def label(self) -> str:
        """What it is called in figures, logs and lists: host, port and prefix."""
        broker = self.broker
        return f"{broker.host}:{broker.port}/{broker.prefix}"

    def default_id(self, host: str) -> str:
        """Return the name of an agent on a host: the same after a restart."""
        digest = hashlib.sha256(self.broker.prefix.encode()).hexdigest()
        return f"kaywatch-{host}-{digest[:8]}"
