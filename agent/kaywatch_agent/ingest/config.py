"""Where clients push to (`[ingest]`)."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import Final

from kaywatch_agent.ingest.access import Access
from kaywatch_agent.ingest.brokers import BrokerConfig
from kaywatch_agent.ingest.quotas import Quotas
from kaywatch_agent.runtime.sockets import check_mode, group_number
from kaywatch_agent.settings.reader import Size
from kaywatch_agent.units import parse_size

__all__ = ["IngestConfig"]

# A connection holds its socket and its process's pidfd. The rest of the descriptors is
# for HTTP, the store, and files that come and go.
DESCRIPTORS_EACH: Final = 2
DESCRIPTORS_KEPT: Final = 512


@dataclass(frozen=True)
class IngestConfig:
    """The socket that clients push to, and the brokers that they push by.

    Attributes:
        socket: its path; by default `/run/kaywatch/ingest.sock` for a service and
            root, and `$XDG_RUNTIME_DIR/kaywatch/ingest.sock` for other users, which
            is where clients look.
        mode: its permissions, in octal digits; who may write may push.
        group: the group that it belongs to, by name or number; by default the agent's.
        allow_uids: users who may push, by name or number.
        allow_gids: groups whose members may. With both lists empty whoever the socket's
            permissions let in; root and the agent's own user always may.
        connections_per_process: connections that one process may have.
        connections_per_user: connections that all processes of a user may have.
        rate_per_process: bytes a second that one process may send; "0" for any.
        mqtt: the brokers, none by default.
    """

    socket: str = ""
    mode: str = "0660"
    group: str = ""
    allow_uids: tuple[str, ...] = ()
    allow_gids: tuple[str, ...] = ()
    connections_per_process: int = 2_000
    connections_per_user: int = 8_000
    rate_per_process: Size = "128MB"
    mqtt: tuple[BrokerConfig, ...] = ()

    def __post_init__(self) -> None:
        check_mode(self.mode)
        for key in ("connections_per_process", "connections_per_user"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} = {getattr(self, key)}: at least 1")
        # A name that is not there is told now, and not by the first who is refused.
        Access.named(self.allow_uids, self.allow_gids)
        if self.group:
            group_number("group", self.group)
        labels = [broker.label for broker in self.mqtt]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"mqtt: {label} is there twice")

    @property
    def access(self) -> Access:
        """Who may push."""
        return Access.named(self.allow_uids, self.allow_gids)

    @property
    def quotas(self) -> Quotas:
        """How much one of them may."""
        return Quotas(
            self.connections_per_process,
            self.connections_per_user,
            _room(),
            float(parse_size(self.rate_per_process)),
        )

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


def _room() -> int:
    """Return how many connections the limit on open files leaves room for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return Quotas.connections
    return max(16, (limit - DESCRIPTORS_KEPT) // DESCRIPTORS_EACH)
