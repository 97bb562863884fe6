"""Where clients push to (`[ingest]`)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kaywatch_agent.ingest.brokers import BrokerConfig

__all__ = ["IngestConfig"]


@dataclass(frozen=True)
class IngestConfig:
    """The socket that clients push to, and the brokers that they push by.

    Attributes:
        socket: its path; by default `/run/kaywatch/ingest.sock` for a service and
            root, and `$XDG_RUNTIME_DIR/kaywatch/ingest.sock` for other users, which
            is where clients look.
        mode: its permissions, in octal digits; who may write may push.
        mqtt: the brokers, none by default.
    """

    socket: str = ""
    mode: str = "0660"
    mqtt: tuple[BrokerConfig, ...] = ()

    def __post_init__(self) -> None:
        try:
            wrong = not 0 <= int(self.mode, 8) <= 0o777
        except ValueError:
            wrong = True
        if wrong:
            raise ValueError(f'mode = "{self.mode}": expected octal digits, as "0660"')
        labels = [broker.label for broker in self.mqtt]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"mqtt: {label} is there twice")

    @property
    def permissions(self) -> int:
        """The mode as a number."""
        return int(self.mode, 8)

    @property
    def path(self) -> str:
        """The socket's path, the default one when none is set."""
        return self.socket or default_path()


def default_path() -> str:
    """Return where clients look for the agent: a service's, or this user's."""
    service = os.environ.get("RUNTIME_DIRECTORY")  # systemd.exec(5)
    if service:
        return os.path.join(service.split(":")[0], "ingest.sock")
    if os.geteuid() == 0:
        return "/run/kaywatch/ingest.sock"
    user = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return os.path.join(user, "kaywatch", "ingest.sock")
